"""What the lab's machine says it is."""

from middlewared.machine import SimulatedMachine
from middlewared.ports import Identity, Listener, Platform


class SimulatedPlatform(Platform):
    def __init__(self, machine: SimulatedMachine) -> None:
        self._machine = machine

    def identity(self) -> Identity:
        return Identity(**self._machine.state["identity"])

    def on_change(self, listener: Listener) -> None:
        self._machine.on_change("identity", listener)
