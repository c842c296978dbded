"""Disks of the lab's shelf that this controller sees."""

from collections.abc import Sequence

from middlewared.machine import SimulatedMachine
from middlewared.ports import Disk, Disks, Listener


class SimulatedDisks(Disks):
    def __init__(self, machine: SimulatedMachine) -> None:
        self._machine = machine

    def disks(self) -> Sequence[Disk]:
        return [
            Disk(row["name"], row["serial"], row["size_bytes"], model="Simulated disk")
            for row in self._machine.state["disks"]
        ]

    def on_change(self, listener: Listener) -> None:
        self._machine.on_change("disks", listener)
