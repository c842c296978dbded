"""keepalived as a process that outlives middlewared: finds a running one, starts one, and sees it die.

Where systemd runs the machine, keepalived is a unit of its own (packaging/systemd/middlewared-vrrp.service); elsewhere,
in a namespace or a container, it is started here, as a daemon in its own session, and a later middlewared adopts it by
its pid files. keepalived is two processes: a parent that starts the VRRP speaker again when that dies, and the speaker.
"""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from middlewared import programs
from middlewared.ports import PortError

log = logging.getLogger(__name__)

_START_MS = 5_000
_CHECK_MS = 5_000
_REALTIME_PRIORITY = 50


@dataclass(frozen=True, slots=True)
class Running:
    """Handles of both processes (pidfd: they never mean another process). `close` gives them back."""

    parent: int
    speaker: int
    parent_pid: int
    speaker_pid: int

    def send(self, number: int) -> None:
        """Signal the parent. Raises PortError when it is dead."""
        try:
            signal.pidfd_send_signal(self.parent, number)
        except OSError as error:
            raise PortError("keepalived has died; it is being started again") from error

    def on_death(self, tell: Callable[[], None]) -> None:
        """Calls `tell` when one of the two dies, until `close`."""
        loop = asyncio.get_running_loop()
        for handle in (self.parent, self.speaker):
            loop.add_reader(handle, tell)

    def steady(self) -> bool:
        """The speaker has real-time scheduling. False, too, when it has died."""
        try:
            policy = os.sched_getscheduler(self.speaker_pid) & ~os.SCHED_RESET_ON_FORK
        except OSError:
            return False
        return policy in (os.SCHED_RR, os.SCHED_FIFO)

    def close(self) -> None:
        loop = asyncio.get_running_loop()
        for handle in (self.parent, self.speaker):
            loop.remove_reader(handle)
            os.close(handle)


class Keepalived:
    """The processes that belong to one folder of files. `unit`: the systemd unit that runs them; empty: we do."""

    def __init__(self, directory: Path, unit: str = "") -> None:
        self._unit = unit
        self._directory = directory
        self.config = directory / "keepalived.conf"
        self.dump = directory / "keepalived.json"  # keepalived's own name, in $TMPDIR
        self._pid_files = (directory / "keepalived.pid", directory / "vrrp.pid")

    async def check(self, config: Path) -> None:
        """Let keepalived itself look at a configuration. Raises PortError with its complaint."""
        await programs.output("keepalived", "-t", "-f", str(config), timeout_ms=_CHECK_MS)

    def find(self) -> Running | None:
        """The running processes; None unless both are there. The caller closes it."""
        parent = self._open(self._pid_files[0])
        speaker = self._open(self._pid_files[1])
        if parent is not None and speaker is not None:
            return Running(parent[0], speaker[0], parent[1], speaker[1])
        for found in (parent, speaker):
            if found is not None:
                os.close(found[0])
        return None

    async def start(self) -> None:
        """Start it, unless a parent is alive that does; both processes appear a little later. Raises PortError."""
        parent = self._open(self._pid_files[0])
        if parent is not None:
            os.close(parent[0])
            return
        if self._unit:
            await programs.output("systemctl", "start", self._unit, timeout_ms=_START_MS)
            return
        for path in self._pid_files:  # else keepalived takes a zombie of this number for itself, and refuses
            path.unlink(missing_ok=True)
        own, speaker = self._pid_files
        command = ["keepalived", "-P", "-D", "-f", self.config, "-p", own, "-r", speaker]
        environment = {**os.environ, "TMPDIR": str(self._directory)}
        ended = await programs.run(*map(str, command), timeout_ms=_START_MS, environment=environment)
        if ended.status != 0:
            raise PortError(f"keepalived does not start: {ended.stderr.strip() or ended.status}")

    async def stop(self, running: Running) -> None:
        """Ask it to drop its addresses and end; its death shows in `on_death`. Raises PortError."""
        if self._unit:
            await programs.output("systemctl", "stop", self._unit, timeout_ms=_START_MS)
        else:
            running.send(signal.SIGTERM)

    def favour(self, running: Running) -> None:
        """Real-time scheduling, so that a busy machine does not look dead. Children inherit it; a unit has its own."""
        if self._unit:
            return
        try:
            for pid in (running.parent_pid, running.speaker_pid):
                os.sched_setscheduler(pid, os.SCHED_RR, os.sched_param(_REALTIME_PRIORITY))
        except OSError as error:
            log.warning("keepalived runs without real-time priority (%s): heavy load may look like death", error)

    def _open(self, pid_file: Path) -> tuple[int, int] | None:
        """A handle of the process that the file names, and its pid; None when it is not ours, or dead."""
        try:
            pid = int(pid_file.read_text())
            handle = os.pidfd_open(pid)
        except (OSError, ValueError):
            return None
        with contextlib.suppress(OSError):
            # Read after opening: from here on the number cannot have gone to somebody else. A zombie has no words.
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if words[0].endswith(b"keepalived") and os.fsencode(self.config) in words:
                return handle, pid
        os.close(handle)
        return None
