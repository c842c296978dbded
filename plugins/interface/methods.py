"""The `interface.*` methods."""

from collections.abc import Callable, Mapping
from typing import Any

from middlewared.errors import not_found
from middlewared.plugin import Call, Plugin, method
from middlewared.plugins.interface.config import COLUMNS, UPSERT, InterfaceConfig, alias, bare, changed, from_row
from middlewared.ports import Nic
from middlewared.rpc import query
from middlewared.store.database import Transaction

_SELECT = f"SELECT {COLUMNS} FROM interface_config ORDER BY name"  # noqa: S608  a constant


class Interfaces(Plugin):
    @method("interface.query")
    async def query(self, call: Call, filters: list[Any], options: dict[str, Any]) -> Any:
        return query.apply(self._rows().values(), filters, options)

    @method("interface.get_instance")
    async def get_instance(self, call: Call, id: str) -> dict[str, Any]:
        return self._row(id)

    @method("interface.update")
    async def update(self, call: Call, id: str, data: dict[str, Any]) -> dict[str, Any]:
        self._row(id)
        if self._plan(id, data, self.context.store.query) is not None:
            # Planned again inside the transaction: another update may have come in between.
            await self.context.store.write(lambda transaction: self._apply(id, data, transaction))
        return self._row(id)

    @method("interface.has_pending_changes")
    async def has_pending_changes(self, call: Call) -> bool:
        return False

    @method("interface.checkin_waiting")
    async def checkin_waiting(self, call: Call) -> int | None:
        return None

    # -------------------------------------------------------------------------------------- changing

    def _apply(self, name: str, data: Mapping[str, Any], transaction: Transaction) -> None:
        planned = self._plan(name, data, transaction.execute)
        if planned is not None:
            transaction.execute(UPSERT, planned.row)

    def _plan(
        self, name: str, data: Mapping[str, Any], select: Callable[[str], list[dict[str, Any]]]
    ) -> InterfaceConfig | None:
        """The configuration to write; None when there is nothing to change. Raises ValidationErrors."""
        configs = _configs(select(_SELECT))
        current = configs.pop(name, InterfaceConfig(name))
        port = self.context.ports.interfaces
        nics, heartbeat = port.nics(), port.heartbeat()
        present = {nic.name for nic in (*nics, *([heartbeat] if heartbeat else []))}
        if name not in present and data.get("failover_virtual_aliases"):
            raise not_found(f"Interface {name} is configured, but this controller has no such interface now")
        wanted = changed(current, data, others=list(configs.values()), nics=nics, heartbeat=heartbeat)
        return None if wanted == current else wanted

    # -------------------------------------------------------------------------------------- showing

    def _row(self, name: str) -> dict[str, Any]:
        try:
            return self._rows()[name]
        except KeyError:
            raise not_found(f"Interface {name} does not exist") from None

    def _rows(self) -> dict[str, dict[str, Any]]:
        """What the machine has and what the store wants, by name; one that is only wanted is shown as well."""
        port = self.context.ports.interfaces
        configs = _configs(self.context.store.query(_SELECT))
        heartbeat = port.heartbeat()
        nics = {nic.name: nic for nic in (*port.nics(), *([heartbeat] if heartbeat else []))}
        virtual = {bare(address) for config in configs.values() for address in config.virtual_addresses}
        return {
            name: _to_wire(configs.get(name, InterfaceConfig(name)), nics.get(name), virtual)
            for name in sorted(nics.keys() | configs.keys())
        }


def _configs(rows: list[dict[str, Any]]) -> dict[str, InterfaceConfig]:
    return {row["name"]: from_row(row) for row in rows}


def _to_wire(config: InterfaceConfig, nic: Nic | None, virtual: set[str]) -> dict[str, Any]:
    addresses = nic.addresses if nic else ()
    link = "LINK_STATE_UNKNOWN" if nic is None else "LINK_STATE_UP" if nic.link_up else "LINK_STATE_DOWN"
    return {
        "id": config.name,
        "name": config.name,
        "type": nic.kind if nic else "UNKNOWN",
        "description": config.description,
        "state": {
            "name": config.name,
            "link_state": link,
            "hardware_link_address": nic.mac if nic else None,
            "aliases": [alias(address) for address in addresses],
        },
        "aliases": [alias(address) for address in addresses if bare(address) not in virtual],
        "failover_critical": config.critical,
        "failover_group": config.group,
        "failover_aliases": [],
        "failover_virtual_aliases": [alias(address) for address in config.virtual_addresses],
    }
