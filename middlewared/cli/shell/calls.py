"""One command of the shell, from its arguments to what is printed: editor, question, call, job, output."""

import asyncio
import contextlib
import os
import sys
from typing import Any, NamedTuple

from middlewared.cli import dangers, running
from middlewared.cli.arguments import Missing
from middlewared.cli.commands import Command
from middlewared.cli.explain import FAILED, OK
from middlewared.cli.output import render
from middlewared.cli.shell import terminal
from middlewared.cli.shell.session import Session
from middlewared.cli.usage import Options, UsageError
from middlewared.errors import CallError, ValidationErrors


class Wanted(NamedTuple):
    """A command as it was typed."""

    command: Command
    tokens: list[str]
    options: Options
    mode: str
    file: str | None = None


class Caller:
    """`interactive`: somebody sits at a terminal, who can be asked, and edit."""

    def __init__(self, session: Session, *, interactive: bool) -> None:
        self._session = session
        self._interactive = interactive

    async def run(self, wanted: Wanted) -> int:
        """The exit code. Raises what calls raise, and UsageError."""
        command, options = wanted.command, wanted.options
        if options.print_template:
            from middlewared.cli.shell.editor.document import template

            await self._write(template(command), wanted.file)
            return OK
        if wanted.tokens[-1:] == ["--"] or options.editor:
            return await self._edit(wanted)
        try:
            prepared = running.prepare(command, wanted.tokens)
        except Missing:
            if not self._interactive:
                raise
            return await self._edit(wanted)
        only_the_key = command.kind == "crud.update" and prepared.params[1] == {}
        if only_the_key and self._interactive:
            return await self._edit(wanted)
        return await self.perform(prepared, wanted)

    async def perform(self, prepared: running.Prepared, wanted: Wanted) -> int:
        """Ask where it is dangerous, call, and print."""
        if wanted.options.dry_run:
            return await self._rehearse(wanted)
        if not wanted.options.yes and not await self._agreed(prepared):
            print(dangers.GIVEN_UP, file=sys.stderr)
            return FAILED
        command = prepared.command
        result = await self._result(command.method, prepared.params, wanted.mode, job=command.entry.get("job"))
        await self._write(running.output(prepared, result, wanted.mode), wanted.file)
        return OK

    async def run_method(self, method: str, words: list[str], mode: str, file: str | None) -> int:
        """`call METHOD JSON…`: any method; a job's progress is shown."""
        result = await self._result(method, [running.json_argument(word) for word in words], mode, job=True)
        await self._write(render(result, mode), file)
        return OK

    async def _result(self, method: str, params: list[Any], mode: str, *, job: Any) -> Any:
        if job:
            stream = sys.stdout if mode == "table" else sys.stderr  # what programs read is the result alone
            return await terminal.follow(self._session, method, params, stream, interactive=self._interactive)
        call = self._session.call(method, *params)
        return await (terminal.until_done(call) if self._interactive else call)

    async def _agreed(self, prepared: running.Prepared) -> bool:
        danger = dangers.of(prepared.command, prepared.params)
        if danger is None or not self._interactive:
            return True
        rehearsed = None
        if danger.rehearsal:
            with contextlib.suppress(CallError):  # for those who may not rehearse
                rehearsed = await self._session.call(danger.rehearsal)
        sys.stdout.write(dangers.warning(prepared.command, danger, rehearsed))
        return (await terminal.ask(dangers.QUESTION)).lower() == "yes"

    async def _rehearse(self, wanted: Wanted) -> int:
        result = await self._session.call(dangers.rehearsal_of(wanted.command))
        await self._write(render(result, wanted.mode, whole=True), wanted.file)
        return OK if result.get("would_work") else FAILED

    async def _edit(self, wanted: Wanted) -> int:
        """Fill in the arguments until the server takes them, or the user gives up."""
        from middlewared.cli.shell.editor import Editor, from_text

        command = wanted.command
        if command.entry.get("filterable"):
            raise UsageError(f"{command.path} takes columns and an expression: there is nothing to fill in")
        if not self._interactive:
            params = from_text(command, sys.stdin.read())
            return await self.perform(running.Prepared(command, params, []), wanted)
        editor = Editor(self._session, command, wanted.tokens)
        await editor.look_up()
        by_text = wanted.options.editor
        while True:
            edited = await (editor.by_text() if by_text else editor.by_form())
            if edited is None:
                print(dangers.GIVEN_UP, file=sys.stderr)
                return FAILED
            try:
                return await self.perform(running.Prepared(command, edited, []), wanted)
            except (ValidationErrors, CallError) as error:
                editor.refused(error)

    async def _write(self, text: str, file: str | None) -> None:
        if file is None:
            await terminal.show(text, paged=self._interactive)
            return
        await asyncio.to_thread(_save, file, text)


def _save(file: str, text: str) -> None:
    try:
        with open(os.path.expanduser(file), "w", encoding="utf-8", newline="") as target:
            target.write(text)
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error.strerror}") from error
