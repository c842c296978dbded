"""The store: SQLite in WAL mode, read synchronously, written in one thread of its own.

What the callers may rely on:

- A write is on disk (synchronous=FULL) when `write` returns, whatever then happens to the process or the machine.
- Writes happen one after the other, each in one transaction that also advances `position`.
- A reader sees a committed state, never a half-made one; also while `restore` replaces everything.
- What `restore` replaces is contained in what replaces it, or was kept aside first; no write comes between the two.
- From the call of `begin_epoch` on nothing is committed in the old epoch, and a `restore` asked for before does not
  replace the new one.
"""

import asyncio
import errno
import logging
import os
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import apsw

from middlewared.errors import CallError
from middlewared.invariants import invariant
from middlewared.store.lineage import EPOCHS_KEPT, Epoch, Line, Position, contains
from middlewared.store.migrations import MIGRATIONS, SCHEMA_VERSION
from middlewared.store.sealing import Sealing

log = logging.getLogger(__name__)

T = TypeVar("T")

BUSY_TIMEOUT_MS = 5000
IMAGE_BYTES_MAX = 64 << 20
WRITES_WAITING_MAX = 1000

# SQLite file format, section 1.3: where the header says what a whole, WAL-free image of a database looks like.
_HEADER_BYTES = 100
_MAGIC = b"SQLite format 3\x00"
_VERSION_BYTES = slice(18, 20)  # file format write and read version: 1 is rollback journal, 2 is WAL


class StoreError(CallError):
    """The store cannot be opened, read or written, or an image was refused; the message says which and why."""

    def __init__(self, message: str) -> None:
        super().__init__(message, errno.EIO)


class Image(NamedTuple):
    """A whole store as a database file, and where that store stands."""

    data: bytes
    position: Position


Row = dict[str, Any]
Listener = Callable[[frozenset[str]], None]
Connect = Callable[[Path], apsw.Connection]
Keep = Callable[[Image], None]


def _row(cursor: apsw.Cursor, values: tuple[Any, ...]) -> Row:
    return {column[0]: value for column, value in zip(cursor.get_description(), values, strict=True)}


def _rows(connection: apsw.Connection, sql: str, params: tuple[Any, ...]) -> list[Row]:
    rows: list[Row] = list(connection.execute(sql, params))  # the row trace makes them dicts
    return rows


