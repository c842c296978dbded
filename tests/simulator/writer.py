"""A client that changes the configuration, and remembers which changes were acknowledged."""

from typing import TYPE_CHECKING

from middlewared.errors import CallError
from middlewared.store.database import Transaction
from tests.support.stores import check_log, differences

if TYPE_CHECKING:
    from tests.simulator.controller import Controller, Daemon
    from tests.simulator.world import World

_PREFIX = "change-"


class Writer:
    """Each change is a row of its own, so that a lost one is missed."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._last = 0
        self._before: dict[int, int] = {}  # by change: how many were acknowledged when it was asked for
        self.acknowledged: list[int] = []

    def write(self, node: str) -> None:
        """Ask a controller for one change."""
        daemon = self._world.controllers[node].daemon
        if daemon is not None and daemon.store is not None and daemon.failover is not None:
            self._last += 1
            self._before[self._last] = len(self.acknowledged)
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
        if not self._is_safe(daemon, number):
            self._world.oracles.fail("O4", f"{node} acknowledged change {number} alone, and does not say so")

    def _is_safe(self, daemon: "Daemon", number: int) -> bool:
        """The other has it, too, or an alert says that it lacks something; where there is a pair to speak of."""
        assert daemon.failover is not None
        mine = daemon.failover.controller.mine()
        other = self._world.controllers["b" if daemon.controller.node == "a" else "a"]
        return (
            f"{_PREFIX}{number}" in other.disk.names()
            or "failover.sync" in self._alerts(daemon.controller)
            or not (mine.licensed and mine.virtual)
        )

    def trouble(self) -> str:
        """Of a healed pair: both stores are the same, and hold each acknowledged change once and in order, unless it
        was set aside with an alert. "" or what is wrong."""
        a, b = self._world.controllers.values()
        found = differences(a.disk.dump(), b.disk.dump())
        if found:
            return f"the stores differ: {found}"
        try:
            check_log(a.disk.dump())
        except AssertionError as error:
            return str(error)
        numbers = [int(name.removeprefix(_PREFIX)) for name in a.disk.names() if name.startswith(_PREFIX)]
        aside: set[str] = set()
        for controller in (a, b):
            names = controller.disk.kept_names()
            if names and "failover.kept" not in self._alerts(controller):
                return f"{controller.node} set changes aside without an alert"
            aside |= names
        lost = [number for number in self.acknowledged if number not in numbers and f"{_PREFIX}{number}" not in aside]
        return f"acknowledged changes are lost: {lost}" if lost else self._disorder(numbers)

    def _disorder(self, numbers: list[int]) -> str:
        """A change that was asked for after another had been acknowledged comes after it."""
        at = {number: index for index, number in enumerate(numbers)}
        for number in numbers:
            late = [one for one in self.acknowledged[: self._before[number]] if at.get(one, -1) > at[number]]
            if late:
                return f"change {number} was asked for after {late} had been acknowledged, and is before"
        return ""

    def _alerts(self, controller: "Controller") -> set[str]:
        daemon = controller.daemon
        return {alert["key"] for alert in daemon.alerts.list()} if daemon is not None and daemon.alerts else set()
