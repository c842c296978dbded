"""One simulated controller below middlewared: kernel, init and VRRP speaker (`python -m middlewared.lab.machine`).

Leads the process group of its controller, so that the room can cut its power (SIGKILL) or freeze it (SIGSTOP) whole.
It has no life of its own beyond a boot: what survives one are the disks, the files and the room's properties.
"""

import asyncio
import os
import signal
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from middlewared.lab.blocks import BlockDevices
from middlewared.lab.kernel import Kernel
from middlewared.lab.places import LOOPBACK, Places
from middlewared.lab.started import by_room, leads_its_group
from middlewared.lab.units import Unit
from middlewared.lines import LineClient, LineConnection, LineError, LineServer

_ROOM_TIMEOUT_MS = 5000


class Machine:
    """The kernel of one controller, its wires to the room, and the processes above it."""

    def __init__(self, places: Places, node: str) -> None:
        self.places = places
        self.node = node
        self._sending: set[asyncio.Task[Any]] = set()
        self._room = LineClient(places.room, self._on_room_event, self._room_lost)
        self._server = LineServer(self._handle, lambda daemon: self.kernel.daemon_ended())
        self.disks = self.block_devices(lambda: self.kernel.disks_changed())
        self.kernel = Kernel(node, str(uuid.uuid4()), self, self.disks)
        config = ["--config", str(places.settings(node))]
        folder = places.node(node)
        self._keeper = Unit(
            "fenced",
            ["middlewared.plugins.fencing.keeper", *config],
            folder / "fenced.log",
            self.report,
            self._unit_failed,
        )
        self._daemon = Unit(
            "middlewared",
            ["middlewared", *config],
            folder / "middlewared.log",
            self.report,
            self._unit_failed,
        )

    async def run(self) -> None:
        """Power on; returns when the room has no more use for this process."""
        await self.below()
        await self._room.connect()
        hello = await self._room.call("hello", timeout_ms=_ROOM_TIMEOUT_MS, node=self.node)
        self.kernel.power_on(hello["pools"], hello["links"], hello["properties"])
        await self._server.start(self.places.machine(self.node))
        self._follow_keeper()
        self._daemon.start()
        await self.kernel.find_hardware()
        await asyncio.get_running_loop().create_future()  # until the room, or the console, ends this process

    def block_devices(self, on_luns: Callable[[], None]) -> BlockDevices:
        """The disks, as this machine's kernel has them."""
        return BlockDevices(self.places.shelf(self.node), on_luns)

    async def below(self) -> None:
        """What has to be there before the kernel looks for its hardware."""

    async def _handle(self, connection: LineConnection, op: str, args: dict[str, Any]) -> Any:
        return await self.kernel.handle(op, args)

    # ------------------------------------------------------------------------------------------ outside the kernel

    def changed(self, parts: Mapping[str, Any]) -> None:
        self._server.broadcast("state", parts)
        self.report()

    def advert(self, nic: str, advert: dict[str, Any]) -> None:
        self._send("advert", nic=nic, advert=advert)

    async def network(
        self, held: dict[str, list[str]], firewall_allowed: bool, announce: list[tuple[str, str]]
    ) -> None:
        with suppress(LineError):  # without a room there is no network: this process ends with it
            await self._room.call(
                "network",
                timeout_ms=_ROOM_TIMEOUT_MS,
                held=held,
                firewall_allowed=firewall_allowed,
                announce=announce,
            )

    def reset(self, reason: str) -> None:
        with self.places.console(self.node).open("a") as console:
            console.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} machine: resetting this controller: {reason}\n")
        os.killpg(os.getpgrp(), signal.SIGKILL)

    async def stop_daemon(self) -> None:
        await self._daemon.stop()

    async def stop_keeper(self) -> None:
        await self._keeper.stop()

    def halt(self, kind: str, reason: str) -> None:
        self._send("halt", kind=kind, reason=reason)

    # ------------------------------------------------------------------------------------------ to and from the room

    def _on_room_event(self, event: str, data: Any) -> None:
        match event:
            case "advert":
                self.kernel.advert(data["nic"], data["advert"])
            case "links":
                self.kernel.follow_links(data)
            case "properties":
                self.kernel.follow_properties(data)
                self._follow_keeper()
            case "pools":
                self.kernel.follow_pools(data)
            case "restart_daemon":
                self._daemon.kill()
            case "kill_keeper":
                self._keeper.kill()

    def _follow_keeper(self) -> None:
        if self.kernel.properties["keeper"]:
            self._keeper.start()
        else:
            self._start(self._keeper.stop())

    def vrrp(self) -> tuple[dict[str, str], bool]:
        """The VRRP state by NIC, and whether traffic is let in, for those who look on."""
        return {nic: str(state) for nic, state in self.kernel.speaker.states().items()}, self.kernel.firewall_allowed

    def report(self) -> None:
        vrrp, firewall_allowed = self.vrrp()
        self._send(
            "report",
            vrrp=vrrp,
            pools=self.kernel.pools(),
            firewall_allowed=firewall_allowed,
            units={unit.name: unit.pid for unit in (self._keeper, self._daemon)},
        )

    def _unit_failed(self, name: str, status: int) -> None:
        self._send("unit_failed", name=name, status=status)

    def _send(self, op: str, **args: Any) -> None:
        async def call() -> None:
            with suppress(LineError):
                await self._room.call(op, timeout_ms=_ROOM_TIMEOUT_MS, **args)

        self._start(call())

    def _start(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    def _room_lost(self) -> None:
        """The room has gone, and with it network, disks and power."""
        os.killpg(os.getpgrp(), signal.SIGKILL)


def main() -> None:
    asyncio.run(_run(*by_room(LOOPBACK, "middlewared lab up", leads_its_group)))


async def _run(places: Places, node: str) -> None:
    await Machine(places, node).run()


if __name__ == "__main__":
    main()
