"""Firewall over the lab's packet filter; the lab's switch obeys it before the call returns."""

from collections.abc import Sequence

from middlewared.machine import SimulatedMachine
from middlewared.ports import Firewall


class SimulatedFirewall(Firewall):
    def __init__(self, machine: SimulatedMachine) -> None:
        self._machine = machine

    async def configure(self, addresses: Sequence[str]) -> None:
        """Nothing to do: the lab's filter guards whatever its VRRP speaker holds, and blocks from the start."""

    async def block(self) -> None:
        await self._machine.call("firewall", allow=False)

    async def allow(self) -> None:
        await self._machine.call("firewall", allow=True)

    async def allowed(self) -> bool:
        state = await self._machine.call("state")
        return bool(state["firewall_allowed"])
