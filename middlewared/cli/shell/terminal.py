"""What the shell does with the terminal apart from the prompt: ask, page, draw a job's progress, notice Ctrl-C."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Awaitable, Iterator
from typing import Any, TextIO

from middlewared.cli.explain import Detached
from middlewared.cli.following import QUESTION, Drawn
from middlewared.cli.progress import ProgressPrinter
from middlewared.cli.shell.session import Session
from middlewared.client.errors import ClientError

TICK_S = 0.25
PAGER_OPTIONS = {"LESS": "-FRSX"}  # leave at once what fits, keep colours, cut long rows, leave the text on the screen


class Interrupted(ClientError):
    """Ctrl-C while a call was under way."""


async def ask(question: str) -> str:
    """One line from the terminal; Ctrl-C and Ctrl-D are an empty one."""
    from prompt_toolkit import PromptSession

    prompt: PromptSession[str] = PromptSession()
    with contextlib.suppress(KeyboardInterrupt, EOFError):
        return (await prompt.prompt_async(question)).strip()
    return ""


async def show(text: str, *, paged: bool) -> None:
    """Print; through the pager what does not fit on the screen."""
    pager = _pager() if paged and text.count("\n") >= shutil.get_terminal_size().lines else []
    if pager:
        environment = {**PAGER_OPTIONS, **os.environ}
        with contextlib.suppress(OSError):
            await asyncio.to_thread(subprocess.run, pager, input=text.encode(), env=environment, check=False)
            return
    sys.stdout.write(text)
    sys.stdout.flush()


def _pager() -> list[str]:
    """$PAGER, or less, or nothing: then the terminal scrolls."""
    chosen = os.environ.get("PAGER", "less").split()
    return chosen if chosen and shutil.which(chosen[0]) else []


async def until_done(work: Awaitable[Any]) -> Any:
    """The result of a call, unless Ctrl-C ends the waiting."""
    task = asyncio.ensure_future(work)
    with interrupts() as pressed:
        while not task.done():
            await _either(task, pressed)
            if pressed.is_set():
                await _cancel(task)
                raise Interrupted("you did not wait for the answer: what it did is unknown")
    return task.result()


async def follow(session: Session, method: str, params: list[Any], stream: TextIO, *, interactive: bool) -> Any:
    """A job to its end, with its progress on `stream`. Raises Detached."""
    if not interactive:

        def write(line: str) -> None:
            stream.write(line)
            stream.flush()

        return await session.call_job(method, *params, on_progress=ProgressPrinter(write))
    drawn = Drawn(stream)
    task = asyncio.ensure_future(session.call_job(method, *params, on_progress=drawn.update))
    try:
        while not task.done():
            with interrupts() as pressed:
                await _either(task, pressed, TICK_S)
                drawn.draw()
            if pressed.is_set() and not task.done():
                await _let_go(session, task, drawn)
        return task.result()
    finally:
        drawn.end()
        await _cancel(task)


async def _let_go(session: Session, task: "asyncio.Future[Any]", drawn: Drawn) -> None:
    if drawn.bar.job_id is None:
        await _cancel(task)
        raise Interrupted("you did not wait for the job to begin: what it does is unknown")
    drawn.end()
    answer = (await ask(QUESTION)).lower()[:1]
    if answer == "d":
        raise Detached(drawn.bar.job_id)
    if answer == "a":
        await session.call("core.job_abort", drawn.bar.job_id)


async def _either(task: "asyncio.Future[Any]", pressed: asyncio.Event, timeout_s: float | None = None) -> None:
    waiting = asyncio.create_task(pressed.wait())
    try:
        await asyncio.wait({task, waiting}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await _cancel(waiting)


async def _cancel(task: "asyncio.Future[Any]") -> None:
    if not task.done():
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@contextlib.contextmanager
def interrupts() -> Iterator[asyncio.Event]:
    """Ctrl-C as an event, for a while."""
    pressed = asyncio.Event()
    before = signal.getsignal(signal.SIGINT)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, pressed.set)
    try:
        yield pressed
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, before)
