"""One simulated controller below middlewared: kernel, init and VRRP speaker (`python -m middlewared.lab.machine`).

Leads the process group of its controller, so that the room can cut its power (SIGKILL) or freeze it (SIGSTOP) whole.
It has no life of its own beyond a boot: what survives one are the disks, the files and the room's properties.
"""

import argparse
import asyncio
import os
import signal
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from middlewared.lab.blocks import BlockDevices
from middlewared.lab.places import (
    HEARTBEAT_ADDRESS,
    HEARTBEAT_NIC,
    NIC_ADDRESS,
    NODES,
    PREFIX_LENGTH,
    Places,
    lan_link,
)
from middlewared.lab.pool import GUID, NAME, PoolError, SimulatedPool
from middlewared.lab.process import die_with_parent
from middlewared.lab.properties import REBOOT_REASONS, defaults
from middlewared.lab.services import ServiceError, Services
from middlewared.lab.speaker import Speaker
from middlewared.lab.units import Unit, rotate
from middlewared.lines import LineClient, LineConnection, LineError, LineServer

_HANG_POLL_S = 0.05
_EXPORT_TIMEOUT_S = 5.0
_ROOM_TIMEOUT_MS = 5000


class Machine:
    """The parts of one controller, the operations that its drivers call, and its wires to the room."""

    def __init__(self, places: Places, node: str) -> None:
        self._places = places
        self._node = node
        self._boot_id = str(uuid.uuid4())
        self._properties = defaults()
        self._pools_wanted = "default"
        self._links: dict[str, bool] = {}
        self._firewall_allowed = False
        self._hardware_found = asyncio.Event()
        self._halting = False
        self._published: dict[str, Any] = {}
        self._sending: set[asyncio.Task[Any]] = set()
        self._room = LineClient(places.room, self._on_room_event, self._room_lost)
        self._server = LineServer(self._handle)
        self._disks = BlockDevices(places.shelf(node), self._disks_changed)
        self._pool = SimulatedPool(node, self._disks, self._changed)
        self._services = Services(self._changed)
        self._speaker = Speaker(NIC_ADDRESS[node], self._send_advert, self._network_changed)
        config = ["--config", str(places.settings(node))]
        folder = places.node(node)
        self._keeper = Unit(
            "fenced",
            ["middlewared.plugins.fencing.keeper", *config],
            folder / "fenced.log",
            self._report,
            self._unit_failed,
        )
        self._daemon = Unit(
            "middlewared",
            ["middlewared", *config],
            folder / "middlewared.log",
            self._report,
            self._unit_failed,
        )

    async def run(self) -> None:
        """Power on; returns when the room has no more use for this process."""
        await self._room.connect()
        hello = await self._room.call("hello", timeout_ms=_ROOM_TIMEOUT_MS, node=self._node)
        self._pools_wanted = hello["pools"]
        self._links = hello["links"]
        self._properties = hello["properties"]
        await self._server.start(self._places.machine(self._node))
        self._follow_properties()
        self._daemon.start()
        await self._disks.start()
        if self._pools_wanted != "none":
            await self._pool.scan()
        self._network_changed([])
        self._hardware_found.set()
        await asyncio.get_running_loop().create_future()  # until the room, or the console, ends this process

    # ------------------------------------------------------------------------------------------ for the drivers

    async def _handle(self, connection: LineConnection, op: str, args: dict[str, Any]) -> Any:
        await self._hardware_found.wait()
        match op:
            case "state":
                return self._snapshot()
            case "vrrp_configure":
                self._speaker.configure(args["instances"])
            case "vrrp_participate":
                self._speaker.participate(args["wanted"])
                self._changed()
            case "firewall":
                await self._set_firewall(args["allow"])
            case "pool_list":
                return await self._pool_list()
            case "pool_import":
                await self._pool_import(args["guid"])
            case "pool_export":
                await self._pool_export(args["guid"])
            case "service_start" | "service_stop":
                await self._service(args["name"], running=op == "service_start")
            case "disks":
                return self._snapshot()["disks"]
            case "reset":
                self._reset(args["reason"])
            case "reboot" | "shutdown":
                self._start(self._halt(op, args["reason"]))
            case _:
                raise LineError("EINVAL", f"unknown operation {op!r}")
        return None

    async def _set_firewall(self, allow: bool) -> None:
        self._firewall_allowed = allow
        self._changed()
        await self._tell_network([])  # answered only when the room knows: then traffic obeys

    async def _pool_list(self) -> list[dict[str, Any]]:
        if not self._pool.known and self._pools_wanted != "none":
            await self._pool.scan()
        return self._pools()

    async def _pool_import(self, guid: str) -> None:
        self._check_pool(guid)
        await self._take_time("import")
        if self._properties["import_fails"]:
            raise LineError("EIO", f"{NAME}: the import failed, as `lab set {self._node} import_fails` wanted")
        try:
            await self._pool.import_()
        except PoolError as error:
            raise LineError("EIO", str(error)) from error

    async def _pool_export(self, guid: str) -> None:
        self._check_pool(guid)
        await self._take_time("export")
        try:
            await self._pool.export()
        except PoolError as error:
            raise LineError("EIO", str(error)) from error

    def _check_pool(self, guid: str) -> None:
        if guid != GUID or not self._pool.known:
            raise LineError("ENOENT", f"there is no pool {guid}")

    async def _service(self, name: str, *, running: bool) -> None:
        while self._properties["service_hangs"]:
            await asyncio.sleep(_HANG_POLL_S)
        if running:
            await asyncio.sleep(self._properties["service_start_ms"] / 1000)
        try:
            self._services.switch(name, running)
        except ServiceError as error:
            raise LineError("ENOENT", str(error)) from error

    async def _take_time(self, what: str) -> None:
        while self._properties[f"{what}_hangs"]:
            await asyncio.sleep(_HANG_POLL_S)
        await asyncio.sleep(self._properties[f"{what}_ms"] / 1000)

    def _reset(self, reason: str) -> None:
        with self._places.console(self._node).open("a") as console:
            console.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} machine: resetting this controller: {reason}\n")
        os.killpg(os.getpgrp(), signal.SIGKILL)

    async def _halt(self, kind: str, reason: str) -> None:
        """An orderly end: the daemon, traffic, services, pools, the keeper, and only then the virtual addresses."""
        if self._halting:
            return
        self._halting = True
        await self._daemon.stop()
        await self._set_firewall(False)
        for name in self._services.states():
            self._services.switch(name, False)
        with suppress(PoolError, TimeoutError):  # a pool that cannot be exported ends with the power
            async with asyncio.timeout(_EXPORT_TIMEOUT_S):
                await self._pool.export()
        await self._keeper.stop()
        self._speaker.participate(False)
        self._send("halt", kind=kind, reason=reason)

    # ------------------------------------------------------------------------------------------ what the drivers see

    def _snapshot(self) -> dict[str, Any]:
        fitted = self._properties["nics"]
        return {
            "nics": [self._nic(nic, NIC_ADDRESS[self._node][nic], self._speaker.held(nic)) for nic in fitted],
            "heartbeat": self._nic(HEARTBEAT_NIC, HEARTBEAT_ADDRESS[self._node], ())
            if self._properties["heartbeat_nic"]
            else None,
            "vrrp": {nic: str(state) for nic, state in self._speaker.states().items()},
            "firewall_allowed": self._firewall_allowed,
            "pools": self._pools(),
            "services": self._services.states(),
            "disks": [
                {"name": f"sd{chr(ord('a') + lun.number)}", "serial": lun.serial, "size_bytes": lun.size_bytes}
                for lun in self._disks.luns
            ],
            "identity": self._identity(),
        }

    def _pools(self) -> list[dict[str, Any]]:
        return [self._pool.describe()] if self._pool.known else []

    def _identity(self) -> dict[str, Any]:
        values = self._properties
        return {
            "boot_id": self._boot_id,
            "hardware": values["hardware"],
            "serial": f"LAB-{self._node.upper()}",
            "version": values["version"],
            "licensed": values["licensed"],
            "reboot_reasons": {code: REBOOT_REASONS[code] for code in values["reboot_reasons"]},
            "migrating_system_dataset": values["migrating_system_dataset"],
            "booting": values["hold_boot"],
        }

    def _nic(self, name: str, address: str, virtual: tuple[str, ...]) -> dict[str, Any]:
        last = int(address.rsplit(".", 1)[1])
        return {
            "name": name,
            "link_up": self._link_up(name),
            "mac": f"02:00:00:00:{'20' if name == HEARTBEAT_NIC else '10'}:{last:02x}",
            "addresses": [f"{address}/{PREFIX_LENGTH}", *virtual],
        }

    def _link_up(self, nic: str) -> bool:
        return self._links.get("heartbeat" if nic == HEARTBEAT_NIC else lan_link(self._node, nic), False)

    def _changed(self) -> None:
        """Tell the drivers which parts differ from what they were told, and the room."""
        now = self._snapshot()
        parts = {name: value for name, value in now.items() if self._published.get(name) != value}
        if not parts:
            return
        self._published = now
        self._server.broadcast("state", parts)
        self._report()

    # ------------------------------------------------------------------------------------------ to and from the room

    def _on_room_event(self, event: str, data: Any) -> None:
        match event:
            case "advert":
                if data["nic"] in self._properties["nics"]:
                    self._speaker.advert(data["nic"], data["advert"])
            case "links":
                self._links = data
                self._follow_links()
            case "properties":
                self._properties = data
                self._follow_properties()
            case "pools":
                self._pools_wanted = data
                self._start(self._pool.destroy() if data == "none" else self._pool.scan())
            case "restart_daemon":
                self._daemon.kill()
            case "kill_keeper":
                self._keeper.kill()

    def _follow_links(self) -> None:
        for nic in NIC_ADDRESS[self._node]:
            self._speaker.link(nic, nic in self._properties["nics"] and self._link_up(nic))
        self._changed()

    def _follow_properties(self) -> None:
        if self._properties["keeper"]:
            self._keeper.start()
        else:
            self._start(self._keeper.stop())
        self._follow_links()

    def _disks_changed(self) -> None:
        self._changed()
        if not self._pool.known and self._pools_wanted != "none":
            self._start(self._pool.scan())

    def _network_changed(self, announce: list[tuple[str, str]]) -> None:
        self._start(self._tell_network(announce))
        self._changed()

    async def _tell_network(self, announce: list[tuple[str, str]]) -> None:
        held = {nic: list(self._speaker.held(nic)) for nic in NIC_ADDRESS[self._node]}
        with suppress(LineError):  # without a room there is no network: this process ends with it
            await self._room.call(
                "network",
                timeout_ms=_ROOM_TIMEOUT_MS,
                held=held,
                firewall_allowed=self._firewall_allowed,
                announce=announce,
            )

    def _send_advert(self, nic: str, advert: dict[str, Any]) -> None:
        self._send("advert", nic=nic, advert=advert)

    def _report(self) -> None:
        self._send(
            "report",
            vrrp={nic: str(state) for nic, state in self._speaker.states().items()},
            pools=self._pools(),
            firewall_allowed=self._firewall_allowed,
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
    parser = argparse.ArgumentParser(prog="python -m middlewared.lab.machine")
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--node", choices=NODES, required=True)
    parser.add_argument("--room", type=int, required=True, help="process id of the room that started us")
    arguments = parser.parse_args()
    die_with_parent()
    if os.getppid() != arguments.room or os.getpgrp() != os.getpid():
        sys.exit("only the room starts a machine: `middlewared lab up`")
    places = Places(arguments.directory)
    rotate(places.node(arguments.node) / "machine.log")
    asyncio.run(_run(places, arguments.node))


async def _run(places: Places, node: str) -> None:
    await Machine(places, node).run()


if __name__ == "__main__":
    main()
