"""The room that two controllers stand in: power, network, heartbeat cable, the shelf of disks, and what breaks there.

One process, the one that `middlewared lab up` stays in. The machines tell it what a network and a power supply would
see; everything else they do among themselves, through the same sockets and disks that real controllers have.
"""

import asyncio
import signal
import time
from collections.abc import Callable
from typing import Any

from middlewared.lab import properties
from middlewared.lab.files import forget_boot
from middlewared.lab.places import LINKS, NODES, LabError, Places, lan_link, other
from middlewared.lab.power import Power, PowerSupply
from middlewared.lab.surroundings import Surroundings
from middlewared.lab.view import View, role
from middlewared.lines import LineConnection, LineError, LineServer

_REBOOT_PAUSE_S = 1.0  # what a real machine's firmware takes, much shortened
_FIRST_MASTER_TIMEOUT_S = 3.0
_FAULT_RELEVANT_MS = 30_000
_FAILURES_TOLD_MAX = 3
_UNREMARKABLE = ("off", "booting", "frozen")  # what caused them was said


class Room:
    """Everything that is not inside a controller. `on_news(text)` gets one line about each thing that happens."""

    def __init__(self, places: Places, around: Surroundings, on_news: Callable[[str], None]) -> None:
        self.places = places
        self.around = around
        self.on_news = on_news
        self.links = dict.fromkeys(LINKS, True)
        self.pools = "default"
        self.properties = {node: properties.defaults() for node in NODES}
        self.views = {node: View() for node in NODES}
        self.supplies = {node: PowerSupply(node, places, around.machine(node), self._died) for node in NODES}
        self.disks = set(range(places.layout.disks))  # by number
        self.failed: set[int] = set()
        self.pulled: set[tuple[str, int]] = set()
        self._server = LineServer(self._handle, self._machine_lost)
        self.powered: set[str] = set()
        self._last_fault = ("", 0.0)  # what it was, and when by time.monotonic()
        self._wires: dict[str, LineConnection] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._changed = asyncio.Event()

    async def start(self) -> None:
        """Raises LabError when what surrounds the controllers cannot be set up."""
        try:
            await self.around.start()
        except LabError:
            await self.around.stop()
            raise
        await self._server.start(self.places.room)

    async def power_up(self) -> None:
        """A first, and B as soon as A leads: so a fresh lab always begins with A."""
        await self.boot("a")
        try:
            async with asyncio.timeout(_FIRST_MASTER_TIMEOUT_S):
                while self.views["a"].role != "MASTER":
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pass
        if "b" not in self.powered:
            await self.boot("b")

    async def stop(self) -> None:
        """Everything off; no process is left."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.on_news = lambda text: None
        for supply in self.supplies.values():
            if supply.state is not Power.OFF:
                await supply.off()
        await self._server.stop()
        await self.around.stop()

    # ------------------------------------------------------------------------------------------ what breaks

    async def boot(self, node: str) -> None:
        if node in self.powered:
            raise LabError(f"controller {node.upper()} is {self.supplies[node].state} already")
        forget_boot(self.places, node)
        await self._power(node, on=True)
        self.on_news(f"{node.upper()} is powered on")
        try:
            await self.supplies[node].on()
        except OSError as error:
            await self._power(node, on=False)
            raise LabError(f"controller {node.upper()} does not start: {error}") from error
        self._see(node)

    async def kill(self, node: str) -> None:
        self.supplies[node].strike()
        if node in self.powered:
            await self._power(node, on=False)
            self._fault(f"{node.upper()} lost power")
        await self.supplies[node].off()

    async def pause(self, node: str) -> None:
        self.supplies[node].pause()
        await self.around.freeze(node, frozen=True)
        self._fault(f"{node.upper()} was frozen")
        self._see(node)

    async def resume(self, node: str) -> None:
        self.supplies[node].check_frozen()
        await self.around.freeze(node, frozen=False)
        self.supplies[node].resume()
        self.on_news(f"{node.upper()} wakes up")
        self._see(node)

    def restart_daemon(self, node: str) -> None:
        self._tell_awake(node, "restart_daemon")
        self.on_news(f"middlewared on {node.upper()} is killed")

    def kill_keeper(self, node: str) -> None:
        self._tell_awake(node, "kill_keeper")
        self.on_news(f"fenced on {node.upper()} is killed")

    async def kill_speaker(self, node: str) -> None:
        self._check_awake(node)
        await self.around.kill_speaker(node)
        self.on_news(f"keepalived on {node.upper()} is killed")

    async def set_link(self, link: str, up: bool) -> None:
        """Cut or heal one link; both ends see the carrier change at once."""
        if self.links[link] == up:
            return
        self.links[link] = up
        await self.around.set_link(link, up=up)
        if up:
            self.on_news(f"link {link} was healed")
        else:
            self._fault(f"link {link} was cut")
        self._tell_links()

    async def set_disk_failed(self, lun: int, failed: bool) -> None:
        await self.around.set_disk_failed(lun, failed=failed)
        (self.failed.add if failed else self.failed.discard)(lun)
        self.on_news(f"disk {lun} {'fails' if failed else 'is repaired'}")

    async def set_disk_pulled(self, node: str, lun: int, pulled: bool) -> None:
        await self.around.set_disk_pulled(node, lun, pulled=pulled)
        (self.pulled.add if pulled else self.pulled.discard)((node, lun))
        self.on_news(f"disk {lun} is {'pulled out for' if pulled else 'back at'} {node.upper()}")

    async def replace_disk(self, lun: int) -> None:
        new = await self.around.replace_disk(lun)
        self.failed.discard(lun)
        self.pulled -= {(node, lun) for node in NODES}
        self.disks = (self.disks | {new}) - {lun}
        self.on_news(f"disk {lun} was taken out for good, and disk {new} put in, which is blank")

    async def restart_shelf(self) -> None:
        await self.around.restart_shelf()
        self._fault("the shelf was restarted, and has forgotten the reservations that it was not told to keep")

    def set_property(self, node: str, name: str, value: Any) -> None:
        self.properties[node][name] = value
        self._tell(node, "properties", self.properties[node])
        self.on_news(f"{node.upper()}: {name} = {value}")

    def set_pools(self, pools: str) -> None:
        self.pools = pools
        for node in NODES:
            self._tell(node, "pools", pools)
        self.on_news(f"pools on the shelf: {pools}")

    # ------------------------------------------------------------------------------------------ what machines say

    async def _handle(self, connection: LineConnection, op: str, args: dict[str, Any]) -> Any:
        if op == "hello":
            return self._hello(connection, args["node"])
        node = connection.name
        if self._wires.get(node) is not connection:
            raise LineError("EPERM", "say hello first")
        match op:
            case "advert":
                self._carry_advert(node, args["nic"], args["advert"])
            case "network":
                self._network(node, args)
            case "report":
                self.views[node].report = args
                self._see(node)
            case "unit_failed":
                self._unit_failed(node, args["name"], args["status"])
            case "halt":
                self._start(self._halt(node, args["kind"], args["reason"]))
            case _:
                raise LineError("EINVAL", f"unknown operation {op!r}")
        return None

    def _hello(self, connection: LineConnection, node: str) -> dict[str, Any]:
        if node not in self.powered:
            raise LineError("EPERM", "no such controller is powered on")
        connection.name = node
        self._wires[node] = connection
        return {"links": self._carriers(node), "properties": self.properties[node], "pools": self.pools}

    def _network(self, node: str, args: dict[str, Any]) -> None:
        self.around.network(node, args["held"], args["firewall_allowed"])
        for nic, address in args["announce"]:
            self.around.announce(node, nic, address)
            self.on_news(f"{node.upper()} announces {address.partition('/')[0]}")

    def _carry_advert(self, node: str, nic: str, advert: dict[str, Any]) -> None:
        """Multicast through the switch: to the same NIC of the other controller, if both links are up."""
        peer = other(node)
        if self.links[lan_link(node, nic)] and self.links[lan_link(peer, nic)]:
            self._tell(peer, "advert", {"nic": nic, "advert": advert})

    async def _halt(self, node: str, kind: str, reason: str) -> None:
        """The machine has shut down by itself and asks for its power to be cut."""
        self._fault(f"{node.upper()} {'rebooted' if kind == 'reboot' else 'shut down'}: {reason}")
        self.supplies[node].strike()
        await self._power(node, on=False)
        await self.supplies[node].off()
        if kind == "reboot":
            await self._boot_again(node)

    def _unit_failed(self, node: str, name: str, status: int) -> None:
        """Said a few times a boot; a program that never starts would fill the screen."""
        failures = self.views[node].failures
        failures[name] = failures.get(name, 0) + 1
        if status != -signal.SIGKILL and failures[name] <= _FAILURES_TOLD_MAX:
            log = self.places.node(node) / f"{name}.log"
            self.on_news(f"{name} on {node.upper()} ended with status {status}: see {log}")

    def _machine_lost(self, connection: LineConnection) -> None:
        if self._wires.get(connection.name) is connection:
            del self._wires[connection.name]

    def _died(self, supply: PowerSupply) -> None:
        node = supply.node
        if not supply.wanted_off:
            self._start(self._down_by_itself(supply))
        self._see(node)

    async def _down_by_itself(self, supply: PowerSupply) -> None:
        node = supply.node
        await self._power(node, on=False)
        self._fault(f"{node.upper()} went down by itself: {supply.last_words() or 'nothing on its console'}")
        await self._boot_again(node)

    async def _boot_again(self, node: str) -> None:
        await asyncio.sleep(_REBOOT_PAUSE_S)
        if node not in self.powered:  # nobody was quicker
            await self.boot(node)

    # ------------------------------------------------------------------------------------------ inside

    async def _power(self, node: str, *, on: bool) -> None:
        """What everything around a controller notices when its power goes or comes."""
        if on:
            self.powered.add(node)
        else:
            self.powered.discard(node)
            self._wires.pop(node, None)
            self.views[node].report, self.views[node].failures = {}, {}
        await self.around.power(node, on=on)
        self._tell_links()

    def _carriers(self, node: str) -> dict[str, bool]:
        """Every link's carrier as this controller's end sees it; a direct cable has none while the peer is off."""
        return self.links | {"heartbeat": self.links["heartbeat"] and other(node) in self.powered}

    def _tell_links(self) -> None:
        for node in NODES:
            self._tell(node, "links", self._carriers(node))

    def _tell(self, node: str, event: str, data: Any) -> None:
        wire = self._wires.get(node)
        if wire is not None:
            wire.send_event(event, data)

    def _tell_awake(self, node: str, event: str) -> None:
        self._check_awake(node)
        self._tell(node, event, None)

    def _check_awake(self, node: str) -> None:
        state = self.supplies[node].state
        if state is not Power.ON:
            raise LabError(f"controller {node.upper()} is {state}")

    def _see(self, node: str) -> None:
        view = self.views[node]
        before, view.role = view.role, role(self.supplies[node].state, view.report)
        if view.role == before:
            return
        self._changed.set()
        if view.role in _UNREMARKABLE or (before == "booting" and view.role == "PASSIVE"):
            return
        what, at_s = self._last_fault
        since_ms = (time.monotonic() - at_s) * 1000
        after = f", {since_ms:.0f} ms after {what}" if what and since_ms < _FAULT_RELEVANT_MS else ""
        self.on_news(f"{node.upper()} is {view.role}{after if view.role == 'MASTER' else ''}")

    def _fault(self, what: str) -> None:
        """Something broke that a takeover may follow."""
        self._last_fault = (what, time.monotonic())
        self.on_news(what)

    def _start(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
