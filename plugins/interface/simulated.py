"""Interfaces of the lab's machine. The heartbeat interface is not one of `nics`."""

from collections.abc import Sequence
from typing import Any

from middlewared.machine import SimulatedMachine
from middlewared.ports import Interfaces, Listener, Nic


class SimulatedInterfaces(Interfaces):
    def __init__(self, machine: SimulatedMachine) -> None:
        self._machine = machine

    def nics(self) -> Sequence[Nic]:
        return [_nic(row) for row in self._machine.state["nics"]]

    def heartbeat(self) -> Nic | None:
        row = self._machine.state["heartbeat"]
        return None if row is None else _nic(row)

    def on_change(self, listener: Listener) -> None:
        self._machine.on_change("nics", listener)
        self._machine.on_change("heartbeat", listener)


def _nic(row: dict[str, Any]) -> Nic:
    return Nic(row["name"], row["link_up"], row["mac"], tuple(row["addresses"]))
