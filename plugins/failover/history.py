"""The history of failovers: a small database of this controller's own, written by a thread after the fact.

Not replicated: each controller keeps its own side, and `failover.history` shows both. `keep` only puts a passage aside
for the thread, so that nothing that moves a pool waits for it; what cannot be written is a line in the log.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import apsw
import orjson

from middlewared.bus import Bus, Event
from middlewared.plugins.failover.passage import RUNNING, Passage, PhaseRecord, interrupted
from middlewared.store.local import open_or_replace

log = logging.getLogger(__name__)

ROWS_MAX = 1000

_SCHEMA = """
CREATE TABLE IF NOT EXISTS history (
    number INTEGER PRIMARY KEY,
    role TEXT NOT NULL,
    "trigger" TEXT NOT NULL,
    started_ms INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    duration_ms INTEGER,
    outcome TEXT NOT NULL,
    error TEXT,
    phases TEXT NOT NULL       -- JSON
) STRICT
"""
_PUT = "INSERT OR REPLACE INTO history VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_TRIM = "DELETE FROM history WHERE number <= (SELECT max(number) FROM history) - ?"


class Remembers(Protocol):
    """What keeps one controller's passages: `History`, or what runs without threads and files in its place."""

    next_number: int  # of the first passage to be kept
    damaged: bool  # older rows are missing, and an administrator should know

    def keep(self, passage: Passage) -> None:
        """Put it in place of what was known of it. Returns at once."""

    async def rows(self) -> list[dict[str, Any]]:
        """As `to_wire` makes them."""

    async def close(self) -> None: ...


OpenHistory = Callable[[], Awaitable[Remembers]]


class History:
    """One controller's side. Made by `open`, ended by `close`; everything belongs to the event loop."""

    def __init__(self, connection: apsw.Connection, node: str, bus: Bus, rows_max: int, *, damaged: bool) -> None:
        self._connection = connection
        self._node = node
        self._bus = bus
        self._rows_max = rows_max
        self._pending: dict[int, Passage] = {}
        self._writing: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="history")
        self._closed = False
        self.damaged = damaged  # a damaged file was put aside, or none can be had: older rows are missing
        self.next_number = 1

    @classmethod
    async def open(cls, path: Path, node: str, bus: Bus, *, rows_max: int = ROWS_MAX) -> "History":
        """Open or create the file; what nobody saw the end of is INTERRUPTED from now on. Never raises for the file."""

        def prepare() -> tuple[apsw.Connection, bool, int]:
            connection, damaged = _open_anyhow(path)
            return connection, damaged, _close_unfinished(connection)

        connection, damaged, last_number = await asyncio.to_thread(prepare)
        history = cls(connection, node, bus, rows_max, damaged=damaged)
        history.next_number = last_number + 1
        return history

    async def close(self) -> None:
        """Write out what is put aside and close the file. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        if self._writing is not None:
            await self._writing
        await self._in_thread(self._write_out)
        await asyncio.to_thread(self._thread.shutdown)
        self._connection.close()

    def keep(self, passage: Passage) -> None:
        """Write it down soon, in place of what was known of it; tell subscribers when it began and when it ended."""
        if self._closed:
            return
        began = not passage.phases and passage.attempts == 1
        self._pending[passage.number] = passage
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(self._write_until_done())
        if began or passage.outcome != RUNNING:
            row = to_wire(self._node, passage)
            self._bus.emit(Event("failover.history", "added" if began else "changed", row, id=row["id"]))

    async def rows(self) -> list[dict[str, Any]]:
        """This controller's rows as the API shows them, the newest first; none if the file cannot be read."""
        passages = await self._in_thread(self._read)
        return [to_wire(self._node, passage) for passage in passages]

    async def _write_until_done(self) -> None:
        while self._pending:
            await self._in_thread(self._write_out)

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    # ------------------------------------------------------------------------- the history's thread, from here on

    def _write_out(self) -> None:
        batch = [self._pending.pop(number) for number in list(self._pending)]
        try:
            with self._connection:
                self._connection.executemany(_PUT, [_columns(passage) for passage in batch])
                self._connection.execute(_TRIM, (self._rows_max,))
        except apsw.Error:
            log.exception("%d rows of the failover history could not be written", len(batch))

    def _read(self) -> list[Passage]:
        self._write_out()
        try:
            return [_passage(row) for row in self._connection.execute("SELECT * FROM history ORDER BY number DESC")]
        except apsw.Error:
            log.exception("the failover history could not be read")
            return []


def to_wire(node: str, passage: Passage) -> dict[str, Any]:
    """A row of `failover.history`; instants are datetimes in UTC, durations milliseconds."""
    ended = passage.duration_ms is not None
    return {
        "id": f"{node}-{passage.number}",
        "node": node,
        "role": passage.role,
        "trigger": passage.trigger,
        "started_at": _moment(passage.started_ms),
        "finished_at": _moment(passage.started_ms + (passage.duration_ms or 0)) if ended else None,
        "duration_ms": passage.duration_ms,
        "attempts": passage.attempts,
        "outcome": passage.outcome,
        "error": passage.error,
        "phases": [asdict(phase) for phase in passage.phases],
    }


def _moment(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC)


def _open_anyhow(path: Path) -> tuple[apsw.Connection, bool]:
    try:
        return open_or_replace(path, _SCHEMA, what="failover history", durable=True)
    except (apsw.Error, OSError):
        log.exception("%s cannot be used: the history of failovers lasts only until the daemon ends", path)
        connection = apsw.Connection(":memory:")
        connection.execute(_SCHEMA)
        return connection, True


def _close_unfinished(connection: apsw.Connection) -> int:
    """Mark what a former daemon did not finish; the greatest number in use, or 0."""
    try:
        with connection:
            for row in connection.execute("SELECT * FROM history WHERE outcome = ?", (RUNNING,)).fetchall():
                connection.execute(_PUT, _columns(interrupted(_passage(row))))
        return int(connection.execute("SELECT ifnull(max(number), 0) FROM history").get)
    except apsw.Error:
        log.exception("the failover history could not be read")
        return 0


def _columns(passage: Passage) -> tuple[Any, ...]:
    return (
        passage.number,
        passage.role,
        passage.trigger,
        passage.started_ms,
        passage.attempts,
        passage.duration_ms,
        passage.outcome,
        passage.error,
        orjson.dumps([asdict(phase) for phase in passage.phases]).decode(),
    )


def _passage(row: tuple[Any, ...]) -> Passage:
    number, role, trigger, started_ms, attempts, duration_ms, outcome, error, phases = row
    records = tuple(PhaseRecord(**phase) for phase in orjson.loads(phases))
    return Passage(number, role, trigger, started_ms, attempts, duration_ms, outcome, error, records)
