"""The shelf of the lab of virtual machines: tgt in a network namespace, or a machine with the kernel's own target."""

from collections.abc import Sequence
from pathlib import Path

from middlewared import programs
from middlewared.lab.netns.namespaces import Network
from middlewared.lab.target import PORT, ScsiTarget, TargetDisk
from middlewared.lab.vm import layout, lio, net
from middlewared.lab.vm.emulator import Boot, Emulator
from middlewared.lab.vm.wires import WireError
from middlewared.ports import PortError

READY_S_MAX = 300.0  # emulation, on a machine that does other things too
_KEPT_BYTES = 8 << 20
_TOOL_MS = 60_000

DISKS = tuple(TargetDisk(lun + 1, f"LABDISK{lun:03d}", layout.DISK_BYTES) for lun in range(layout.DISKS))


class LioShelf:
    """A Target that is a virtual machine. It keeps reservations where it was told to (APTPL, SPC-4 5.12.4)."""

    def __init__(self, boot: Boot, network: Network, *, paths: int) -> None:
        """Sockets and console are made beside the machine's disk."""
        self._boot = boot
        self._within = network.command(net.SWITCH)
        self._addresses = layout.PORTALS[:paths]
        self._machine: Emulator | None = None

    async def start(self) -> None:
        machine = self._machine = Emulator(layout.SHELF, self._boot.disk.parent, self._boot, within=self._within)
        try:
            await machine.start(snapshot=True)
            await machine.agent.until_ready(READY_S_MAX)
            registrations = lio.kept(await machine.agent.script(lio.READ))
            initiators = tuple(layout.INITIATOR.values())
            await machine.agent.script(lio.serve(DISKS, self._addresses, initiators, registrations))
        except (WireError, OSError) as error:
            await self.kill()
            raise PortError(f"the shelf's machine: {error}") from error

    async def kill(self) -> None:
        machine, self._machine = self._machine, None
        if machine is not None:
            await machine.kill()

    async def set_failed(self, lun: int, *, failed: bool) -> None:
        if self._machine is None:
            raise PortError("the shelf is off")
        try:
            await self._machine.agent.script(lio.fail(lun, failed=failed))
        except WireError as error:
            raise PortError(f"the shelf's machine: {error}") from error


def tgt(folder: Path, network: Network, *, paths: int = 1) -> ScsiTarget:
    """With its files in `folder`."""
    portals = tuple(f"{address}:{PORT}" for address in layout.PORTALS[:paths])
    return ScsiTarget(folder, list(DISKS), portals, within=network.command(layout.SHELF), synchronous=False)


def addresses(kind: str, paths: int) -> Sequence[str]:
    """Of the shelf's network namespace: a target's own, or that of an onlooker."""
    return layout.PORTALS[:paths] if kind == "tgt" else (layout.ONLOOKER_ADDRESS,)


def drives(folder: Path) -> tuple[Path, ...]:
    """What a machine serves, and where it keeps reservations: the first one."""
    return (folder / f"{lio.KEPT}.img", *(folder / f"disk{disk.lun}.img" for disk in DISKS))


async def make_drives(paths: Sequence[Path]) -> None:
    """Those that are not there yet, empty. Raises PortError, OSError."""
    for path in paths:
        if not path.exists():
            keeps = path.stem == lio.KEPT
            with path.open("xb") as file:
                file.truncate(_KEPT_BYTES if keeps else layout.DISK_BYTES)
            if keeps:
                await programs.output("mkfs.ext4", "-q", "-F", str(path), timeout_ms=_TOOL_MS)