class Transaction:
    """What a change may do: run statements. Valid only inside the function that was given to `Store.write`."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def execute(self, sql: str, params: tuple[Any, ...] = ()) -> list[Row]:
        """Run a statement; the rows it returns (also of RETURNING), a dict each."""
        return _rows(self._connection, sql, params)

    @property
    def last_insert_id(self) -> int:
        return self._connection.last_insert_rowid()


class Store:
    """The pair-wide configuration of one controller. Made by `open`, ended by `close`."""

    def __init__(self, path: Path, writer: apsw.Connection, reader: apsw.Connection, sealing: Sealing) -> None:
        self.path = path
        self.sealing = sealing
        self.guard: Callable[[], None] | None = None
        self.replicate: Callable[[], Awaitable[None]] | None = None
        self._writer = writer
        self._reader = reader
        self._reading = threading.Lock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        self._listeners: list[Listener] = []
        self._changed: set[str] = set()
        self._writes: set[asyncio.Task[Any]] = set()
        self._closed = False
        self._owed: deque[tuple[int | None, str | None]] = deque()  # epochs that have to begin before anything else
        self._begun_count = 0
        # The hook sees every row that changes; unlike the update hook also those of REPLACE and of a bare DELETE.
        writer.preupdate_hook(lambda update: self._changed.add(update.table_name))
        self._line = _read_line(writer)
        self._leader = _read_leader(writer)

    # ------------------------------------------------------------------------------------------ life

    @classmethod
    async def open(cls, path: Path, connect: Connect | None = None, sealing: Sealing | None = None) -> "Store":
        """Open or create the store and bring it to this program's version. Raises StoreError.

        `connect` opens one connection; a test's may lead to a database in memory. `sealing` is for secrets; without
        it they stay plain, as tools and tests may have them.
        """
        chosen = Sealing(required=False) if sealing is None else sealing
        return await asyncio.to_thread(cls._open, path, connect or _connect_file, chosen)

    @classmethod
    def _open(cls, path: Path, connect: Connect, sealing: Sealing) -> "Store":
        try:
            writer = _prepare(connect(path))
            try:
                _migrate(writer, path)
                reader = _prepare(connect(path))
                for connection in (writer, reader):
                    sealing.register(connection)
                reader.pragma("query_only", True)
                return cls(path, writer, reader, sealing)
            except BaseException:
                writer.close()
                raise
        except apsw.Error as error:
            raise StoreError(f"{path}: cannot be used as the configuration store: {error}") from error
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}") from error

    async def close(self) -> None:
        """Finish the writes under way, then close the file. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        if self._writes:
            await asyncio.gather(*self._writes, return_exceptions=True)
        await asyncio.to_thread(self._thread.shutdown)
        with self._reading:
            self._reader.close()
        self._writer.close()

    # ------------------------------------------------------------------------------------------ reading

    @property
    def position(self) -> Position:
        """Where the store stands; advanced by every write."""
        return self._line.position

    @property
    def leader(self) -> str | None:
        """Which controller began the present epoch; None: an installer, or a version that did not record it."""
        return self._leader

    def query(self, sql: str, params: tuple[Any, ...] = ()) -> list[Row]:
        """Read, at once, on the caller's thread; a dict a row. Statements that write are refused."""
        try:
            with self._reading:
                return _rows(self._reader, sql, params)
        except apsw.Error as error:
            raise StoreError(f"The configuration could not be read: {error}") from error

    # ------------------------------------------------------------------------------------------ writing

    def on_commit(self, listener: Listener) -> None:
        """Call `listener(tables)` on the event loop after each change; after a restore with all tables."""
        self._listeners.append(listener)

    async def write(self, change: Callable[[Transaction], T]) -> T:
        """Run `change` in a transaction and make it durable. An exception in it rolls everything back and is raised.

        A change that touches no row leaves the position alone. The caller may be cancelled: the write is then
        completed without it, listeners and replication included.
        """
        if self.guard is not None:
            self.guard()
        return await self._enqueue(self._write_and_tell(change))

    def begin_epoch(self, epoch: int | None = None, node: str | None = None) -> Coroutine[Any, Any, None]:
        """Controller `node` becomes MASTER: what it writes is a new line of history, from this call on, also while the
        result is not yet awaited. Not guarded, and not replicated by itself.

        Without a number it is the next one. A number that is not above the present one is raised by steps of two: with
        even ones on A and odd ones on B the two never choose the same.
        """
        self._owed.append((epoch, node))
        self._begun_count += 1
        return self._settle_and_tell()

    async def snapshot(self) -> Image:
        """The whole store, for `restore` on the other controller."""
        return await self._enqueue(self._in_thread(self._serialize))

    async def restore(self, image: bytes, keep: Keep | None = None) -> None:
        """Replace everything by an image made by `snapshot`, atomically and durably. Not guarded, not replicated.

        If the image does not contain every change that was made here, `keep` first gets a copy of what is here, in the
        store's thread. Raises StoreError, and changes nothing, when the image is damaged or of another schema version,
        when `keep` fails (OSError), and when an epoch began here since the call.
        """
        await self._enqueue(self._replace_and_tell(image, keep, self._begun_count))

    async def _settle_and_tell(self) -> None:
        async def settle() -> None:
            tables = await self._in_thread(self._settle)
            if tables:
                self._tell(tables)

        await self._enqueue(settle())

    async def _replace_and_tell(self, image: bytes, keep: Keep | None, begun_count: int) -> None:
        self._tell(await self._in_thread(lambda: self._replace(image, keep, begun_count)))

    async def _write_and_tell(self, change: Callable[[Transaction], T]) -> T:
        result, tables = await self._in_thread(lambda: self._commit(change))
        if tables:
            self._tell(tables)
            if self.replicate is not None:
                await self.replicate()
        return result

    async def _enqueue(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine as a task of the store's own, so that a cancelled caller does not tear it apart."""
        if self._closed or len(self._writes) >= WRITES_WAITING_MAX:
            work.close()
            raise StoreError("The store is closed" if self._closed else "Too many configuration changes at once")
        task = asyncio.create_task(work)
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)
        return await asyncio.shield(task)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except apsw.Error as error:
            raise StoreError(f"The configuration could not be changed: {error}") from error

    def _tell(self, tables: frozenset[str]) -> None:
        for listener in list(self._listeners):
            try:
                listener(tables)
            except Exception:
                log.exception("a listener failed on a change of %s", ", ".join(sorted(tables)))

    # ------------------------------------------------------------------------- the writer's thread, from here on

    def _commit(self, change: Callable[[Transaction], T]) -> tuple[T, frozenset[str]]:
        settled = self._settle()
        result, tables = self._transact(change)
        return result, settled | tables

    def _settle(self) -> frozenset[str]:
        """Begin the epochs that are due, each in a transaction of its own."""
        changed: frozenset[str] = frozenset()
        while self._owed:
            epoch, node = self._owed[0]
            changed |= self._transact(lambda t: _begin_epoch(t, epoch, node))[1]  # noqa: B023  called at once
            self._owed.popleft()
        return changed

    def _transact(self, change: Callable[[Transaction], T]) -> tuple[T, frozenset[str]]:
        self._changed.clear()
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            result = change(Transaction(self._writer))
            tables = frozenset(self._changed)
            if tables:
                self._writer.execute("UPDATE meta SET value = value + 1 WHERE key = 'seq'")
            line, leader = self._line, self._leader
            if "epoch" in tables:
                line, leader = _read_line(self._writer), _read_leader(self._writer)
            line = line._replace(position=_read_position(self._writer))
            self._writer.execute("COMMIT")
        except BaseException:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            raise
        self._line, self._leader = line, leader
        return result, tables

    def _serialize(self) -> Image:
        image = bytearray(self._writer.serialize("main"))
        image[_VERSION_BYTES] = b"\x01\x01"  # a WAL file cannot be opened in memory, and the image needs no WAL
        return Image(bytes(image), self._line.position)

    def _replace(self, image: bytes, keep: Keep | None, begun_count: int) -> frozenset[str]:
        source = _open_image(image)
        try:
            _check_image(source, self._writer)
            if self._begun_count != begun_count:
                raise StoreError("This controller has begun to lead: its configuration is not overwritten")
            if keep is not None and not contains(_read_line(source), self._line):
                self._keep(keep)
            # All pages in one step are one WAL transaction: atomic for readers, and for a crash.
            with self._writer.backup("main", source, "main") as backup:
                backup.step(-1)
        finally:
            source.close()
        self._line, self._leader = _read_line(self._writer), _read_leader(self._writer)
        return frozenset(name for kind, name, _ in _schema(self._writer) if kind == "table")

    def _keep(self, keep: Keep) -> None:
        try:
            keep(self._serialize())
        except OSError as error:
            raise StoreError(
                f"The configuration here has changes that the image lacks, and could not be kept aside: {error}"
            ) from error


