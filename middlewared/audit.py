"""Who did what, when, from where: a bounded log of changes and logins in a database of this controller's own.

Not replicated: each controller keeps what it saw, also while it is the standby or the other one is dead. `record` only
puts a row in a queue; a thread writes the queue out in batches. A crash loses at most the last FLUSH_DELAY_S.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import apsw
import orjson

from middlewared.errors import CallError
from middlewared.rpc import query as query_language
from middlewared.store.local import open_or_replace

log = logging.getLogger(__name__)

ROWS_MAX = 100_000
PENDING_MAX = 10_000
ARGUMENTS_BYTES_MAX = 8192
TEXT_CHARACTERS_MAX = 1024
RESULT_ROWS_MAX = 10_000
FLUSH_DELAY_S = 0.2
_CHUNK_ROWS = 1000

_SCHEMA = """
CREATE TABLE IF NOT EXISTS audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    time_ms INTEGER NOT NULL,
    node TEXT NOT NULL,
    username TEXT NOT NULL,
    address TEXT NOT NULL,
    method TEXT NOT NULL,
    arguments TEXT NOT NULL,      -- JSON, masked
    success INTEGER NOT NULL,
    error TEXT
) STRICT
"""
_INSERT = """
INSERT INTO audit (time_ms, node, username, address, method, arguments, success, error) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
_TRIM = "DELETE FROM audit WHERE id <= (SELECT max(id) FROM audit) - ?"

_NEWEST_FIRST: tuple[list[str], ...] = ([], ["-id"], ["-time"])
_OLDEST_FIRST = (["id"], ["time"])

_Pending = tuple[int, str, str, str, str, str, int, str | None]


class AuditLog:
    """One controller's audit log. Made by `open`, ended by `close`; `record` and `query` belong to the event loop."""

    def __init__(self, connection: apsw.Connection, node: str, rows_max: int, wall_s: Callable[[], float]) -> None:
        self._connection = connection
        self._node = node
        self._rows_max = rows_max
        self._wall_s = wall_s
        self._pending: deque[_Pending] = deque()
        self._lost = 0
        self._flushing: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="audit")
        self._closed = False

    @classmethod
    async def open(
        cls, path: Path, node: str, *, rows_max: int = ROWS_MAX, wall_s: Callable[[], float] = time.time
    ) -> "AuditLog":
        """Open or create the log. A damaged file is put aside (`.damaged`) and a new one begun."""
        connection, _ = await asyncio.to_thread(open_or_replace, path, _SCHEMA, what="audit log")
        return cls(connection, node, rows_max, wall_s)

    async def close(self) -> None:
        """Write out what is queued and close the file. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        if self._flushing is not None:
            self._flushing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._flushing
        await self._in_thread(self._write_out)
        await asyncio.to_thread(self._thread.shutdown)
        self._connection.close()

    def record(
        self,
        *,
        username: str,
        address: str,
        method: str,
        arguments: Any,
        success: bool,
        error: str | None = None,
    ) -> None:
        """Queue a row. `arguments` are masked already; they may be anything that JSON can say."""
        if self._closed:
            return
        if len(self._pending) >= PENDING_MAX:
            self._lost += 1
            return
        text = TEXT_CHARACTERS_MAX
        row = (
            int(self._wall_s() * 1000),
            self._node,
            username[:text],
            address[:text],
            method[:text],
            _encode(arguments),
            int(success),
            error[:text] if error is not None else None,
        )
        self._pending.append(row)
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.get_running_loop().create_task(self._flush_soon())

    async def query(self, filters: list[Any], options: Mapping[str, Any]) -> Any:
        """Rows by the query language (PROTOCOL 8), the newest first unless `order_by` says otherwise.

        A row: id, time (datetime), node, username, address, method, arguments (list), success (bool), error (string
        or None). At most RESULT_ROWS_MAX rows are returned.
        """
        return await self._in_thread(lambda: self._select(filters, options))

    async def _flush_soon(self) -> None:
        while self._pending:
            await asyncio.sleep(FLUSH_DELAY_S)
            await self._in_thread(self._write_out)

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    # ------------------------------------------------------------------------- the log's thread, from here on

    def _write_out(self) -> None:
        batch = [self._pending.popleft() for _ in range(len(self._pending))]
        if self._lost:
            note = f"{self._lost} rows were lost: they came faster than they could be written"
            self._lost = 0
            batch.append((int(self._wall_s() * 1000), self._node, "", "", "audit", "[]", 0, note))
        if not batch:
            return
        try:
            with self._connection:
                self._connection.executemany(_INSERT, batch)
                self._connection.execute(_TRIM, (self._rows_max,))
        except apsw.Error:
            log.exception("%d audit rows could not be written", len(batch))

    def _select(self, filters: list[Any], options: Mapping[str, Any]) -> Any:
        self._write_out()
        try:
            return self._matching(filters, options)
        except apsw.Error as error:
            raise CallError(f"The audit log could not be read: {error}") from error

    def _matching(self, filters: list[Any], options: Mapping[str, Any]) -> Any:
        order = options.get("order_by") or []
        count = bool(options.get("count"))
        limit = 1 if options.get("get") else options.get("limit") or RESULT_ROWS_MAX
        in_order = order in _NEWEST_FIRST or order in _OLDEST_FIRST
        enough = (options.get("offset") or 0) + limit
        matches: list[Any] = []
        counted = 0
        for chunk in self._chunks("ASC" if order in _OLDEST_FIRST else "DESC"):
            found = query_language.apply(chunk, filters, {})
            counted += len(found)
            if not count:
                matches += found
            if in_order and not count and len(matches) >= enough:
                break
        if count:
            return counted
        return query_language.apply(matches, [], {**options, "limit": limit})

    def _chunks(self, direction: str) -> Iterator[list[dict[str, Any]]]:
        """The rows in bounded portions, so that what does not match is not kept."""
        cursor = self._connection.execute(f"SELECT * FROM audit ORDER BY id {direction}")  # noqa: S608  ASC or DESC
        with contextlib.closing(cursor):
            chunk: list[dict[str, Any]] = []
            for row in cursor:
                chunk.append(_row(row))
                if len(chunk) == _CHUNK_ROWS:
                    yield chunk
                    chunk = []
            yield chunk


def _row(columns: tuple[Any, ...]) -> dict[str, Any]:
    number, time_ms, node, username, address, method, arguments, success, error = columns
    return {
        "id": number,
        "time": datetime.fromtimestamp(time_ms / 1000, UTC),
        "node": node,
        "username": username,
        "address": address,
        "method": method,
        "arguments": orjson.loads(arguments),
        "success": bool(success),
        "error": error,
    }


def _encode(arguments: Any) -> str:
    text = orjson.dumps(arguments, default=str, option=orjson.OPT_NON_STR_KEYS)
    if len(text) > ARGUMENTS_BYTES_MAX:
        text = orjson.dumps([f"({len(text)} bytes, too many to keep)"])
    return text.decode()
