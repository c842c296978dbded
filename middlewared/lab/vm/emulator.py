"""One virtual machine as a process: qemu, the way to command it, and its guest agent."""

import asyncio
from asyncio.subprocess import DEVNULL, Process
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from middlewared.lab.process import die_with_parent
from middlewared.lab.vm import layout
from middlewared.lab.vm.wires import Agent, Wire, WireError

_SOCKETS = ("qga.sock", "qmp.sock", "witness.sock")
_APPEAR_S_MAX = 60.0
_POLL_S = 0.02
_SNAPSHOT_S_MAX = 300.0
_SNAPSHOT_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Boot:
    """What a machine starts from: files. `drives` are raw, and no part of its snapshot."""

    kernel: Path
    initrd: Path
    disk: Path
    drives: tuple[Path, ...] = ()


class Emulator:
    """A machine whose sockets and console are in `folder`."""

    def __init__(self, node: str, folder: Path, boot: Boot, *, within: tuple[str, ...] = ()) -> None:
        """`within`: the command that runs another one where the machine's cables are."""
        self._within = within
        self._node = node
        self._folder = folder
        self._boot = boot
        self._process: Process | None = None
        self.qmp = Wire(folder / "qmp.sock", self._on_event)
        self.agent = Agent(folder / "qga.sock")
        self.end = ""  # why qemu says that the machine went off: guest-reset, guest-shutdown, …

    @property
    def witness(self) -> Path:
        return self._folder / "witness.sock"

    @property
    def console(self) -> Path:
        return self._folder / "serial.log"

    async def start(self, *, snapshot: bool) -> None:
        """Power on. Raises WireError when qemu ends at once, OSError when there is none."""
        for name in _SOCKETS:
            (self._folder / name).unlink(missing_ok=True)
        boot = self._boot
        words = layout.command(
            self._node, self._folder, boot.kernel, boot.initrd, boot.disk, boot.drives, halted=snapshot
        )
        self._process = await asyncio.create_subprocess_exec(
            *self._within, *words, stdin=DEVNULL, preexec_fn=die_with_parent
        )
        try:
            async with asyncio.timeout(_APPEAR_S_MAX):
                while not await self._connected():
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise WireError(f"qemu does not answer within {_APPEAR_S_MAX:.0f} s") from None
        await self.qmp.call("qmp_capabilities", timeout_s=_APPEAR_S_MAX)
        if snapshot:
            await self._snapshot("snapshot-load")
            await self.qmp.call("cont")
        await self.agent.connect()

    async def _connected(self) -> bool:
        if self._process is not None and self._process.returncode is not None:
            raise WireError(f"qemu ended with status {self._process.returncode}; see the log")
        with suppress(OSError):
            await self.qmp.connect()
            return True
        return False

    async def set_link(self, nic: str, *, up: bool) -> None:
        """The carrier of a NIC, as its machine sees it."""
        await self.qmp.call("set_link", name=nic, up=up)

    async def save(self) -> None:
        """Keep the running machine in its disk. Raises WireError."""
        await self._snapshot("snapshot-save")

    async def _snapshot(self, command: str) -> None:
        """A job of qemu's. Only the machine's own disk takes part: what a shelf serves is no past of the shelf's."""
        words: dict[str, Any] = {
            "job-id": command,
            "tag": layout.SNAPSHOT,
            "vmstate": layout.ROOT,
            "devices": [layout.ROOT],
        }
        await self.qmp.call(command, **words)
        try:
            async with asyncio.timeout(_SNAPSHOT_S_MAX):
                while (job := await self._job(command))["status"] != "concluded":
                    await asyncio.sleep(_SNAPSHOT_POLL_S)
        except TimeoutError:
            raise WireError(f"{command}: not done within {_SNAPSHOT_S_MAX:.0f} s") from None
        await self.qmp.call("job-dismiss", id=command)
        if "error" in job:
            raise WireError(f"{command}: {job['error']}")

    async def _job(self, name: str) -> dict[str, Any]:
        """One of qemu's jobs as it is now. It answers late while it writes or reads a machine's memory."""
        jobs = await self.qmp.call("query-jobs", timeout_s=_SNAPSHOT_S_MAX)
        return next(job for job in jobs if job["id"] == name)

    async def wait(self) -> None:
        """Until it is off."""
        if self._process is not None:
            await self._process.wait()

    async def kill(self) -> None:
        """Power loss."""
        await self.agent.close()
        await self.qmp.close()
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    def _on_event(self, name: str, data: dict[str, Any]) -> None:
        if name == "SHUTDOWN":
            self.end = str(data.get("reason", ""))
