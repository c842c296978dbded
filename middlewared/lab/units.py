"""The init of a simulated machine: keeps fenced and middlewared running, as systemd would."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from middlewared.lab.process import die_with_parent

_PAUSE_MIN_S = 0.1  # systemd's RestartSec
_PAUSE_MAX_S = 5.0
_STEADY_S = 10.0  # a process that lived so long starts again without delay
_LOG_BYTES_MAX = 1 << 20


def rotate(log: Path) -> None:
    """At boot: keep one old log of bounded size."""
    if log.exists() and log.stat().st_size > _LOG_BYTES_MAX:
        log.replace(log.with_suffix(".log.1"))


class Unit:
    """One program that is started again whenever it ends, at a growing interval while it keeps failing."""

    def __init__(
        self,
        name: str,
        arguments: list[str],
        log: Path,
        on_change: Callable[[], None],
        on_failed: Callable[[str, int], None],
    ) -> None:
        """`on_failed(name, status)`: it ended without being told to; negative statuses are signals."""
        self.name = name
        self._on_failed = on_failed
        self._command = [sys.executable, "-m", *arguments]
        self._log = log
        self._on_change = on_change
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        rotate(log)

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._keep_running())

    async def stop(self, timeout_s: float = 3.0) -> None:
        """End it for good: SIGTERM, and SIGKILL after the timeout."""
        process = self._process
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(timeout_s):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        self._ended()

    def kill(self) -> None:
        """SIGKILL of this one process; it starts again."""
        if self._process is not None and self._process.returncode is None:
            os.kill(self._process.pid, signal.SIGKILL)

    async def _keep_running(self) -> None:
        loop = asyncio.get_running_loop()
        pause_s = _PAUSE_MIN_S
        while True:
            started = loop.time()
            with self._log.open("ab") as log:
                self._process = await asyncio.create_subprocess_exec(
                    *self._command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    preexec_fn=die_with_parent,  # this process has one thread: no lock can be held
                )
            self._on_change()
            status = await self._process.wait()
            self._ended()
            self._on_failed(self.name, status)
            if loop.time() - started > _STEADY_S:
                pause_s = _PAUSE_MIN_S
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _PAUSE_MAX_S)

    def _ended(self) -> None:
        self._process = None
        self._on_change()
