"""The surroundings of controllers that live in network namespaces: a real switch, real cables, a real iSCSI target."""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from pathlib import Path

from middlewared.lab.equipment import Equipment
from middlewared.lab.netns import layout, namespaces
from middlewared.lab.netns.layout import CLIENT, PREFIX, PREFIX_LENGTH, SHELF, SHELF_NIC
from middlewared.lab.netns.namespaces import Network
from middlewared.lab.places import DISK_LINKS, HEARTBEAT_NIC, LAN_LINKS, LINKS, LabError, Places, other
from middlewared.lab.pool import label
from middlewared.lab.target import PORT, ScsiTarget, TargetDisk
from middlewared.ports import PortError

DISK_BYTES = 256 << 20  # sparse


class Namespaces(Equipment):
    """lab.surroundings.Surroundings for `lab up --netns`. Needs root, iproute2, keepalived, nftables, tgt, libiscsi."""

    def __init__(self, places: Places) -> None:
        network = Network(PREFIX)
        self._shelf = ScsiTarget(
            places.directory / SHELF,
            [TargetDisk(lun + 1, f"LABDISK{lun:03d}", DISK_BYTES) for lun in range(layout.DISKS)],
            (f"{layout.SHELF_ADDRESS}:{PORT}",),
            within=network.command(SHELF),
            synchronous=False,
        )
        super().__init__(places, network, self._shelf, "netns")
        self._up = dict.fromkeys(LINKS, True)
        self._powered: set[str] = set()
        self._turn = asyncio.Lock()  # a cable may be healed while its controller is being built

    async def start(self) -> None:
        why = await namespaces.missing()
        if why:
            raise LabError(why)
        self._lock()
        try:
            await self._network.create()
            await self._network.add_machine(SHELF)
            await self._network.plug(SHELF, SHELF_NIC, f"{layout.SHELF_ADDRESS}/{PREFIX_LENGTH}")
            await self._network.add_machine(CLIENT)
            await self._network.plug(CLIENT, "eth0", f"{layout.CLIENT_ADDRESS}/{PREFIX_LENGTH}")
        except PortError as error:
            raise LabError(f"the lab's network: {error}") from error
        await self._format()
        await self._start_target()

    async def _format(self) -> None:
        """Empty disks, each a member of the pool."""
        folder = self._places.directory / SHELF
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        for lun in range(layout.DISKS):
            self._shelf.file(lun + 1).write_bytes(label(lun, layout.DISKS))

    def machine(self, node: str) -> list[str]:
        """Killing the first process of this command pulls the plug: the controller's own process is its child, the
        first one of a process namespace, which dies whole."""
        program = (sys.executable, "-m", "middlewared.lab.netns.machine")
        return list(self._network.command(node, *program, mortal=True))

    async def power(self, node: str, *, on: bool) -> None:
        async with self._turn:
            if on:
                await self._build(node)
                self._powered.add(node)
            else:
                self._powered.discard(node)
                self._held[node] = []
                await self._network.unplug(node)
            await self._follow_heartbeat()

    async def freeze(self, node: str, *, frozen: bool) -> None:
        """A machine that stands still has carriers, and sends nothing; its network namespace alone would go on."""
        if frozen:
            await self._network.mute(node, "eth0")
            await self._network.mute(node, "eth1")
        number = signal.SIGSTOP if frozen else signal.SIGCONT
        for pid in self._processes(node):
            os.kill(pid, number)
        if not frozen:
            await self._network.unmute(node, "eth0")
            await self._network.unmute(node, "eth1")

    async def kill_speaker(self, node: str) -> None:
        for pid in self._processes(node):
            if _name(pid) == "keepalived":
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    async def set_link(self, link: str, *, up: bool) -> None:
        async with self._turn:
            self._up[link] = up
            if link in DISK_LINKS:
                await self._cable(DISK_LINKS[link], SHELF_NIC, up=up)
            elif link in LAN_LINKS:
                await self._cable(*LAN_LINKS[link], up=up)
            else:
                await self._follow_heartbeat()

    async def set_disk_pulled(self, node: str, lun: int, *, pulled: bool) -> None:
        if pulled:
            raise LabError("this target shows its disks to both controllers alike: use fail-disk, or cut disks-a|b")

    # ------------------------------------------------------------------------------------------ inside

    async def _build(self, node: str) -> None:
        """A network stack that knows nothing of earlier lives."""
        try:
            await self._network.add_machine(node)
            for nic, address in layout.NETNS.addresses[node].items():
                await self._network.plug(node, nic, f"{address}/{PREFIX_LENGTH}")
            await self._network.plug(node, SHELF_NIC, f"{layout.SAN_ADDRESS[node]}/{PREFIX_LENGTH}")
            await self._network.plug(node, HEARTBEAT_NIC, f"{layout.NETNS.heartbeat[node]}/{PREFIX_LENGTH}")
        except PortError as error:
            raise LabError(f"controller {node.upper()}: {error}") from error
        cables = {**LAN_LINKS, **{link: (owner, SHELF_NIC) for link, owner in DISK_LINKS.items()}}
        for link, (owner, nic) in cables.items():
            if owner == node and not self._up[link]:
                await self._network.cut(node, nic)

    async def _cable(self, node: str, nic: str, *, up: bool) -> None:
        if node not in self._powered:
            return  # plugged in, or not, when it is built
        change = self._network.heal if up else self._network.cut
        try:
            await change(node, nic)
        except PortError as error:
            raise LabError(str(error)) from error

    async def _follow_heartbeat(self) -> None:
        """A cable from controller to controller: no carrier while it is cut, or nobody is at the other end."""
        for node in self._powered:
            await self._cable(node, HEARTBEAT_NIC, up=self._up["heartbeat"] and other(node) in self._powered)

    def _processes(self, node: str) -> list[int]:
        """Every process of a controller: those in its network namespace."""
        inside = os.stat(f"/run/netns/{self._network.name(node)}").st_ino
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if os.stat(entry / "ns" / "net").st_ino == inside:
                        found.append(int(entry.name))
                except OSError:
                    continue  # it has ended meanwhile
        return found


def _name(pid: int) -> str:
    """Of a process; empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
