"""The kernel of one simulated controller: links, VRRP speaker, packet filter, pool, services.

Knows no process and no socket: the lab's machine (machine.py) serves it to the drivers of a real daemon, the tests'
simulator runs it in virtual time.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Protocol

from middlewared.lab.blocks import BlockDevices
from middlewared.lab.links import LinkError, Links
from middlewared.lab.places import (
    HEARTBEAT_ADDRESS,
    HEARTBEAT_NIC,
    NIC_ADDRESS,
    PREFIX_LENGTH,
    lan_link,
    serial,
)
from middlewared.lab.pool import GUID, NAME, PoolError, SimulatedPool
from middlewared.lab.properties import REBOOT_REASONS, defaults
from middlewared.lab.services import ServiceError, Services
from middlewared.lab.speaker import Speaker
from middlewared.lines import LineError

_HANG_POLL_S = 0.05
_EXPORT_TIMEOUT_S = 5.0


class Outside(Protocol):
    """What lies outside the kernel: the wires to the room, the processes above, the power switch."""

    def changed(self, parts: Mapping[str, Any]) -> None:
        """These top-level parts of the state differ from before."""

    def advert(self, nic: str, advert: dict[str, Any]) -> None:
        """Put a VRRP advert on the wire."""

    async def network(
        self, held: dict[str, list[str]], firewall_allowed: bool, announce: list[tuple[str, str]]
    ) -> None:
        """Returns when the network obeys: virtual addresses by NIC, the filter, (NIC, address) pairs to announce."""

    def reset(self, reason: str) -> None:
        """At once, without any ceremony."""

    async def stop_daemon(self) -> None: ...

    async def stop_keeper(self) -> None: ...

    def halt(self, kind: str, reason: str) -> None:
        """The orderly end is over: switch off, or boot again. `kind`: reboot or shutdown."""


class Kernel:
    """One boot of one controller. `disks` tells its news by calling `disks_changed`."""

    def __init__(self, node: str, boot_id: str, outside: Outside, disks: BlockDevices) -> None:
        self._node = node
        self._boot_id = boot_id
        self._outside = outside
        self._disks = disks
        self._pools_wanted = "default"
        self._links: dict[str, bool] = {}
        self._hardware_found = asyncio.Event()
        self._halting = False
        self._namespace = asyncio.Lock()  # as of ZFS: while a pool is imported or exported, none can be listed
        self._loading = 0  # which load of the packet filter's rules is the last
        self._published: dict[str, Any] = {}
        self._working: set[asyncio.Task[Any]] = set()
        self.properties = defaults()
        self.firewall_allowed = False
        self.pool = SimulatedPool(node, disks, self.changed)
        self._services = Services(self.changed)
        self._made = Links(
            {nic: f"{address}/{PREFIX_LENGTH}" for nic, address in NIC_ADDRESS[node].items()},
            {nic: _mac(nic, address) for nic, address in NIC_ADDRESS[node].items()},
            self._link_up,
        )
        self.speaker = Speaker(NIC_ADDRESS[node], outside.advert, self._network_changed)

    def power_on(self, pools: str, links: dict[str, bool], properties: dict[str, Any]) -> None:
        """What the room says of this controller's surroundings."""
        self._pools_wanted, self._links = pools, links
        self.follow_properties(properties)

    async def find_hardware(self) -> None:
        """The end of booting; the drivers are answered from here on."""
        await self._disks.start()
        if self._pools_wanted != "none":
            await self.pool.scan()
        self._network_changed([])
        self._hardware_found.set()

    # ------------------------------------------------------------------------------------------ for the drivers

    async def handle(self, op: str, args: dict[str, Any]) -> Any:
        """One operation of a driver. Raises LineError."""
        await self._hardware_found.wait()
        match op:
            case "state":
                return self.snapshot()
            case "vrrp_configure":
                await self._while("vrrp_hangs")
                self.speaker.configure(args["instances"])
            case "vrrp_participate":
                await self._while("vrrp_hangs")
                self.speaker.participate(args["wanted"])
                self.changed()
            case "firewall":
                await self._load_rules(args["allow"])
            case "pool_list":
                return await self._pool_list()
            case "pool_trouble":
                self._check_pool(args["guid"])
                return await self.pool.trouble()
            case "pool_import":
                async with self._namespace:
                    await self._pool_import(args["guid"])
            case "pool_export":
                async with self._namespace:
                    await self._pool_export(args["guid"])
            case "service_start" | "service_stop":
                await self._service(args["name"], running=op == "service_start")
            case "disks":
                return self.snapshot()["disks"]
            case "links":
                return self._made.rows(self.properties["nics"])
            case "link_change":
                self._change_link(args["what"], args["change"])
            case "reset":
                self._outside.reset(args["reason"])
            case "reboot" | "shutdown":
                self._start(self._halt(op, args["reason"]))
            case _:
                raise LineError("EINVAL", f"unknown operation {op!r}")
        return None

    def daemon_ended(self) -> None:
        """Its programs die with it: systemd ends the whole control group before it starts the unit again."""
        self._loading += 1

    async def _load_rules(self, allow: bool) -> None:
        """For a driver. A program that loads rules and hangs is killed by the next one that does."""
        self._loading += 1
        mine = self._loading
        await self._while("firewall_hangs")
        if self.properties["firewall_fails"] or mine != self._loading:
            raise LineError("EIO", f"the packet filter takes no rules, as `lab set {self._node}` wanted")
        await self._set_firewall(allow)

    async def _set_firewall(self, allow: bool) -> None:
        self.firewall_allowed = allow
        self.changed()
        await self._tell_network([])  # answered only when the room knows: then traffic obeys

    async def _pool_list(self) -> list[dict[str, Any]]:
        async with self._namespace:  # whoever asked for an import may be dead, and the import goes on
            return await self._list_pools()

    async def _list_pools(self) -> list[dict[str, Any]]:
        if self.properties["pool_list_fails"]:
            raise LineError("EIO", f"the pools cannot be listed, as `lab set {self._node} pool_list_fails` wanted")
        if not self.pool.known and self._pools_wanted != "none":
            await self.pool.scan()
        return self.pools()

    async def _pool_import(self, guid: str) -> None:
        self._check_pool(guid)
        await self._take_time("import")
        if self.properties["import_fails"]:
            raise LineError("EIO", f"{NAME}: the import failed, as `lab set {self._node} import_fails` wanted")
        try:
            await self.pool.import_()
        except PoolError as error:
            raise LineError("EIO", str(error)) from error

    async def _pool_export(self, guid: str) -> None:
        self._check_pool(guid)
        await self._take_time("export")
        if self.properties["export_fails"]:
            raise LineError("EBUSY", f"{NAME}: the pool is busy, as `lab set {self._node} export_fails` wanted")
        try:
            await self.pool.export()
        except PoolError as error:
            raise LineError("EIO", str(error)) from error

    def _check_pool(self, guid: str) -> None:
        if guid != GUID or not self.pool.known:
            raise LineError("ENOENT", f"there is no pool {guid}")

    async def _service(self, name: str, *, running: bool) -> None:
        await self._while("service_hangs")
        if running:
            await asyncio.sleep(self.properties["service_start_ms"] / 1000)
        try:
            self._services.switch(name, running)
        except ServiceError as error:
            raise LineError("ENOENT", str(error)) from error

    def _change_link(self, what: str, change: dict[str, Any]) -> None:
        if self.properties["link_fails"] and what == "AddAddress":
            raise LineError("EIO", f"no address can be added, as `lab set {self._node} link_fails` wanted")
        try:
            self._made.change(what, change)
        except LinkError as error:
            raise LineError("EIO", str(error)) from error
        self.follow_links()

    async def _take_time(self, what: str) -> None:
        await self._while(f"{what}_hangs")
        await asyncio.sleep(self.properties[f"{what}_ms"] / 1000)

    async def _while(self, hangs: str) -> None:
        while self.properties[hangs]:
            await asyncio.sleep(_HANG_POLL_S)

    async def _halt(self, kind: str, reason: str) -> None:
        """An orderly end: the daemon, traffic, services, pools, the keeper, and only then the virtual addresses."""
        if self._halting:
            return
        self._halting = True
        await self._outside.stop_daemon()
        await self._set_firewall(False)
        for name in self._services.states():
            self._services.switch(name, False)
        with suppress(PoolError, TimeoutError):  # a pool that cannot be exported ends with the power
            async with asyncio.timeout(_EXPORT_TIMEOUT_S):
                await self.pool.export()
        await self._outside.stop_keeper()
        self.speaker.participate(False)
        self._outside.halt(kind, reason)

    # ------------------------------------------------------------------------------------------ what the drivers see

    def snapshot(self) -> dict[str, Any]:
        """The whole state; its parts are what the drivers look at."""
        return {
            "nics": [self._nic(row) for row in self._made.rows(self.properties["nics"])],
            "heartbeat": self._heartbeat() if self.properties["heartbeat_nic"] else None,
            "vrrp": {nic: str(state) for nic, state in self.speaker.states().items()},
            "firewall_allowed": self.firewall_allowed,
            "pools": self.pools(),
            "services": self._services.states(),
            "disks": [
                {"name": f"sd{chr(ord('a') + lun.number)}", "serial": lun.serial, "size_bytes": lun.size_bytes}
                for lun in self._disks.luns
            ],
            "identity": self._identity(),
        }

    def pools(self) -> list[dict[str, Any]]:
        return [self.pool.describe()] if self.pool.known else []

    def _identity(self) -> dict[str, Any]:
        values = self.properties
        return {
            "boot_id": self._boot_id,
            "hardware": values["hardware"],
            "serial": serial(self._node),
            "version": values["version"],
            "licensed": values["licensed"],
            "reboot_reasons": {code: REBOOT_REASONS[code] for code in values["reboot_reasons"]},
            "migrating_system_dataset": values["migrating_system_dataset"],
            "booting": values["hold_boot"],
        }

    def _nic(self, link: dict[str, Any]) -> dict[str, Any]:
        shown = {key: link[key] for key in ("name", "kind", "link_up", "mac")}
        return shown | {"addresses": [*link["addresses"], *self.speaker.held(link["name"])]}

    def _heartbeat(self) -> dict[str, Any]:
        address = HEARTBEAT_ADDRESS[self._node]
        return {
            "name": HEARTBEAT_NIC,
            "link_up": self._link_up(HEARTBEAT_NIC),
            "mac": _mac(HEARTBEAT_NIC, address),
            "addresses": [f"{address}/{PREFIX_LENGTH}"],
        }

    def _link_up(self, nic: str) -> bool:
        return self._links.get("heartbeat" if nic == HEARTBEAT_NIC else lan_link(self._node, nic), False)

    def changed(self) -> None:
        """Tell which parts differ from what was told."""
        now = self.snapshot()
        parts = {name: value for name, value in now.items() if self._published.get(name) != value}
        if parts:
            self._published = now
            self._outside.changed(parts)

    # ------------------------------------------------------------------------------------------ from outside

    def advert(self, nic: str, advert: dict[str, Any]) -> None:
        """A VRRP advert arrived on a NIC."""
        if nic in self.properties["nics"]:
            self.speaker.advert(nic, advert)

    def follow_links(self, links: dict[str, bool] | None = None) -> None:
        """The carrier of each link, as the room says it is."""
        if links is not None:
            self._links = links
        up = {row["name"]: row["link_up"] for row in self._made.rows(self.properties["nics"])}
        for nic in NIC_ADDRESS[self._node]:
            self.speaker.link(nic, up.get(nic, False))
        self.changed()

    def follow_properties(self, properties: dict[str, Any]) -> None:
        self.properties = properties
        self.follow_links()

    def follow_pools(self, wanted: str) -> None:
        """Whether there shall be pools on the shelf: default or none."""
        self._pools_wanted = wanted
        self._start(self.pool.destroy() if wanted == "none" else self.pool.scan())

    def disks_changed(self) -> None:
        self.changed()
        if not self.pool.known and self._pools_wanted != "none":
            self._start(self.pool.scan())

    def _network_changed(self, announce: list[tuple[str, str]]) -> None:
        self._start(self._tell_network(announce))
        self.changed()

    async def _tell_network(self, announce: list[tuple[str, str]]) -> None:
        held = {nic: list(self.speaker.held(nic)) for nic in NIC_ADDRESS[self._node]}
        await self._outside.network(held, self.firewall_allowed, announce)

    def _start(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._working.add(task)
        task.add_done_callback(self._working.discard)


def _mac(nic: str, address: str) -> str:
    return f"02:00:00:00:{'20' if nic == HEARTBEAT_NIC else '10'}:{int(address.rsplit('.', 1)[1]):02x}"
