"""The `system.*` methods."""

import asyncio
import errno
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from middlewared.errors import CallError
from middlewared.plugin import Call, Context, Plugin, method
from middlewared.plugins.system import machine
from middlewared.ports import PortError

log = logging.getLogger(__name__)

ANSWER_FIRST_MS = 200  # a caller hears that its request was accepted before the machine goes

PowerAction = Callable[[str], Awaitable[None]]


class System(Plugin):
    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._leaving: asyncio.Task[None] | None = None

    async def stop(self) -> None:
        if self._leaving is not None:
            self._leaving.cancel()
            await asyncio.gather(self._leaving, return_exceptions=True)

    # -------------------------------------------------------------------------------------- questions

    @method("system.info")
    async def info(self, call: Call) -> dict[str, Any]:
        found, identity = machine.read(), self.context.ports.platform.identity()
        product = {"model": identity.hardware, "system_serial": identity.serial}
        return {
            "version": identity.version,
            "hostname": self.context.settings.hostname,
            "boot_id": identity.boot_id,
            "system_product": identity.hardware,
            "system_serial": identity.serial,
            "license": product if identity.licensed else None,
            "model": found.model,
            "cores": found.cores,
            "physical_cores": found.physical_cores,
            "physmem": found.memory_bytes,
            "ecc_memory": found.ecc,
            "loadavg": list(found.load),
            "uptime": str(found.uptime).partition(".")[0],
            "uptime_seconds": found.uptime.total_seconds(),
            "boottime": found.booted,
            "datetime": found.now,
            "timezone": found.timezone,
        }

    @method("system.version")
    async def version(self, call: Call) -> str:
        return self.context.ports.platform.identity().version

    @method("system.hostname")
    async def hostname(self, call: Call) -> str:
        return self.context.settings.hostname

    @method("system.boot_id")
    async def boot_id(self, call: Call) -> str:
        return self.context.ports.platform.identity().boot_id

    @method("system.ready")
    async def ready(self, call: Call) -> bool:
        return self.context.ready

    # -------------------------------------------------------------------------------------- power

    @method("system.reboot")
    async def reboot(self, call: Call, reason: str, options: dict[str, Any]) -> None:
        self._leave("reboot", self.context.ports.power.reboot, reason, options, call)

    @method("system.shutdown")
    async def shutdown(self, call: Call, reason: str, options: dict[str, Any]) -> None:
        self._leave("shutdown", self.context.ports.power.shutdown, reason, options, call)

    def _leave(self, what: str, action: PowerAction, reason: str, options: dict[str, Any], call: Call) -> None:
        if self._leaving is not None and not self._leaving.done():
            raise CallError("The machine is about to go down already.", errno.EALREADY)
        delay_s = options["delay"] or 0
        why = f"{call.credential.username}: {reason}"
        log.warning("%s in %d s, asked for by %s", what, delay_s, why)
        self._leaving = asyncio.create_task(self._go(what, action, why, max(delay_s, ANSWER_FIRST_MS / 1000)))

    async def _go(self, what: str, action: PowerAction, why: str, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        try:
            await action(why)
        except PortError as error:  # nobody waits for this task: an alert is how the administrator hears of it
            log.error("%s failed: %s", what, error)
            text = f"The {what} that was asked for ({why}) failed: {error}"
            self.context.alerts.set(f"system.{what}", "CRITICAL", text, self.context.settings.node)

    # -------------------------------------------------------------------------------------- settings

    @method("system.general.config")
    async def general_config(self, call: Call) -> dict[str, Any]:
        api = self.context.settings.api
        return {
            "id": 1,
            "ui_address": _hosts(api.listen),
            "ui_port": api.port,
            "ui_httpsport": api.port_tls or None,
            "timezone": machine.timezone(),
        }

    @method("system.general.get_ui_urls")
    async def get_ui_urls(self, call: Call) -> list[str]:
        api = self.context.settings.api
        hosts = [item.split("/")[0] for nic in self.context.ports.interfaces.nics() for item in nic.addresses]
        plain = [_url("http", host, api.port, 80) for host in hosts if api.port]
        return plain + [_url("https", host, api.port_tls, 443) for host in hosts if api.port_tls]

    @method("system.advanced.config")
    async def advanced_config(self, call: Call) -> dict[str, Any]:
        return {"id": 1, "consolemenu": False}


def _hosts(listen: tuple[str, ...]) -> list[str]:
    """The addresses of `host:port` settings, each once."""
    return list(dict.fromkeys(item.rpartition(":")[0].strip("[]") for item in listen))


def _url(scheme: str, host: str, port: int, default_port: int) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"{scheme}://{shown}" + ("" if port == default_port else f":{port}")
