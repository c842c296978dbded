"""Looks at the ports and the store, and folds what it sees into Facts."""

import asyncio
import json
import logging
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from middlewared.invariants import invariant
from middlewared.plugins.failover.facts import Facts, InterfaceFacts, PoolFacts
from middlewared.plugins.failover.state import Phase, State
from middlewared.ports import Pool, PortError, Ports, VrrpInstance
from middlewared.settings import Settings
from middlewared.store.database import Store

log = logging.getLogger(__name__)

# High, so that the skew of RFC 9568 stays under 8 ms; the leader's apart from the others, so that it wins the addresses
# back when all links return at once, and an untroubled MASTER is not deposed by a photo finish.
_PRIORITY_LEADING = 254
_PRIORITY = {"A": 240, "B": 238}
_ADVERT_MS = 100  # three missed ones are an election; whether the MASTER is dead, the disks say
_ROUTER_IDS = 255


@dataclass(frozen=True, slots=True)
class InterfaceConfig:
    name: str
    critical: bool
    group: int | None
    virtual_addresses: tuple[str, ...]
    # By node letter, those that do not move; adverts go between them. They must come from the store, which is the same
    # on both controllers: one that sends by unicast and one that listens to multicast do not hear each other.
    own_addresses: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PairConfig:
    """The pair's failover configuration as the store has it."""

    disabled: bool
    master_node: str | None  # who led last, or who the administrator chose
    timeout_s: int
    interfaces: tuple[InterfaceConfig, ...]

    @property
    def virtual_addresses(self) -> tuple[str, ...]:
        return tuple(address for interface in self.interfaces for address in interface.virtual_addresses)


def read_config(store: Store) -> PairConfig:
    row = store.query("SELECT disabled, master_node, timeout_s FROM failover_config WHERE id = 1")[0]
    interfaces = store.query(
        "SELECT name, critical, failover_group, virtual_aliases, own_aliases FROM interface_config ORDER BY name"
    )
    return PairConfig(
        disabled=bool(row["disabled"]),
        master_node=row["master_node"],
        timeout_s=row["timeout_s"],
        interfaces=tuple(
            InterfaceConfig(
                item["name"],
                bool(item["critical"]),
                item["failover_group"],
                tuple(json.loads(item["virtual_aliases"])),
                {node: tuple(addresses) for node, addresses in json.loads(item["own_aliases"]).items()},
            )
            for item in interfaces
        ),
    )


def vrrp_instances(config: PairConfig, node: str, *, leading: bool) -> tuple[VrrpInstance, ...]:
    """One virtual router per interface that has virtual addresses; the same numbers on both controllers."""
    priority = _PRIORITY_LEADING if leading else _PRIORITY[node]
    wanted = [interface for interface in config.interfaces if interface.virtual_addresses]
    router_ids = _router_ids([interface.name for interface in wanted])
    return tuple(
        VrrpInstance(
            interface.name,
            interface.virtual_addresses,
            router_ids[interface.name],
            priority,
            _ADVERT_MS,
            own=interface.own_addresses.get(node, ()),
            others=interface.own_addresses.get("B" if node == "A" else "A", ()),
        )
        for interface in wanted
    )


def _router_ids(names: Sequence[str]) -> dict[str, int]:
    """A virtual router id for each interface, made of its name: an interface that is added later renumbers no other
    one (but for the rare clash, where the next number that is free is taken), so that no address moves for it.
    """
    invariant(len(names) <= _ROUTER_IDS, "there are more interfaces with virtual addresses than virtual router ids")
    taken: dict[int, str] = {}
    for name in names:
        router_id = zlib.crc32(name.encode()) % _ROUTER_IDS + 1
        while router_id in taken:
            router_id = router_id % _ROUTER_IDS + 1
        taken[router_id] = name
    return {name: router_id for router_id, name in taken.items()}


class Observer:
    """Keeps what is slow to ask (pools, configuration), and builds Facts out of everything on demand."""

    def __init__(self, settings: Settings, ports: Ports, store: Store) -> None:
        self._settings = settings
        self._ports = ports
        self._store = store
        self._listeners: list[Callable[[], None]] = []
        self._refreshing: asyncio.Task[None] | None = None
        self._stale = False
        self.pools: Sequence[Pool] = ()
        self.config = read_config(store)

    def on_change(self, listener: Callable[[], None]) -> None:
        self._listeners.append(listener)

    async def start(self) -> None:
        ports = self._ports
        await self._refresh_pools()
        for port in (ports.interfaces, ports.virtual_ips, ports.disks, ports.fencing, ports.platform):
            port.on_change(self._changed)
        ports.pools.on_change(self._pools_changed)
        self._store.on_commit(lambda tables: self._config_changed())

    async def stop(self) -> None:
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)

    def facts(self, state: State, *, ready: bool) -> Facts:
        """The snapshot of now."""
        ports, settings, fence = self._ports, self._settings, self._ports.fencing.state()
        identity = ports.platform.identity()
        heartbeat = ports.interfaces.heartbeat()
        links = {nic.name: nic.link_up for nic in ports.interfaces.nics()}
        vrrp = ports.virtual_ips.states()
        position = self._store.position
        return Facts(
            node=settings.node,
            hostname=settings.hostname,
            boot_id=identity.boot_id,
            version=identity.version,
            ready=ready,
            licensed=identity.licensed,
            licence_problem=identity.licence_problem,
            disabled=self.config.disabled,
            role=state.role,
            electing=state.phase in (Phase.ASKING, Phase.FENCING),
            interfaces=tuple(
                InterfaceFacts(
                    name=interface.name,
                    critical=interface.critical,
                    group=interface.group,
                    virtual_addresses=interface.virtual_addresses,
                    link_up=links.get(interface.name, False),
                    vrrp=vrrp.get(interface.name),
                )
                for interface in self.config.interfaces
            ),
            nics=tuple(sorted(links)),
            heartbeat_exists=heartbeat is not None,
            heartbeat_carrier=heartbeat is not None and heartbeat.link_up,
            fence_running=fence.running,
            fence_held=fence.held,
            rival_moving=fence.peer_moving,
            disks=tuple(sorted({disk.serial for disk in ports.disks.disks()} - set(fence.disks_failed))),
            too_few_disks=fence.running and fence.too_many_failed,
            pools=tuple(PoolFacts(pool.guid, pool.name, pool.imported) for pool in self.pools),
            reboot_reasons=dict(identity.reboot_reasons),
            migrating_system_dataset=identity.migrating_system_dataset,
            epoch=position.epoch,
            position=position.seq,
        )

    def _changed(self) -> None:
        for listener in self._listeners:
            listener()

    def _config_changed(self) -> None:
        self.config = read_config(self._store)
        self._changed()

    def _pools_changed(self) -> None:
        """Ask again, once, however many changes arrive meanwhile."""
        self._stale = True
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._refresh_while_stale())

    async def _refresh_while_stale(self) -> None:
        while self._stale:
            self._stale = False
            await self._refresh_pools()
            self._changed()

    async def _refresh_pools(self) -> None:
        try:
            self.pools = await self._ports.pools.pools()
        except PortError as error:
            log.warning("pools cannot be listed: %s", error)
