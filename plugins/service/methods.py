"""The `service.*` methods."""

import asyncio
import errno
from typing import Any

from middlewared.errors import ESERVICESTARTFAILURE, CallError, invalid, not_found
from middlewared.plugin import Call, Context, Plugin, method
from middlewared.plugins.service.units import unit_of
from middlewared.ports import PortError
from middlewared.rpc import query
from middlewared.store.database import Transaction

SERVICES_MAX = 100
START_ORDER = 50
OWN_UNITS = ("middlewared", "fenced", "keepalived", "dbus")  # what failover consists of: it does not stop itself

_CREATE = "INSERT INTO service_config (name, unit, enabled, start_order, critical) VALUES (?, ?, ?, ?, ?)"
_UPDATE = """
INSERT INTO service_config (name, enabled, start_order, critical) VALUES (?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET
enabled = excluded.enabled, start_order = excluded.start_order, critical = excluded.critical
"""
_CHANGEABLE = ("enable", "start_order", "critical")


class Services(Plugin):
    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._configure()  # before any plugin starts: failover may want a service at once
        context.store.on_commit(lambda tables: self._configure() if "service_config" in tables else None)

    @method("service.query")
    async def query(self, call: Call, filters: list[Any], options: dict[str, Any]) -> Any:
        return query.apply(self._rows(), filters, options)

    @method("service.get_instance")
    async def get_instance(self, call: Call, id: int | str) -> dict[str, Any]:
        return self._row(id)

    @method("service.create")
    async def create(self, call: Call, data: dict[str, Any]) -> dict[str, Any]:
        name, unit = data["service"], unit_of(data["service"], data.get("unit", ""))
        if unit.partition(".")[0] in OWN_UNITS or unit.startswith("systemd-"):
            raise invalid("unit", f"{unit} is a part of failover itself, or of the system", errno.EPERM)
        values = (name, unit, int(data["enable"]), data["start_order"], int(data["critical"]))

        def add(transaction: Transaction) -> None:
            taken = {row["name"]: _unit(row) for row in transaction.execute("SELECT name, unit FROM service_config")}
            if name in taken:
                raise invalid("service", f"A service named {name!r} exists already", errno.EEXIST)
            if unit in taken.values():
                raise invalid("unit", f"Another service is {unit} already", errno.EEXIST)
            if len(taken) >= SERVICES_MAX:
                raise CallError(f"There are {SERVICES_MAX} services already, the most that are allowed")
            transaction.execute(_CREATE, values)

        await self.context.store.write(add)
        return self._row(name)

    @method("service.update")
    async def update(self, call: Call, id: int | str, data: dict[str, Any]) -> dict[str, Any]:
        row = self._row(id)
        before = tuple(row[key] for key in _CHANGEABLE)
        after = tuple(data.get(key, row[key]) for key in _CHANGEABLE)
        if after != before:
            values = (row["service"], *(int(value) for value in after))
            await self.context.store.write(lambda transaction: transaction.execute(_UPDATE, values))
        return self._row(row["service"])

    @method("service.delete")
    async def delete(self, call: Call, id: int | str) -> bool:
        row = self._row(id)
        if row["state"] == "RUNNING":
            raise CallError(f"{row['service']} runs: stop it first, later nothing would", errno.EBUSY)
        name = row["service"]
        await self.context.store.write(lambda t: t.execute("DELETE FROM service_config WHERE name = ?", (name,)))
        return True

    @method("service.control")
    async def control(self, call: Call, verb: str, service: str, options: dict[str, Any]) -> bool:
        """Whether the service then runs (START, RESTART) or does not (STOP)."""
        if service not in self.context.ports.services.states():
            raise invalid("service", f"There is no service {service!r}", errno.ENOENT)
        if verb != "STOP":
            self._refuse_on_standby()
        if call.job is not None:
            call.job.set_progress(0, f"{verb} {service}")
        try:
            async with asyncio.timeout(options["timeout"]):
                await self._act(verb, service)
        except TimeoutError as error:
            raise CallError(f"{service}: no answer within {options['timeout']} seconds", errno.ETIMEDOUT) from error
        return self.context.ports.services.states()[service] is (verb != "STOP")

    async def _act(self, verb: str, service: str) -> None:
        port = self.context.ports.services
        if verb in ("STOP", "RESTART"):
            await port.stop(service)
        if verb in ("START", "RESTART"):
            try:
                await port.start(service)
            except PortError as error:
                raise CallError(f"{service} did not start: {error}", ESERVICESTARTFAILURE) from error

    def _refuse_on_standby(self) -> None:
        """Services run where the pools are; the store's guard names the active controller."""
        if self.context.store.guard is not None:
            self.context.store.guard()

    def _configure(self) -> None:
        """Tell the driver which units there are."""
        self.context.ports.services.configure({row["name"]: _unit(row) for row in self._stored()})

    # -------------------------------------------------------------------------------------- showing

    def _stored(self) -> list[dict[str, Any]]:
        rows = self.context.store.query("SELECT name, unit, enabled, start_order, critical FROM service_config")
        return [dict(row) for row in rows]

    def _row(self, id: int | str) -> dict[str, Any]:
        """By number or by name."""
        for row in self._rows():
            if id in (row["id"], row["service"]):
                return row
        raise not_found(f"Service {id} does not exist")

    def _rows(self) -> list[dict[str, Any]]:
        running = self.context.ports.services.states()
        stored = {row["name"]: row for row in self._stored()}
        return [
            _to_wire(number, name, running.get(name, False), stored.get(name))
            for number, name in enumerate(sorted(running.keys() | stored.keys()), start=1)
        ]


def _unit(row: dict[str, Any]) -> str:
    return unit_of(row["name"], row["unit"])


def _to_wire(number: int, name: str, running: bool, stored: dict[str, Any] | None) -> dict[str, Any]:
    """A row of service.query; `stored` is None for a service that a simulated machine has by itself."""
    row = stored or {"name": name, "unit": "", "enabled": 0, "start_order": START_ORDER, "critical": 1}
    return {
        "id": number,
        "service": name,
        "unit": _unit(row),
        "enable": bool(row["enabled"]),
        "start_order": row["start_order"],
        "critical": bool(row["critical"]),
        "state": "RUNNING" if running else "STOPPED",
        "pids": [],
    }
