"""The prompt on a terminal: `[controller-a] system failover> `, and above it, live, how both controllers are."""

import asyncio
import shutil
import signal
import sys
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.patch_stdout import patch_stdout

from middlewared import __version__
from middlewared.cli.explain import OK
from middlewared.cli.shell import statusline
from middlewared.cli.shell.board import STATUS, Board
from middlewared.cli.shell.completion import ShellCompleter
from middlewared.cli.shell.history import open_history
from middlewared.cli.shell.lines import Exit, Interpreter
from middlewared.cli.shell.session import Session
from middlewared.cli.shell.style import STYLE
from middlewared.cli.usage import PROGRAM


class Prompt:
    def __init__(self, session: Session, interpreter: Interpreter) -> None:
        self._session = session
        self._interpreter = interpreter
        self._board = Board(session, STATUS, self._refresh)
        self._prompt: PromptSession[str] = PromptSession(
            self._message,
            completer=ShellCompleter(interpreter),
            complete_while_typing=False,
            history=open_history(interpreter.may_be_kept),
            key_bindings=self._keys(),
            vi_mode=True,  # as the stock command line has it (PROTOCOL 9.5); who never presses Esc does not notice
            style=STYLE,
        )

    async def run(self) -> int:
        """Until the user leaves. What is wrong with a line is said and forgotten: leaving is always exit code 0."""
        signal.signal(signal.SIGINT, lambda number, frame: None)  # between two prompts Ctrl-C ends nothing
        print(f"{PROGRAM} {__version__}: Tab completes, ? helps, exit or Ctrl-D leaves.")
        following = asyncio.create_task(self._board.run(), name="status line")
        try:
            while True:
                try:
                    with patch_stdout(raw=True):
                        text = await self._prompt.prompt_async()
                except KeyboardInterrupt:
                    continue
                except EOFError:
                    break
                try:
                    await self._interpreter.run(text)
                except Exit:
                    break
                sys.stdout.flush()
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        return OK

    def _message(self) -> StyleAndTextTuples:
        where = " ".join(self._interpreter.here)
        prompt: StyleAndTextTuples = [("class:label", f"[{self._session.hostname}]{' ' + where if where else ''}> ")]
        if get_app().is_done:  # what scrolls away is the command alone: the status would be old there
            return prompt
        columns = shutil.get_terminal_size().columns
        status = statusline.line(self._board.answers, connected=self._session.connected, columns=columns)
        return [*status, ("", "\n"), *prompt] if status else prompt

    def _refresh(self) -> None:
        if self._prompt.app.is_running:
            self._prompt.app.invalidate()

    @staticmethod
    def _keys() -> KeyBindings:
        keys = KeyBindings()

        @keys.add("c-e")
        def edit(event: KeyPressEvent) -> Any:
            """What stands there, as YAML in $EDITOR."""
            buffer = event.current_buffer
            if buffer.text.strip():
                buffer.text = f"{buffer.text.rstrip()} --editor"
                buffer.cursor_position = len(buffer.text)
                buffer.validate_and_handle()

        return keys
