"""The audit log: cheap to write, bounded, queried by the query language."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from middlewared import audit as module
from middlewared.audit import AuditLog
from middlewared.errors import MatchNotFound


class Clock:
    now_s = 1_780_000_000.0

    def __call__(self) -> float:
        self.now_s += 1
        return self.now_s


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[AuditLog]:
    log = await AuditLog.open(tmp_path / "audit.db", "A", rows_max=50, wall_s=Clock())
    yield log
    await log.close()


def record(log: AuditLog, method: str = "failover.update", **changes: Any) -> None:
    given: dict[str, Any] = {
        "username": "admin",
        "address": "192.0.2.7",
        "arguments": [{"timeout": 2}],
        "success": True,
    }
    log.record(method=method, **{**given, **changes})


async def test_a_row_is_there_as_soon_as_it_is_asked_for(log: AuditLog) -> None:
    record(log, success=False, error="[EFAULT] no")
    assert await log.query([], {}) == [
        {
            "id": 1,
            "time": datetime.fromtimestamp(1_780_000_001, UTC),
            "node": "A",
            "username": "admin",
            "address": "192.0.2.7",
            "method": "failover.update",
            "arguments": [{"timeout": 2}],
            "success": False,
            "error": "[EFAULT] no",
        }
    ]


async def test_rows_survive_the_daemon(tmp_path: Path) -> None:
    for number in range(3):
        log = await AuditLog.open(tmp_path / "audit.db", "A")
        record(log, f"m{number}")
        await log.close()
        await log.close()
    log = await AuditLog.open(tmp_path / "audit.db", "A")
    assert [row["method"] for row in await log.query([], {})] == ["m2", "m1", "m0"]
    await log.close()
    assert (tmp_path / "audit.db").stat().st_mode & 0o777 == 0o600


async def test_rows_reach_the_disk_unasked(log: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FLUSH_DELAY_S", 0)
    record(log)
    assert log._flushing is not None
    await log._flushing
    assert not log._pending
    assert len(await log.query([], {})) == 1


async def test_the_oldest_rows_go(log: AuditLog) -> None:
    for number in range(120):
        record(log, f"m{number}")
    rows = await log.query([], {"order_by": ["id"]})
    assert [row["method"] for row in rows] == [f"m{number}" for number in range(70, 120)]


@pytest.mark.parametrize(
    ("filters", "options", "expected"),
    [
        ([], {"limit": 2}, ["m9", "m8"]),
        ([], {"limit": 2, "offset": 3}, ["m6", "m5"]),
        ([], {"limit": 2, "order_by": ["id"]}, ["m0", "m1"]),
        ([], {"limit": 2, "order_by": ["-time"]}, ["m9", "m8"]),
        ([], {"limit": 2, "order_by": ["username", "id"]}, ["m0", "m2"]),
        ([["username", "=", "eve"]], {"limit": 2}, ["m9", "m7"]),
        ([["id", "<", 4], ["success", "=", True]], {}, ["m2", "m1", "m0"]),
    ],
)
async def test_queries(
    log: AuditLog, monkeypatch: pytest.MonkeyPatch, filters: list[Any], options: dict[str, Any], expected: list[str]
) -> None:
    monkeypatch.setattr(module, "_CHUNK_ROWS", 3)
    for number in range(10):
        record(log, f"m{number}", username="eve" if number % 2 else "admin")
    assert [row["method"] for row in await log.query(filters, options)] == expected


async def test_count_get_and_select(log: AuditLog) -> None:
    for number in range(10):
        record(log, f"m{number}")
    assert await log.query([["id", ">", 4]], {"count": True}) == 6
    assert await log.query([], {"get": True, "select": ["method"]}) == {"method": "m9"}
    with pytest.raises(MatchNotFound):
        await log.query([["id", "=", 99]], {"get": True})


async def test_results_are_bounded(log: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESULT_ROWS_MAX", 4)
    for number in range(10):
        record(log, f"m{number}")
    assert len(await log.query([], {})) == 4
    assert await log.query([], {"count": True}) == 10


async def test_a_flood_is_counted_not_kept(log: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PENDING_MAX", 3)
    for number in range(5):
        record(log, f"m{number}")
    rows = await log.query([], {"order_by": ["id"]})
    assert [row["method"] for row in rows] == ["m0", "m1", "m2", "audit"]
    assert rows[-1]["error"] == "2 rows were lost: they came faster than they could be written"


async def test_large_and_strange_arguments(log: AuditLog) -> None:
    record(log, arguments=["x" * 10_000])
    record(log, arguments=[{"when": datetime(2026, 1, 1, tzinfo=UTC), "roles": {"A"}}], username="u" * 5000)
    strange, large = await log.query([], {})
    assert large["arguments"] == ["(10004 bytes, too many to keep)"]
    assert strange["arguments"] == [{"when": "2026-01-01T00:00:00+00:00", "roles": "{'A'}"}]
    assert len(strange["username"]) == 1024


async def test_a_damaged_file_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "audit.db"
    path.write_bytes(b"this is no database" * 100)
    log = await AuditLog.open(path, "A")
    record(log)
    assert len(await log.query([], {})) == 1
    await log.close()
    assert (tmp_path / "audit.db.damaged").read_bytes().startswith(b"this is no database")
