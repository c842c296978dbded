"""The book of alerts: events for what a reader sees, dismissals that end with the condition."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from middlewared import alerts as module
from middlewared.alerts import AlertLevel, Alerts
from middlewared.bus import Bus, Event
from middlewared.errors import CallError, ValidationErrors
from middlewared.store.database import Store


class Clock:
    now_s = 1_780_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await Store.open(tmp_path / "store.db")
    yield store
    await store.close()


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def alerts(store: Store, events: list[Event], clock: Clock) -> Alerts:
    bus = Bus()
    bus.listen(events.append)
    return Alerts(bus, store, wall_s=clock)


def seen(events: list[Event]) -> list[tuple[str, Any]]:
    """What was emitted since the last look: (msg, text)."""
    found = [(event.msg, event.fields["text"] if event.fields else None) for event in events]
    events.clear()
    return found


async def test_events_tell_what_a_reader_would_see(alerts: Alerts, events: list[Event], clock: Clock) -> None:
    alerts.set("link", "WARNING", "eth0 is down", "A")
    first = events[0]
    assert (first.collection, first.id) == ("alert.list", alerts.list()[0]["uuid"])
    assert seen(events) == [("added", "eth0 is down")]
    clock.now_s += 10
    alerts.set("link", AlertLevel.WARNING, "eth0 is down", "A")
    assert seen(events) == []
    alert = alerts.list()[0]
    assert (alert["last_occurrence"] - alert["datetime"]).total_seconds() == 10
    alerts.set("link", "CRITICAL", "eth0 and eth1 are down", "A")
    assert seen(events) == [("changed", "eth0 and eth1 are down")]
    alerts.clear("link")
    assert (events[0].msg, events[0].id, events[0].fields) == ("removed", first.id, None)
    alerts.clear("link")
    assert len(events) == 1


async def test_the_id_is_the_keys(alerts: Alerts, store: Store) -> None:
    alerts.set("link", "WARNING", "eth0 is down", "A")
    other = Alerts(Bus(), store)
    other.set("link", "ERROR", "another text", "B")
    other.set("link2", "ERROR", "another text", "B")
    ids = {alert["key"]: alert["id"] for alert in other.list()}
    assert ids["link"] == alerts.list()[0]["id"] != ids["link2"]


async def test_clear_except_keeps_what_still_holds(alerts: Alerts) -> None:
    for key in ("disk.1", "disk.2", "link.1"):
        alerts.set(key, "WARNING", key, "A")
    alerts.clear_except("disk.", {"disk.2", "disk.3"})
    assert {alert["key"] for alert in alerts.list()} == {"disk.2", "link.1"}


async def test_the_worst_comes_first_then_the_newest(alerts: Alerts, clock: Clock) -> None:
    for key, level in (("old", "WARNING"), ("bad", "EMERGENCY"), ("new", "WARNING"), ("mild", "INFO")):
        alerts.set(key, level, key, "A")
        clock.now_s += 1
    assert [alert["key"] for alert in alerts.list()] == ["bad", "new", "old", "mild"]


async def test_dismissing_and_restoring(alerts: Alerts, events: list[Event], store: Store) -> None:
    alerts.set("link", "WARNING", "eth0 is down", "A")
    uuid = alerts.list()[0]["uuid"]
    await alerts.dismiss(uuid)
    assert alerts.list()[0]["dismissed"] is True
    assert Alerts(Bus(), store)._dismissed == {uuid}  # also after a restart, and on the other controller
    await alerts.restore(uuid)
    assert alerts.list()[0]["dismissed"] is False
    assert [message for message, _ in seen(events)] == ["added", "changed", "changed"]
    with pytest.raises(ValidationErrors, match="does not exist"):
        await alerts.dismiss("unknown")
    with pytest.raises(ValidationErrors, match="does not exist"):
        await alerts.restore("unknown")


async def test_a_dismissal_ends_with_its_condition(alerts: Alerts, store: Store) -> None:
    alerts.set("link", "WARNING", "eth0 is down", "A")
    await alerts.dismiss(alerts.list()[0]["uuid"])
    alerts.clear("link")
    await alerts.close()
    assert store.query("SELECT * FROM alert_dismissed") == []
    alerts.set("link", "WARNING", "eth0 is down", "A")
    assert alerts.list()[0]["dismissed"] is False


async def test_the_standby_may_clear_but_not_write(alerts: Alerts, store: Store) -> None:
    alerts.set("link", "WARNING", "eth0 is down", "A")
    uuid = alerts.list()[0]["uuid"]
    await alerts.dismiss(uuid)

    def standby() -> None:
        raise CallError("Controller B is active")

    store.guard = standby
    with pytest.raises(CallError, match="Controller B"):
        await alerts.restore(uuid)
    alerts.clear("link")
    await alerts.close()
    assert alerts.list() == []
    assert [row["uuid"] for row in store.query("SELECT uuid FROM alert_dismissed")] == [uuid]


async def test_an_unknown_level_is_refused(alerts: Alerts) -> None:
    with pytest.raises(ValueError, match="HORRIBLE"):
        alerts.set("link", "HORRIBLE", "eth0 is down", "A")
    assert alerts.list() == []


async def test_the_book_is_bounded(alerts: Alerts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ALERTS_MAX", 2)
    for key in ("a", "b", "c"):
        alerts.set(key, "INFO", key, "A")
    alerts.set("a", "INFO", "still", "A")
    assert {alert["text"] for alert in alerts.list()} == {"still", "b"}
