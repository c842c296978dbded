"""A job of a one-shot command: followed to its end, or let go. The shell has its own way (shell/running.py)."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

from middlewared.cli.explain import Detached
from middlewared.cli.progress import ProgressBar, ProgressPrinter

if TYPE_CHECKING:
    from middlewared.client.blocking import BlockingClient

QUESTION = "Ctrl-C: [d]etach (the job goes on), [a]bort the job, or Enter to go on watching? "


def follow(client: "BlockingClient", method: str, params: list[Any], stream: TextIO, timeout_s: float | None) -> Any:
    """The job's result. `stream` shows its progress: a bar if it is a terminal. Raises Detached."""
    if not (stream.isatty() and sys.stdin.isatty()):

        def write(line: str) -> None:
            stream.write(line)
            stream.flush()  # whoever waits for a job sees it move, through a pipe too

        return client.call_job(method, *params, on_progress=ProgressPrinter(write), timeout_s=timeout_s)
    drawn = Drawn(stream)
    with _interrupts() as pressed:

        def idle() -> None:
            drawn.draw()
            if pressed:
                pressed.clear()
                _ask(client, drawn)

        try:
            return client.call_job(method, *params, on_progress=drawn.update, timeout_s=timeout_s, on_idle=idle)
        finally:
            drawn.end()


class Drawn:
    """A progress bar on a terminal, always on the same line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._shown = ""
        self.bar = ProgressBar()

    def update(self, job: dict[str, Any]) -> None:
        self.bar.update(job, time.monotonic())
        self.draw()

    def draw(self) -> None:
        if not self.bar.job:
            return
        line = self.bar.line(time.monotonic(), _columns(self._stream))
        if line != self._shown:
            self._stream.write(f"\r\x1b[K{line}")
            self._stream.flush()
            self._shown = line

    def end(self) -> None:
        """Leave the bar as it is, and go on below it."""
        self.draw()
        if self._shown:
            self._stream.write("\n")
            self._stream.flush()
            self._shown = ""


def _ask(client: "BlockingClient", drawn: Drawn) -> None:
    drawn.end()
    answer = input(QUESTION).strip().lower()[:1]
    if answer == "d":
        raise Detached(drawn.bar.job_id)
    if answer == "a":
        client.call("core.job_abort", drawn.bar.job_id)


@contextlib.contextmanager
def _interrupts() -> Iterator[list[int]]:
    """What Ctrl-C leaves behind: a note, and no exception, which might come up while the client holds a lock."""
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except OSError:
        return 80
