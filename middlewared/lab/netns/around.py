"""The surroundings of controllers that live in network namespaces: a real switch, real cables, a real iSCSI target."""

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import signal
import sys
from pathlib import Path

from middlewared import programs
from middlewared.lab.netns import layout, namespaces
from middlewared.lab.netns.layout import CLIENT, PREFIX, PREFIX_LENGTH, SHELF, SHELF_NIC
from middlewared.lab.netns.namespaces import Network
from middlewared.lab.places import DISK_LINKS, HEARTBEAT_NIC, LAN_LINKS, LINKS, NODES, LabError, Places, other
from middlewared.lab.pool import label
from middlewared.lab.target import PORT, ScsiTarget, TargetDisk
from middlewared.ports import PortError

DISK_BYTES = 256 << 20  # sparse
_READ_MS = 10_000


class Namespaces:
    """lab.surroundings.Surroundings for `lab up --netns`. Needs root, iproute2, keepalived, nftables, tgt, libiscsi."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._network = Network(PREFIX)
        self._target = ScsiTarget(
            places.directory / SHELF,
            [TargetDisk(lun + 1, f"LABDISK{lun:03d}", DISK_BYTES) for lun in range(layout.DISKS)],
            (f"{layout.SHELF_ADDRESS}:{PORT}",),
            within=self._network.command(SHELF),
            synchronous=False,
        )
        self._up = dict.fromkeys(LINKS, True)
        self._powered: set[str] = set()
        self._turn = asyncio.Lock()  # a cable may be healed while its controller is being built
        self._held: dict[str, list[str]] = {node: [] for node in NODES}

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
            self._target.file(lun + 1).write_bytes(label(lun, layout.DISKS))

    async def _start_target(self) -> None:
        try:
            await self._target.start()
        except PortError as error:
            raise LabError(f"the shelf does not start: {error}") from error

    async def stop(self) -> None:
        await self._target.kill()
        await self._network.close()

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

    async def set_disk_failed(self, lun: int, *, failed: bool) -> None:
        try:
            await self._target.set_failed(lun + 1, failed=failed)
        except PortError as error:
            raise LabError(str(error)) from error

    async def set_disk_pulled(self, node: str, lun: int, *, pulled: bool) -> None:
        if pulled:
            raise LabError("this target shows its disks to both controllers alike: use fail-disk, or cut disks-a|b")

    async def replace_disk(self, lun: int) -> int:
        raise LabError("the disks of this target are files that stay: replace one in the lab without --netns")

    async def restart_shelf(self) -> None:
        await self._target.kill()
        await self._start_target()

    def network(self, node: str, held: dict[str, list[str]], firewall_allowed: bool) -> None:
        self._held[node] = [address for addresses in held.values() for address in addresses]

    def announce(self, node: str, nic: str, address: str) -> None:
        """Nothing: keepalived itself does."""

    def held(self, node: str) -> list[str]:
        return self._held[node]

    async def holders(self) -> dict[int, str | None]:
        """Asked by a program of its own, as an initiator that registers nothing."""
        program = (sys.executable, "-m", "middlewared.lab.netns.holders")
        try:
            told = await programs.output(*self._network.command(SHELF, *program), timeout_ms=_READ_MS)
        except PortError as error:
            raise LabError(f"the shelf does not answer: {error}") from error
        return {int(lun): holder for lun, holder in json.loads(told).items()}

    # ------------------------------------------------------------------------------------------ inside

    def _lock(self) -> None:
        """The names of the namespaces are fixed, so there is one such lab at a time; until this process ends."""
        self._locked = os.open("/run/middlewared-lab-netns.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._locked)
            raise LabError("another lab runs in network namespaces: end that one first") from error

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
