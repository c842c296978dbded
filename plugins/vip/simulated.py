"""VirtualIps over the lab's VRRP speaker."""

import dataclasses
from collections.abc import Mapping, Sequence

from middlewared.machine import SimulatedMachine
from middlewared.ports import Listener, Stranger, VirtualIps, Vrrp, VrrpInstance


class SimulatedVirtualIps(VirtualIps):
    def __init__(self, machine: SimulatedMachine) -> None:
        self._machine = machine

    def states(self) -> Mapping[str, Vrrp]:
        return {interface: Vrrp(state) for interface, state in self._machine.state["vrrp"].items()}

    async def configure(self, instances: Sequence[VrrpInstance]) -> None:
        rows = [dataclasses.asdict(instance) for instance in instances]
        await self._machine.call("vrrp_configure", instances=rows)

    async def participate(self, wanted: bool) -> None:
        await self._machine.call("vrrp_participate", wanted=wanted)

    def strangers(self) -> Sequence[Stranger]:
        """Nobody: the lab's network has no other machines with a speaker."""
        return ()

    def on_change(self, listener: Listener) -> None:
        self._machine.on_change("vrrp", listener)
