"""Each takeover begins an epoch of its own; a daemon that comes back on a MASTER goes on in the present one."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from middlewared.plugins.failover.controller import FailoverController
from middlewared.plugins.failover.events import Tick
from middlewared.plugins.failover.methods import Failover
from middlewared.plugins.failover.state import Phase, Role, State

TAKEOVER = (State(Role.TAKING, Phase.OPENING), State(Role.MASTER))
RESTART = (State(Role.BOOTING), State(Role.MASTER))
Step = Callable[[tuple[State, State]], Any]


@pytest.fixture
def controller(bench: Any, monkeypatch: pytest.MonkeyPatch) -> FailoverController:
    bench.use(Failover)
    controller: FailoverController = bench.plugin.controller
    controller.wall_s = lambda: 1000.0
    controller._progress = SimpleNamespace(follow=lambda *_: None)  # type: ignore[assignment]  # no jobs here
    for name in ("_publish", "_configure_speaker"):
        monkeypatch.setattr(controller, name, lambda: None)
    bench.context.store.guard = bench.context.store.replicate = None  # no other controller here
    return controller


async def become(controller: FailoverController, step: tuple[State, State]) -> None:
    before, controller.runner.state = step
    controller._stepped(before, Tick(), controller.runner.state)
    while controller._tasks:
        await asyncio.gather(*controller._tasks)


def rows(bench: Any) -> list[tuple[int, int, str]]:
    return [tuple(row.values()) for row in bench.context.store.query("SELECT * FROM epoch ORDER BY epoch")]


def master_node(bench: Any) -> str:
    return str(bench.context.store.query("SELECT master_node FROM failover_config")[0]["master_node"])


@pytest.mark.parametrize(("node", "first"), [("A", 2_000_000), ("B", 2_000_001)])
async def test_every_takeover_begins_one(bench: Any, controller: FailoverController, node: str, first: int) -> None:
    controller._node = node
    await become(controller, TAKEOVER)
    assert (rows(bench), master_node(bench)) == ([(first, 0, node)], node)
    await become(controller, TAKEOVER)  # the same controller, at the same time by its clock
    assert rows(bench) == [(first, 0, node), (first + 2, 2, node)]
    controller.wall_s = lambda: 1001.0
    await become(controller, TAKEOVER)
    assert rows(bench)[-1][0] == first + 2000


async def test_a_restarted_daemon_goes_on_in_its_own(bench: Any, controller: FailoverController) -> None:
    await become(controller, TAKEOVER)
    await become(controller, RESTART)
    assert rows(bench) == [(2_000_000, 0, "A")]


async def test_a_daemon_that_died_before_it_could_begin_one_begins_it_at_the_restart(
    bench: Any, controller: FailoverController
) -> None:
    await bench.context.store.begin_epoch(1_000_001, "B")
    await become(controller, RESTART)
    assert [row[0] for row in rows(bench)] == [1_000_001, 2_000_000]
    assert master_node(bench) == "A"


async def test_what_is_written_at_once_is_in_the_new_one(bench: Any, controller: FailoverController) -> None:
    store = bench.context.store
    before, after = TAKEOVER
    controller._stepped(before, Tick(), after)
    await store.write(lambda tx: tx.execute("UPDATE failover_config SET timeout_s = 5"))
    assert rows(bench) == [(2_000_000, 0, "A")]
    assert store.position.seq >= 2
