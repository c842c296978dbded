"""The `interface.*` methods."""

import errno
from collections.abc import Callable, Mapping
from typing import Any

from middlewared.bus import Event
from middlewared.errors import invalid, not_found
from middlewared.plugin import Call, Context, Plugin, method
from middlewared.plugins.interface import generations, rows, rules
from middlewared.plugins.interface.applier import Applier
from middlewared.plugins.interface.commits import Commits
from middlewared.plugins.interface.config import UPSERT, InterfaceConfig, changed, read_configs
from middlewared.plugins.interface.generations import Generations
from middlewared.plugins.interface.links import Links
from middlewared.plugins.interface.rules import Surroundings
from middlewared.ports import Nic
from middlewared.rpc import query
from middlewared.store.database import Transaction

_TABLES = {"interface_config", "interface_links"}

Select = Callable[[str], list[dict[str, Any]]]


class Interfaces(Plugin):
    """Changes of a link are staged, and made by `commit`; an interface's place in failover changes at once."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.applier = Applier(context)
        self.commits = Commits(context, self.applier)
        self._shown: dict[str, dict[str, Any]] = {}

    async def start(self) -> None:
        await self.applier.start()
        self._shown = self._rows()
        self.context.ports.interfaces.on_change(self._announce)
        self.context.store.on_commit(lambda tables: self._announce() if tables & _TABLES else None)

    async def stop(self) -> None:
        await self.applier.stop()

    # -------------------------------------------------------------------------------------- showing

    @method("interface.query")
    async def query(self, call: Call, filters: list[Any], options: dict[str, Any]) -> Any:
        return query.apply(self._rows().values(), filters, options)

    @method("interface.get_instance")
    async def get_instance(self, call: Call, id: str) -> dict[str, Any]:
        return self._row(id)

    @method("interface.bridge_members_choices")
    async def bridge_members_choices(self, call: Call, id: str | None) -> dict[str, str]:
        return self._port_choices("BRIDGE", id)

    @method("interface.lag_ports_choices")
    async def lag_ports_choices(self, call: Call, id: str | None) -> dict[str, str]:
        return self._port_choices("LINK_AGGREGATION", id)

    @method("interface.vlan_parent_interface_choices")
    async def vlan_parent_interface_choices(self, call: Call) -> dict[str, str]:
        links = self._generations().newest
        aggregated = {port for link in links.values() if link.kind == "LINK_AGGREGATION" for port in link.ports}
        return self._choices(rules.PARENT_KINDS, aggregated)

    # -------------------------------------------------------------------------------------- changing

    @method("interface.create")
    async def create(self, call: Call, data: dict[str, Any]) -> dict[str, Any]:
        def change(transaction: Transaction) -> str:
            links = generations.read(transaction.execute).newest
            link = rules.create(links, data, self._surroundings(transaction.execute))
            generations.stage(transaction, {**links, link.name: link})
            return link.name

        return self._row(await self.context.store.write(change))

    @method("interface.update")
    async def update(self, call: Call, id: str, data: dict[str, Any]) -> dict[str, Any]:
        self._row(id)
        if any(planned is not None for planned in self._plan(id, data, self.context.store.query)):
            # Planned again inside the transaction: another update may have come in between.
            await self.context.store.write(lambda transaction: self._apply(id, data, transaction))
        return self._row(id)

    @method("interface.delete")
    async def delete(self, call: Call, id: str) -> bool:
        self._row(id)

        def change(transaction: Transaction) -> None:
            links = generations.read(transaction.execute).newest
            generations.stage(transaction, rules.delete(links, id, self._surroundings(transaction.execute)))

        await self.context.store.write(change)
        return True

    @method("interface.commit")
    async def commit(self, call: Call, options: dict[str, Any]) -> None:
        await self.commits.commit(rollback=options["rollback"], timeout_s=options["checkin_timeout"])

    @method("interface.checkin")
    async def checkin(self, call: Call) -> None:
        await self.commits.check_in()

    @method("interface.rollback")
    async def rollback(self, call: Call) -> None:
        await self.commits.go_back()

    @method("interface.settle")
    async def settle(self, call: Call) -> str:
        return await self.applier.settle()

    @method("interface.has_pending_changes")
    async def has_pending_changes(self, call: Call) -> bool:
        return self._generations().staged is not None

    @method("interface.checkin_waiting")
    async def checkin_waiting(self, call: Call) -> int | None:
        return self.applier.waiting_s()

    # -------------------------------------------------------------------------------------- planning

    def _apply(self, name: str, data: Mapping[str, Any], transaction: Transaction) -> None:
        config, links = self._plan(name, data, transaction.execute)
        if config is not None:
            transaction.execute(UPSERT, config.row)
        if links is not None:
            generations.stage(transaction, links)

    def _plan(self, name: str, data: Mapping[str, Any], select: Select) -> tuple[InterfaceConfig | None, Links | None]:
        """The place in failover to write at once, and the links to stage; None where nothing changes.

        Raises ValidationErrors.
        """
        around, now = self._surroundings(select), generations.read(select)
        virtual = name in now.newest and now.newest[name].kind != "PHYSICAL"
        at_once = {key: value for key, value in data.items() if key not in rules.ALL_LINK_FIELDS}
        staged = {key: value for key, value in data.items() if key in rules.ALL_LINK_FIELDS}
        if virtual and "description" in at_once:
            staged["description"] = at_once.pop("description")
        config = self._planned_config(name, at_once, around, now) if at_once else None
        if not staged:
            return config, None
        link = rules.update(now.newest, name, staged, around)
        return config, None if now.newest.get(name) == link else {**now.newest, name: link}

    def _planned_config(
        self, name: str, data: Mapping[str, Any], around: Surroundings, now: Generations
    ) -> InterfaceConfig | None:
        present = {nic.name for nic in self._nics()}
        if data.get("failover_virtual_aliases") or data.get("failover_critical"):
            self._refuse_place(name, present, now)
        if name not in present and data.get("failover_virtual_aliases"):
            raise not_found(f"Interface {name} is configured, but this controller has no such interface now")
        configs = dict(around.configs)
        current = configs.pop(name, InterfaceConfig(name))
        own = {**rules.own_addresses(now.committed), **rules.own_addresses(now.newest)}
        wanted = changed(
            current, data, others=list(configs.values()), nics=around.nics, heartbeat=around.heartbeat, own=own
        )
        return None if wanted == current else wanted

    @staticmethod
    def _refuse_place(name: str, present: set[str], now: Generations) -> None:
        """No place in failover for a port, nor for what may vanish again. Raises ValidationErrors."""
        for links in (now.newest, now.committed):
            master = next((link.name for link in links.values() if name in link.ports), None)
            if master is not None:
                raise invalid("interface_update", f"{name} is a port of {master}: give {master} its place in failover")
        made = name in now.newest and now.newest[name].kind != "PHYSICAL"
        lasting = name in now.committed and (now.previous is None or name in now.previous)
        if made and not lasting:
            text = f"{name} is new: commit it and check in (interface.commit, interface.checkin) first"
            raise invalid("interface_update", text, errno.EBUSY)

    # -------------------------------------------------------------------------------------- looking

    def _generations(self) -> Generations:
        return generations.read(self.context.store.query)

    def _nics(self) -> list[Nic]:
        port = self.context.ports.interfaces
        heartbeat = port.heartbeat()
        return [*port.nics(), *([heartbeat] if heartbeat is not None else [])]

    def _surroundings(self, select: Select) -> Surroundings:
        port, settings = self.context.ports.interfaces, self.context.settings
        return Surroundings(settings.node, settings.other_node, port.nics(), port.heartbeat(), read_configs(select))

    def _row(self, name: str) -> dict[str, Any]:
        try:
            return self._rows()[name]
        except KeyError:
            raise not_found(f"Interface {name} does not exist") from None

    def _rows(self) -> dict[str, dict[str, Any]]:
        settings, select = self.context.settings, self.context.store.query
        links = self._generations().newest
        return rows.build(self._nics(), read_configs(select), links, node=settings.node, other_node=settings.other_node)

    def _port_choices(self, kind: str, id: str | None) -> dict[str, str]:
        links = self._generations().newest
        taken = {port for link in links.values() if link.name != id for port in link.ports}
        return self._choices(rules.PORT_KINDS[kind], taken | ({id} if id else set()))

    def _choices(self, kinds: tuple[str, ...], taken: set[str]) -> dict[str, str]:
        heartbeat = self.context.ports.interfaces.heartbeat()
        hidden = taken | ({heartbeat.name} if heartbeat is not None else set())
        return {name: name for name, row in self._rows().items() if row["type"] in kinds and name not in hidden}

    def _announce(self) -> None:
        """Tell subscribers which rows differ from what they were told."""
        before, self._shown = self._shown, self._rows()
        for name, row in self._shown.items():
            if name not in before:
                self.context.bus.emit(Event("interface.query", "added", row, id=name))
            elif before[name] != row:
                self.context.bus.emit(Event("interface.query", "changed", row, id=name))
        for name in before.keys() - self._shown.keys():
            self.context.bus.emit(Event("interface.query", "removed", id=name))
