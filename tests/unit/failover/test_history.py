"""The file of past failovers: durable, bounded, never in the way."""

import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest

from middlewared.bus import Bus, Event
from middlewared.plugins.failover.history import History
from middlewared.plugins.failover.passage import Passage, PhaseRecord

DONE = Passage(
    number=1,
    role="takeover",
    trigger="elected on the network",
    started_ms=1_780_000_000_000,
    duration_ms=250,
    outcome="MASTER",
    phases=(PhaseRecord("FENCING", 250, "ok", "8 of 8 disks are held"),),
)


def numbered(number: int, outcome: str = "MASTER") -> Passage:
    return Passage(number, "takeover", "x", 1_780_000_000_000 + number, duration_ms=5, outcome=outcome)


async def test_rows_survive_the_daemon(tmp_path: Path) -> None:
    path = tmp_path / "state" / "history.db"
    history = await History.open(path, "A", Bus())
    assert history.next_number == 1
    history.keep(DONE)
    await history.close()
    await history.close()
    assert path.stat().st_mode & 0o777 == 0o600
    history = await History.open(path, "A", Bus())
    assert (history.next_number, history.damaged) == (2, False)
    assert await history.rows() == [
        {
            "id": "A-1",
            "node": "A",
            "role": "takeover",
            "trigger": "elected on the network",
            "started_at": datetime.fromtimestamp(1_780_000_000, UTC),
            "finished_at": datetime.fromtimestamp(1_780_000_000.25, UTC),
            "duration_ms": 250,
            "attempts": 1,
            "outcome": "MASTER",
            "error": None,
            "phases": [{"phase": "FENCING", "duration_ms": 250, "outcome": "ok", "detail": "8 of 8 disks are held"}],
        }
    ]
    await history.close()


async def test_what_is_put_aside_reaches_the_file_unasked(tmp_path: Path) -> None:
    history = await History.open(tmp_path / "history.db", "A", Bus())
    history.keep(DONE)
    assert history._writing is not None
    await history._writing
    with sqlite3.connect(tmp_path / "history.db") as reader:
        assert reader.execute("SELECT number, outcome FROM history").fetchall() == [(1, "MASTER")]
    await history.close()


async def test_a_later_word_replaces_the_earlier(tmp_path: Path) -> None:
    history = await History.open(tmp_path / "history.db", "A", Bus())
    history.keep(Passage(1, "takeover", "x", 1_780_000_000_000))
    [row] = await history.rows()
    assert (row["outcome"], row["finished_at"], row["duration_ms"]) == ("RUNNING", None, None)
    history.keep(DONE)
    [row] = await history.rows()
    assert row["outcome"] == "MASTER"
    await history.close()


async def test_what_nobody_saw_the_end_of_is_interrupted(tmp_path: Path) -> None:
    history = await History.open(tmp_path / "history.db", "B", Bus())
    history.keep(numbered(1))
    history.keep(Passage(2, "handover", "x", 1_780_000_000_000, phases=(PhaseRecord("EXPORTING"),)))
    await history.close()
    history = await History.open(tmp_path / "history.db", "B", Bus())
    [interrupted, other] = await history.rows()
    assert (interrupted["id"], interrupted["outcome"], interrupted["finished_at"]) == ("B-2", "INTERRUPTED", None)
    assert "during EXPORTING" in interrupted["error"]
    assert interrupted["phases"] == [
        {"phase": "EXPORTING", "duration_ms": None, "outcome": "failed", "detail": "interrupted"}
    ]
    assert other["outcome"] == "MASTER"
    assert history.next_number == 3
    await history.close()


async def test_the_oldest_rows_go(tmp_path: Path) -> None:
    history = await History.open(tmp_path / "history.db", "A", Bus(), rows_max=10)
    for number in range(1, 31):
        history.keep(numbered(number))
    assert [row["id"] for row in await history.rows()] == [f"A-{number}" for number in range(30, 20, -1)]
    await history.close()


async def test_subscribers_hear_of_the_beginning_and_the_end(tmp_path: Path) -> None:
    bus, heard = Bus(), list[Event]()
    bus.listen(heard.append)
    history = await History.open(tmp_path / "history.db", "A", bus)
    begun = Passage(1, "takeover", "x", 1_780_000_000_000)
    history.keep(begun)
    history.keep(Passage(1, "takeover", "x", 1_780_000_000_000, phases=(PhaseRecord("FENCING"),)))
    history.keep(DONE)
    assert [(event.collection, event.msg, event.id) for event in heard] == [
        ("failover.history", "added", "A-1"),
        ("failover.history", "changed", "A-1"),
    ]
    assert [(event.fields or {})["outcome"] for event in heard] == ["RUNNING", "MASTER"]
    await history.close()


@pytest.mark.parametrize("damage", ["no database", "broken pages"])
async def test_a_damaged_file_is_put_aside(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "history.db"
    if damage == "no database":
        path.write_bytes(b"this is no database" * 1000)
    else:
        history = await History.open(path, "A", Bus())
        for number in range(1, 200):
            history.keep(numbered(number))
        await history.close()
        content = bytearray(path.read_bytes())
        content[4096:-1] = b"\xff" * (len(content) - 4097)
        path.write_bytes(content)
    history = await History.open(path, "A", Bus())
    assert history.damaged
    history.keep(DONE)
    assert [row["id"] for row in await history.rows()] == ["A-1"]
    await history.close()
    assert (tmp_path / "history.db.damaged").exists()


async def test_without_any_file_it_lasts_as_long_as_the_daemon(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    history = await History.open(tmp_path / "state" / "history.db", "A", Bus())
    assert history.damaged
    history.keep(DONE)
    assert len(await history.rows()) == 1
    await history.close()


async def test_a_failing_write_is_a_line_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    history = await History.open(tmp_path / "history.db", "A", Bus())
    with sqlite3.connect(tmp_path / "history.db") as vandal:
        vandal.execute("DROP TABLE history")
    vandal.close()
    history.keep(DONE)
    assert await history.rows() == []
    assert "1 rows of the failover history could not be written" in caplog.text
    await history.close()
