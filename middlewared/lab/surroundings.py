"""What stands around the controllers: network, heartbeat cable and shelf, and what breaks there."""

import sys
import time
from typing import Protocol

from middlewared.lab.cable import Cable
from middlewared.lab.places import DISK_LINKS, LAN_LINKS, NODES, LabError, Places
from middlewared.lab.pool import label
from middlewared.lab.shelf import Shelf, ShelfDisk
from middlewared.lab.shelf_server import ShelfServer
from middlewared.lab.switch import Routes, Switch
from middlewared.lab.writes import WriteLog
from middlewared.plugins.fencing import scsi

_DISK_BYTES = 1 << 30


class Surroundings(Protocol):
    """One kind of lab. Everything here takes effect before it returns; LabError where this kind cannot do it."""

    async def start(self) -> None: ...

    async def stop(self) -> None:
        """Also after a start that failed: nothing is left."""

    async def power(self, node: str, *, on: bool) -> None:
        """Before a controller is switched on; right after it has lost power."""

    def machine(self, node: str) -> list[str]:
        """The command line that starts the controller."""

    async def freeze(self, node: str, *, frozen: bool) -> None:
        """What the network notices of a controller that stands still."""

    async def set_link(self, link: str, *, up: bool) -> None: ...

    async def set_disk_failed(self, lun: int, *, failed: bool) -> None: ...

    async def set_disk_pulled(self, node: str, lun: int, *, pulled: bool) -> None: ...

    async def replace_disk(self, lun: int) -> int:
        """Another one, blank and with another serial, is in its place; returns its number."""

    async def kill_speaker(self, node: str) -> None:
        """SIGKILL of the VRRP speaker alone; its addresses stay where they are."""

    async def restart_shelf(self) -> None:
        """The target restarts: reservations without APTPL are forgotten, and what was queued is lost."""

    def network(self, node: str, held: dict[str, list[str]], firewall_allowed: bool) -> None:
        """A controller's kernel says which virtual addresses it answers to, by NIC, and whether it lets traffic in."""

    def announce(self, node: str, nic: str, address: str) -> None:
        """A gratuitous ARP of a simulated kernel."""

    def held(self, node: str) -> list[str]:
        """The virtual addresses that a controller has now."""

    async def holders(self) -> dict[int, str | None]:
        """Who holds the reservation of each disk: the controller, None: nobody."""


class Loopback:
    """Addresses of this computer's loopback network, a simulated shelf; no root needed."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._shelf = ShelfServer(_shelf(places), places.directory)
        self._switch = Switch(Routes(), places.handoff)
        self._cable = Cable({node: places.heartbeat(node) for node in NODES})

    async def start(self) -> None:
        """Raises LabError when an address is in use."""
        self._switch.start()
        await self._cable.start()
        await self._shelf.start()

    async def stop(self) -> None:
        self._switch.stop()
        await self._cable.stop()
        await self._shelf.stop()

    def machine(self, node: str) -> list[str]:
        return [sys.executable, "-m", "middlewared.lab.machine"]

    async def power(self, node: str, *, on: bool) -> None:
        if not on:
            self._shelf.power_off(node)
        self._switch.power(node, on)
        self._cable.power(node, on)

    async def freeze(self, node: str, *, frozen: bool) -> None:
        """Nothing: its sockets belong to its processes, and stand still with them."""

    async def set_link(self, link: str, *, up: bool) -> None:
        if link in DISK_LINKS:
            change = self._shelf.heal if up else self._shelf.cut
            change(DISK_LINKS[link])
        elif link in LAN_LINKS:
            self._switch.routes.links[link] = up
        elif up:
            self._cable.heal()
        else:
            self._cable.cut()

    async def set_disk_failed(self, lun: int, *, failed: bool) -> None:
        change = self._shelf.fail if failed else self._shelf.repair
        change(lun)

    async def set_disk_pulled(self, node: str, lun: int, *, pulled: bool) -> None:
        change = self._shelf.pull if pulled else self._shelf.push
        change(node, lun)

    async def replace_disk(self, lun: int) -> int:
        return self._shelf.replace(lun)

    async def kill_speaker(self, node: str) -> None:
        raise LabError("in this lab the VRRP speaker is a part of the simulated kernel: use `lab up --netns`")

    async def restart_shelf(self) -> None:
        self._shelf.restart()

    def network(self, node: str, held: dict[str, list[str]], firewall_allowed: bool) -> None:
        port = self._switch.routes.ports[node]
        port.held, port.firewall_allowed = held, firewall_allowed

    def announce(self, node: str, nic: str, address: str) -> None:
        self._switch.routes.announce(node, nic, address)

    def held(self, node: str) -> list[str]:
        return [address for held in self._switch.routes.ports[node].held.values() for address in held]

    async def holders(self) -> dict[int, str | None]:
        shelf = self._shelf.shelf
        held = {disk.lun: shelf.reservations(disk.lun).held for disk in shelf.disks}
        return {lun: one.holder if one is not None else None for lun, one in held.items()}


def _shelf(places: Places) -> Shelf:
    """New disks with the pool's labels on them; written in the factory, so before the record of writes begins."""
    count = places.layout.disks
    disks = [ShelfDisk(lun, f"LABDISK{lun:03d}", _DISK_BYTES) for lun in range(count)]
    shelf = Shelf(disks, now_ms=lambda: int(time.monotonic() * 1000))
    for lun in range(count):
        shelf.execute("factory", lun, scsi.write_10(0, 1), label(lun, count))
    shelf.log = WriteLog(places.writes)
    return shelf
