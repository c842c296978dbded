"""What is said of the reasons: their evidence, and since when they hold."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from middlewared.alerts import Alerts
from middlewared.bus import Bus
from middlewared.peer.link import PeerLink
from middlewared.plugins.failover.facts import Facts
from middlewared.plugins.failover.publisher import Publisher
from middlewared.plugins.failover.state import Role
from middlewared.settings import PeerSettings
from middlewared.store.database import Store


class Clock:
    now_s = 1_780_000_000.0

    def __call__(self) -> float:
        return self.now_s


def at(seconds: int) -> datetime:
    return datetime.fromtimestamp(1_780_000_000 + seconds, UTC)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def publisher(tmp_path: Path, clock: Clock) -> AsyncIterator[Publisher]:
    store = await Store.open(tmp_path / "store.db")
    bus = Bus()
    alerts = Alerts(bus, store)
    yield Publisher(bus, PeerLink(PeerSettings(), "A"), alerts, wall_s=clock)
    await alerts.close()
    await store.close()


async def test_nothing_is_explained_of_a_healthy_pair(publisher: Publisher, a: Facts, b: Facts) -> None:
    assert publisher.explain() == []
    publisher.publish(a, b)
    assert publisher.explain() == []


async def test_a_reason_comes_with_evidence_and_remedy(publisher: Publisher, a: Facts, b: Facts) -> None:
    publisher.publish(a, replace(b, version="1.1"))
    assert publisher.explain() == [
        {
            "code": "MISMATCH_VERSIONS",
            "concerns": "both",
            "evidence": "A runs 1.0, B runs 1.1",
            "since": at(0),
            "description": "The controllers run different software versions.",
            "remedy": "Finish the upgrade: both controllers must run the same version.",
        }
    ]


async def test_a_reason_keeps_its_time_while_it_holds(publisher: Publisher, clock: Clock, a: Facts, b: Facts) -> None:
    def since() -> dict[str, datetime]:
        return {row["code"]: row["since"] for row in publisher.explain()}

    publisher.publish(a, replace(b, version="1.1"))
    clock.now_s += 10
    publisher.publish(a, replace(b, version="1.2", disks=()))
    assert since() == {"MISMATCH_DISKS": at(10), "MISMATCH_VERSIONS": at(0)}
    clock.now_s += 10
    publisher.publish(a, replace(b, disks=()))
    publisher.publish(a, replace(b, version="1.1", disks=()))
    assert since() == {"MISMATCH_DISKS": at(10), "MISMATCH_VERSIONS": at(20)}


async def test_a_failover_that_hides_a_reason_does_not_reset_its_time(
    publisher: Publisher, clock: Clock, a: Facts, b: Facts
) -> None:
    cut = replace(a, heartbeat_carrier=False)
    publisher.publish(cut, b)
    clock.now_s += 10
    publisher.publish(replace(cut, role=Role.YIELDING), b)
    assert [row["code"] for row in publisher.explain()] == ["LOC_FAILOVER_ONGOING"]
    clock.now_s += 10
    publisher.publish(cut, b)
    assert [(row["code"], row["since"]) for row in publisher.explain()] == [("NO_CARRIER_ON_HEARTBEAT", at(0))]


async def test_the_silence_of_the_other_is_dated(publisher: Publisher, a: Facts) -> None:
    publisher.publish(a, None)
    [row] = publisher.explain()
    assert row["evidence"] == f"no answer from B since {at(0):%Y-%m-%d %H:%M:%S} UTC"
