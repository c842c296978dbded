"""`failover.history` over both controllers: the other's rows come page by page, and it is never asked in a circle."""

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from middlewared.auth.identity import LOCAL_ORIGIN, NODE
from middlewared.bus import Bus
from middlewared.errors import CallError
from middlewared.plugin import Call
from middlewared.plugins.failover import methods
from middlewared.plugins.failover.events import Event, Tick
from middlewared.plugins.failover.history import History
from middlewared.plugins.failover.methods import Failover
from middlewared.plugins.failover.passage import Passage
from middlewared.plugins.failover.state import State

START_MS = 1_780_000_000_000


def passage(number: int) -> Passage:
    return Passage(number, "takeover", "x", START_MS + number, duration_ms=1, outcome="MASTER")


class Link:
    """The way to another plugin's handler, as a peer link would carry it."""

    def __init__(self, other: Failover) -> None:
        self.other = other
        self.connected = True
        self.asked: list[dict[str, Any]] = []
        self.trouble: CallError | None = None
        self.silent = False

    async def call(self, name: str, args: list[Any]) -> Any:
        assert name == "failover.history"
        if self.silent:
            await asyncio.get_running_loop().create_future()
        if self.trouble is not None:
            raise self.trouble
        self.asked.append(args[1])
        return await self.other.history(Call(NODE, LOCAL_ORIGIN), *args)


@pytest.fixture
async def pair(bench: Any, tmp_path: Path) -> AsyncIterator[tuple[Any, Link]]:
    """The bench has controller A's plugin; the link leads to B's, and B's link back."""
    bench.use(Failover)
    b = Failover(bench.context)
    link = Link(b)
    bench.context.peer = link  # both have it: were B to ask in turn, it would ask itself, and be seen to
    bench.plugin._history = await History.open(tmp_path / "a.db", "A", Bus())
    b._history = await History.open(tmp_path / "b.db", "B", Bus())
    yield bench, link
    await b._history.close()


async def test_both_sides_in_one_list(pair: tuple[Any, Link]) -> None:
    bench, link = pair
    bench.plugin._history.keep(passage(1))
    link.other._history.keep(passage(2))  # type: ignore[union-attr]  # opened by the fixture
    bench.plugin._history.keep(passage(3))
    assert [row["id"] for row in await bench.call("failover.history")] == ["A-3", "B-2", "A-1"]
    assert len(link.asked) == 1, "and B asked nobody"
    assert [row["id"] for row in await bench.call("failover.history", [["node", "=", "B"]])] == ["B-2"]
    assert [row["id"] for row in await bench.call("failover.history", [], {"order_by": ["id"]})] == [
        "A-1",
        "A-3",
        "B-2",
    ]


async def test_a_long_history_comes_page_by_page(pair: tuple[Any, Link], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "_HISTORY_PAGE_ROWS", 10)
    bench, link = pair
    for number in range(20):
        link.other._history.keep(passage(number))  # type: ignore[union-attr]  # opened by the fixture
    assert await bench.call("failover.history", [], {"count": True}) == 20
    assert [page["offset"] for page in link.asked] == [0, 10, 20]


async def test_without_the_other_only_our_own(pair: tuple[Any, Link], monkeypatch: pytest.MonkeyPatch) -> None:
    bench, link = pair
    bench.plugin._history.keep(passage(1))
    link.other._history.keep(passage(2))  # type: ignore[union-attr]  # opened by the fixture
    link.trouble = CallError("the link was lost")
    assert [row["id"] for row in await bench.call("failover.history")] == ["A-1"]
    monkeypatch.setattr(methods, "_HISTORY_TIMEOUT_S", 0.01)
    link.silent = True
    assert [row["id"] for row in await bench.call("failover.history")] == ["A-1"]
    link.connected = False
    assert [row["id"] for row in await bench.call("failover.history")] == ["A-1"]


async def test_a_broken_history_stops_no_engine(bench: Any, caplog: pytest.LogCaptureFixture) -> None:
    def broken(before: State, event: Event, after: State) -> None:
        raise ValueError("a bug")

    bench.use(Failover)
    bench.plugin.controller.on_step = broken
    with caplog.at_level(logging.ERROR):
        bench.plugin.controller.runner.post(Tick())
    assert "the history of failovers lacks a step" in caplog.text