def _begin_epoch(transaction: Transaction, epoch: int | None, node: str | None) -> None:
    meta = {row["key"]: row["value"] for row in transaction.execute("SELECT key, value FROM meta")}
    present = meta["epoch"]
    number = present + 1 if epoch is None else epoch
    if number <= present:
        number += (present - number) // 2 * 2 + 2
    transaction.execute("UPDATE meta SET value = ? WHERE key = 'epoch'", (number,))
    transaction.execute("INSERT INTO epoch (epoch, base_seq, node) VALUES (?, ?, ?)", (number, meta["seq"], node))
    transaction.execute(
        "DELETE FROM epoch WHERE epoch NOT IN (SELECT epoch FROM epoch ORDER BY epoch DESC LIMIT ?)", (EPOCHS_KEPT,)
    )


def _create_private(path: Path) -> None:
    """Make sure that nobody else may read the file. SQLite gives the -wal and -shm files the same permissions."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.parent.stat().st_mode & 0o077:
        log.warning("%s may be entered by other users; the store expects a directory of mode 0700", path.parent)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    path.chmod(0o600)


def _connect_file(path: Path) -> apsw.Connection:
    _create_private(path)
    connection = apsw.Connection(str(path))
    connection.set_busy_timeout(BUSY_TIMEOUT_MS)
    invariant(connection.pragma("journal_mode", "wal") == "wal", f"{path}: no WAL on this filesystem")
    connection.pragma("synchronous", "full")
    return connection


def _prepare(connection: apsw.Connection) -> apsw.Connection:
    """What every connection of the store needs, wherever it leads."""
    connection.pragma("foreign_keys", True)
    connection.pragma("secure_delete", True)  # a secret that was plain is not left in the free space of the file
    connection.row_trace = _row
    return connection


def _migrate(connection: apsw.Connection, path: Path) -> None:
    version = int(connection.pragma("user_version") or 0)
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"{path}: written by a newer version of middlewared (schema {version}, this one knows {SCHEMA_VERSION}); "
            "start the newer version, or restore a backup made by this one"
        )
    for number in range(version, SCHEMA_VERSION):
        connection.execute(f"BEGIN IMMEDIATE; {MIGRATIONS[number]}; PRAGMA user_version = {number + 1}; COMMIT")


def _read_position(connection: apsw.Connection) -> Position:
    meta = {row["key"]: row["value"] for row in _rows(connection, "SELECT key, value FROM meta", ())}
    return Position(meta["epoch"], meta["seq"])


def _read_line(connection: apsw.Connection) -> Line:
    rows = _rows(connection, "SELECT epoch, base_seq FROM epoch ORDER BY epoch", ())
    return Line(_read_position(connection), tuple(Epoch(row["epoch"], row["base_seq"]) for row in rows))


def _read_leader(connection: apsw.Connection) -> str | None:
    rows = _rows(connection, "SELECT node FROM epoch ORDER BY epoch DESC LIMIT 1", ())
    return rows[0]["node"] if rows else None


def _schema(connection: apsw.Connection) -> list[tuple[str, str, str]]:
    rows = _rows(connection, "SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY 1, 2", ())
    return [(row["type"], row["name"], row["sql"]) for row in rows]


def _open_image(image: bytes) -> apsw.Connection:
    if len(image) > IMAGE_BYTES_MAX:
        raise StoreError(f"The image of the store is too large: {len(image)} bytes, {IMAGE_BYTES_MAX} allowed")
    page_bytes = int.from_bytes(image[16:18], "big")
    page_bytes = 65536 if page_bytes == 1 else page_bytes
    pages = int.from_bytes(image[28:32], "big")
    if len(image) < _HEADER_BYTES or not image.startswith(_MAGIC) or len(image) != page_bytes * pages:
        raise StoreError("The image of the store is damaged or cut short")
    patched = bytearray(image)
    patched[_VERSION_BYTES] = b"\x01\x01"
    source = apsw.Connection(":memory:")
    source.deserialize("main", bytes(patched))
    source.row_trace = _row
    return source


def _check_image(source: apsw.Connection, ours: apsw.Connection) -> None:
    """Refuse what is not a sound store of exactly our schema."""
    try:
        findings = [next(iter(row.values())) for row in _rows(source, "PRAGMA integrity_check(1)", ())]
        version = source.pragma("user_version")
        orphans = _rows(source, "PRAGMA foreign_key_check", ())
        schema = _schema(source)
    except apsw.Error as error:
        raise StoreError(f"The image of the store is damaged: {error}") from error
    if findings != ["ok"] or orphans:
        raise StoreError(f"The image of the store is damaged: {findings[0] if not orphans else 'dangling references'}")
    if version != SCHEMA_VERSION or schema != _schema(ours):
        raise StoreError(
            f"The image of the store has schema version {version}, this controller has {SCHEMA_VERSION}; "
            "both controllers have to run the same version"
        )
    try:
        _read_position(source)
    except KeyError as error:
        raise StoreError("The image of the store is damaged: it has no position") from error
