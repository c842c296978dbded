"""A real SCSI target for labs and tests: tgt (Debian package tgt) in a process of ours, with disks in files.

Its own control socket, its own port: it does not meet another tgtd of the host. What it can and cannot do with
reservations: shared/LAB.md, section 3. Needs root.
"""

import asyncio
import contextlib
import os
import shutil
import signal
from asyncio.subprocess import DEVNULL, Process
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from middlewared import programs
from middlewared.lab.process import die_with_parent
from middlewared.ports import PortError

TARGET = "iqn.2026-11.org.middlewared.lab:shelf"
PORT = 3260
_COMMAND_MS_MAX = 5_000
_READY_TRIES_MAX = 200
_POLL_S = 0.02


def missing() -> str:
    """Why no target can run here, a sentence; empty when it can."""
    if os.geteuid() != 0:
        return "needs root: tgtd locks its memory"
    return "" if shutil.which("tgtd") and shutil.which("tgtadm") else "needs tgt: apt-get install tgt"


@dataclass(frozen=True, slots=True)
class TargetDisk:
    """A disk of the target; its number is 1 and up, as unit 0 is the target's own controller."""

    lun: int
    serial: str
    size_bytes: int


class Target(Protocol):
    """What serves the disks. Each method raises PortError."""

    async def start(self) -> None:
        """Power on; returns when initiators can log in."""

    async def kill(self) -> None:
        """Power off."""

    async def set_failed(self, lun: int, *, failed: bool) -> None:
        """The disk answers errors to everybody. Disks are numbered from 1 here."""


class ScsiTarget:
    """A Target on some addresses, with its files in `folder`. It forgets all reservations when it restarts."""

    def __init__(
        self,
        folder: Path,
        disks: list[TargetDisk],
        portals: tuple[str, ...],
        target: str = TARGET,
        *,
        within: tuple[str, ...] = (),
        synchronous: bool = True,
    ) -> None:
        """`portals`: "127.0.0.1:3260". `within`: the command that runs another one where the target stands.

        `synchronous`: a write is answered when the file's own disk has it, so that queues have a length.
        """
        self._within = within
        self._flags = ("--bsoflags=sync",) if synchronous else ()
        self._folder = folder
        self._disks = disks
        self._portals = portals
        self._target = target
        self._process: Process | None = None

    @property
    def portals(self) -> tuple[str, ...]:
        """As fence.iscsi wants them."""
        return tuple(f"{portal}/{self._target}" for portal in self._portals)

    def file(self, lun: int) -> Path:
        """What is on a disk, byte for byte."""
        return self._folder / f"disk{lun}.img"

    async def start(self) -> None:
        """Raises PortError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for disk in self._disks:
            with self.file(disk.lun).open("ab") as file:
                file.truncate(disk.size_bytes)
        portals = ",".join(f"portal={portal}" for portal in self._portals)
        self._process = await asyncio.create_subprocess_exec(
            *(*self._within, "tgtd", "-f", "-t", "1", "--iscsi", portals),
            env=self._environment(),
            stdin=DEVNULL,
            stdout=DEVNULL,
            stderr=DEVNULL,
            preexec_fn=die_with_parent,
        )
        try:
            await self._until_ready()
            await self._admin("new", "target", "-T", self._target)
            for disk in self._disks:
                lun = str(disk.lun)
                await self._admin("new", "logicalunit", "--lun", lun, "-b", str(self.file(disk.lun)), *self._flags)
                await self._admin("update", "logicalunit", "--lun", lun, "--params", f"scsi_sn={disk.serial}")
            await self._admin("bind", "target", "-I", "ALL")
        except BaseException:
            await self.kill()
            raise

    async def kill(self) -> None:
        """Power off. SIGKILL: tgtd with sessions does not end for less."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        for left in self._folder.glob("tgtd*"):
            left.unlink(missing_ok=True)

    async def set_failed(self, lun: int, *, failed: bool) -> None:
        """A unit that is offline answers NOT READY to everybody. Raises PortError."""
        await self._admin("update", "logicalunit", "--lun", str(lun), "--params", f"online={0 if failed else 1}")

    def pause(self) -> None:
        """It hangs: connections stay open, nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "TGT_IPC_SOCKET": str(self._folder / "tgtd")}

    async def _until_ready(self) -> None:
        for _ in range(_READY_TRIES_MAX):
            if self._process is not None and self._process.returncode is not None:
                raise PortError(f"tgtd ended at once; is {', '.join(self._portals)} in use?")
            ended = await self._run("--op", "show", "--mode", "sys")
            if ended.status == 0:
                return
            await asyncio.sleep(_POLL_S)
        raise PortError("tgtd does not answer tgtadm")

    async def _admin(self, op: str, mode: str, *words: str) -> None:
        ended = await self._run("--op", op, "--mode", mode, "--tid", "1", *words)
        if ended.status != 0:
            raise PortError(f"tgtadm --op {op} --mode {mode}: {ended.stderr.strip() or ended.stdout.strip()}")

    async def _run(self, *words: str) -> programs.Ended:
        return await programs.run(
            "tgtadm", "--lld", "iscsi", *words, timeout_ms=_COMMAND_MS_MAX, environment=self._environment()
        )
