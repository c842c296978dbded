"""A program in a pseudo-terminal, and what a human would see of it: pexpect holds the keys, pyte is the screen."""

import copy
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pexpect
import pyte

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 20.0  # for what takes a moment: machines that run tests are busy
MIDCTL = "import sys; from middlewared.cli.main import main; sys.exit(main())"

ESCAPE, ENTER, TAB, UP, DOWN, LEFT, RIGHT = "\x1b", "\r", "\t", "\x1b[A", "\x1b[B", "\x1b[D", "\x1b[C"
BACKSPACE, CTRL_C, CTRL_D, CTRL_E, CTRL_S = "\x7f", "\x03", "\x04", "\x05", "\x13"


class Screen(pyte.Screen):
    """With what pyte leaves out: the second screen of full-screen programs, and answers to the program's questions."""

    def __init__(self, columns: int, lines: int, answer: Callable[[str], Any]) -> None:
        self._answer = answer
        self._first: Any = None
        super().__init__(columns, lines)

    def write_process_input(self, data: str) -> None:
        self._answer(data)

    def set_mode(self, *modes: int, **more: Any) -> None:
        super().set_mode(*modes, **more)
        if 1049 in modes and self._first is None:
            self._first = (copy.deepcopy(self.buffer), copy.copy(self.cursor))
            self.erase_in_display(2)

    def reset_mode(self, *modes: int, **more: Any) -> None:
        super().reset_mode(*modes, **more)
        if 1049 in modes and self._first is not None:
            (self.buffer, self.cursor), self._first = self._first, None
            self.dirty.update(range(self.lines))


class Terminal:
    """`with Terminal("--url", url) as terminal`: midctl, as a human runs it."""

    def __init__(
        self,
        *words: str,
        columns: int = 110,
        lines: int = 32,
        environment: Mapping[str, str] | None = None,
        code: str = MIDCTL,
    ) -> None:
        env = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
        env |= {"TERM": "xterm-256color", "PYTHONPATH": str(ROOT), "PAGER": "", **(environment or {})}
        self._child = pexpect.spawn(
            sys.executable, ["-c", code, *words], env=env, dimensions=(lines, columns), cwd=str(ROOT), timeout=TIMEOUT_S
        )
        self._child.delaybeforesend = None
        self.screen = Screen(columns, lines, self._child.send)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self._child.close(force=True)

    @property
    def text(self) -> str:
        """The screen, without the blanks at its right and bottom."""
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip()

    def send(self, *keys: str) -> "Terminal":
        for key in keys:
            self._child.send(key)
        return self

    def click(self, column: int, line: int) -> None:
        """A left click, counted from 0, as xterm tells it (SGR mode 1006)."""
        place = f"{column + 1};{line + 1}"
        self._child.send(f"\x1b[<0;{place}M\x1b[<0;{place}m")

    def click_on(self, text: str) -> None:
        line, column = self.place(text)
        self.click(column + 1, line)

    def place(self, text: str) -> tuple[int, int]:
        """(line, column) of a text on the screen."""
        for number, line in enumerate(self.screen.display):
            if text in line:
                return number, line.index(text)
        raise AssertionError(f"{text!r} is not on the screen:\n{self.text}")

    def until(self, what: str, holds: Callable[[str], bool]) -> str:
        """Take what the program writes until something holds of the screen; returns the screen."""
        deadline = time.monotonic() + TIMEOUT_S  # a clock on the screen never falls silent
        while not holds(self.text):
            try:
                data = self._child.read_nonblocking(65536, timeout=max(deadline - time.monotonic(), 0))
            except pexpect.TIMEOUT:
                raise AssertionError(f"the screen never showed {what}:\n{self.text}") from None
            except pexpect.EOF:
                raise AssertionError(f"the program ended before the screen showed {what}:\n{self.text}") from None
            self.raw += data
            self._stream.feed(data)
        return self.text

    def shows(self, *texts: str) -> str:
        return self.until(" and ".join(map(repr, texts)), lambda screen: all(text in screen for text in texts))

    def hides(self, text: str) -> str:
        return self.until(f"no {text!r}", lambda screen: text not in screen)

    def ends(self) -> int:
        """Wait for the end of the program; returns its exit code, or minus the signal."""
        while True:
            try:
                data = self._child.read_nonblocking(65536, timeout=TIMEOUT_S)
            except pexpect.EOF:
                break
            self.raw += data
            self._stream.feed(data)
        self._child.close()
        if self._child.exitstatus is not None:
            return int(self._child.exitstatus)
        return -int(self._child.signalstatus or 0)
