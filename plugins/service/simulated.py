"""Services of the lab's machine."""

from collections.abc import Mapping

from middlewared.machine import SimulatedMachine
from middlewared.ports import Listener, Services

_TIMEOUT_MS = 3_600_000  # the caller sets the real deadline; this one bounds what it forgot


class SimulatedServices(Services):
    def __init__(self, machine: SimulatedMachine) -> None:
        self._machine = machine

    def configure(self, units: Mapping[str, str]) -> None:
        """The lab's machine has the services that it has, and no units."""

    def states(self) -> Mapping[str, bool]:
        return dict(self._machine.state["services"])

    async def start(self, name: str) -> None:
        await self._machine.call("service_start", timeout_ms=_TIMEOUT_MS, name=name)

    async def stop(self, name: str) -> None:
        await self._machine.call("service_stop", timeout_ms=_TIMEOUT_MS, name=name)

    def on_change(self, listener: Listener) -> None:
        self._machine.on_change("services", listener)
