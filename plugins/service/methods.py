"""The `service.*` methods."""

import asyncio
import errno
from typing import Any

from middlewared.errors import ESERVICESTARTFAILURE, CallError, invalid, not_found
from middlewared.plugin import Call, Plugin, method
from middlewared.ports import PortError
from middlewared.rpc import query

_ENABLE = """
INSERT INTO service_config (name, enabled) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET enabled = excluded.enabled
"""


class Services(Plugin):
    @method("service.query")
    async def query(self, call: Call, filters: list[Any], options: dict[str, Any]) -> Any:
        return query.apply(self._rows(), filters, options)

    @method("service.get_instance")
    async def get_instance(self, call: Call, id: int | str) -> dict[str, Any]:
        return self._row(id)

    @method("service.update")
    async def update(self, call: Call, id: int | str, data: dict[str, Any]) -> dict[str, Any]:
        row = self._row(id)
        enable = data.get("enable", row["enable"])
        if enable != row["enable"]:
            values = (row["service"], int(enable))
            await self.context.store.write(lambda transaction: transaction.execute(_ENABLE, values))
        return self._row(row["service"])

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

    # -------------------------------------------------------------------------------------- showing

    def _row(self, id: int | str) -> dict[str, Any]:
        """By number or by name."""
        for row in self._rows():
            if id in (row["id"], row["service"]):
                return row
        raise not_found(f"Service {id} does not exist")

    def _rows(self) -> list[dict[str, Any]]:
        running = self.context.ports.services.states()
        stored = self.context.store.query("SELECT name, enabled FROM service_config")
        enabled = {row["name"]: bool(row["enabled"]) for row in stored}
        return [
            {
                "id": number,
                "service": name,
                "enable": enabled.get(name, False),
                "state": "RUNNING" if running.get(name) else "STOPPED",
                "pids": [],
            }
            for number, name in enumerate(sorted(running.keys() | enabled.keys()), start=1)
        ]
