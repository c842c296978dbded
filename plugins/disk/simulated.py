"""Disks of the lab's shelf that this controller sees."""

from collections.abc import Sequence

from middlewared.machine import SimulatedMachine
from middlewared.ports import Disk, Disks, Listener


class SimulatedDisks(Disks):
    def __init__(self, machine: SimulatedMachine) -> None:
        self._machine = machine
        self._rows: object = None  # those that `_disks` was made of: every look at the facts asks for them
        self._disks: Sequence[Disk] = ()

    def disks(self) -> Sequence[Disk]:
        rows = self._machine.state["disks"]
        if rows is not self._rows:
            self._rows = rows
            self._disks = tuple(
                Disk(row["name"], row["serial"], row["size_bytes"], model="Simulated disk") for row in rows
            )
        return self._disks

    def look(self) -> None:
        """Nothing: the lab's kernel misses no news."""

    def on_change(self, listener: Listener) -> None:
        self._machine.on_change("disks", listener)
