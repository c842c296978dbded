"""A client that changes the configuration, and remembers which changes were acknowledged."""

from typing import TYPE_CHECKING

from middlewared.errors import CallError
from middlewared.store.database import Transaction

if TYPE_CHECKING:
    from tests.simulator.controller import Daemon
    from tests.simulator.world import World

_PREFIX = "change-"


class Writer:
    """Each change is a row of its own, so that a lost one is missed."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._last = 0
        self.acknowledged: list[int] = []

    def write(self, node: str) -> None:
        """Ask a controller for one change."""
        daemon = self._world.controllers[node].daemon
        if daemon is not None and daemon.store is not None and daemon.failover is not None:
            self._last += 1
            daemon.process.start(self._write(daemon, self._last))

    async def _write(self, daemon: "Daemon", number: int) -> None:
        def change(transaction: Transaction) -> None:
            transaction.execute("INSERT INTO privilege (name) VALUES (?)", (f"{_PREFIX}{number}",))

        node = daemon.controller.node
        try:
            assert daemon.store is not None
            await daemon.store.write(change)
        except CallError as error:
            self._world.note(f"{node}: change {number} refused: {error}")
            return
        self.acknowledged.append(number)
        self._world.note(f"{node}: change {number} acknowledged")

    def lost(self) -> list[int]:
        """Acknowledged changes that neither controller has, also not set aside."""
        found: set[str] = set()
        for controller in self._world.controllers.values():
            found |= controller.disk.names()
        return [number for number in self.acknowledged if f"{_PREFIX}{number}" not in found]
