"""The store: SQLite in WAL mode, read synchronously, written in one thread of its own.

What the callers may rely on:

- A write is on disk (synchronous=FULL) when `write` returns, whatever then happens to the process or the machine.
- Writes happen one after the other, each in one transaction that also advances `position` and logs what it changed
  (changelog.py). So does the beginning of an epoch.
- `apply` takes such changes over in order, each exactly once, all of a call or none; then both stores are the same.
- A reader sees a committed state, never a half-made one; also while `restore` replaces everything.
- What `restore` replaces is contained in what replaces it, or was kept aside first; no write comes between the two.
- From the call of `begin_epoch` on nothing is committed in the old epoch, and a `restore` or `apply` asked for before
  does not change the new one.
"""

import asyncio
import logging
import os
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import apsw

from middlewared.invariants import invariant
from middlewared.store import changelog, image
from middlewared.store.changelog import Entry
from middlewared.store.errors import StoreError
from middlewared.store.image import Data, Image
from middlewared.store.lineage import EPOCHS_KEPT, Position, contains
from middlewared.store.migrations import MIGRATIONS, SCHEMA_VERSION
from middlewared.store.rows import Row, prepare, read_leader, read_line, read_position, read_schema, rows
from middlewared.store.sealing import Sealing

log = logging.getLogger(__name__)

T = TypeVar("T")

BUSY_TIMEOUT_MS = 5000
WRITES_WAITING_MAX = 1000

Listener = Callable[[frozenset[str]], None]
Connect = Callable[[Path], apsw.Connection]
Keep = Callable[[Image], None]


class Transaction:
    """What a change may do: run statements. Valid only inside the function that was given to `Store.write`."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self.is_logged = True

    def forget_history(self) -> None:
        """What a row said before must not be found anywhere: neither this change nor an older one stays in the log. The
        other controller gets a full copy."""
        self.is_logged = False

    def execute(self, sql: str, params: tuple[Any, ...] = ()) -> list[Row]:
        """Run a statement; the rows it returns (also of RETURNING), a dict each."""
        return rows(self._connection, sql, params)

    @property
    def last_insert_id(self) -> int:
        return self._connection.last_insert_rowid()


class Store:
    """The pair-wide configuration of one controller. Made by `open`, ended by `close`."""

    def __init__(self, path: Path, writer: apsw.Connection, reader: apsw.Connection, sealing: Sealing) -> None:
        self.path = path
        self.sealing = sealing
        self.guard: Callable[[], None] | None = None
        self.replicate: Callable[[Position], Awaitable[None]] | None = None
        self._writer = writer
        self._reader = reader
        self._reading = threading.Lock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        self._listeners: list[Listener] = []
        self._writes: set[asyncio.Task[Any]] = set()
        self._closed = False
        self._owed: deque[tuple[int | None, str | None]] = deque()  # epochs that have to begin before anything else
        self._begun_count = 0
        self._line = read_line(writer)
        self._leader = read_leader(writer)

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
            writer = prepare(connect(path))
            try:
                _migrate(writer, path)
                reader = prepare(connect(path))
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
                return rows(self._reader, sql, params)
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

    def entries_after(self, position: Position) -> list[Entry] | None:
        """The changes that follow on a position, for `apply` on the other controller: as many as one message carries.

        None where the log does not lead on from there: the position is not on our line, or too long ago.
        """
        try:
            with self._reading:
                return changelog.after(self._reader, position)
        except apsw.Error as error:
            raise StoreError(f"The log of changes could not be read: {error}") from error

    async def apply(self, entries: Sequence[Entry]) -> None:
        """Take the other controller's changes over, in one durable transaction. Not guarded, not replicated.

        What is here already is skipped. Raises OutOfStep, and changes nothing, when they do not follow on what is here;
        StoreError when an epoch began here since the call.
        """
        await self._enqueue(self._apply_and_tell(entries, self._begun_count))

    async def snapshot(self) -> Image:
        """The whole store, for `restore` on the other controller."""
        return await self._enqueue(self._in_thread(self._take_image))

    async def restore(self, data: Data, keep: Keep | None = None) -> None:
        """Replace everything by an image made by `snapshot`, atomically and durably. Not guarded, not replicated.

        If the image does not contain every change that was made here, `keep` first gets a copy of what is here, in the
        store's thread. Raises StoreError, and changes nothing, when the image is damaged or of another schema version,
        when `keep` fails (OSError), and when an epoch began here since the call.
        """
        await self._enqueue(self._replace_and_tell(data, keep, self._begun_count))

    async def _settle_and_tell(self) -> None:
        async def settle() -> None:
            tables = await self._in_thread(self._settle)
            if tables:
                self._tell(tables)

        await self._enqueue(settle())

    async def _replace_and_tell(self, data: Data, keep: Keep | None, begun_count: int) -> None:
        self._tell(await self._in_thread(lambda: self._replace(data, keep, begun_count)))

    async def _apply_and_tell(self, entries: Sequence[Entry], begun_count: int) -> None:
        tables = await self._in_thread(lambda: self._apply(entries, begun_count))
        if tables:
            self._tell(tables)

    async def _write_and_tell(self, change: Callable[[Transaction], T]) -> T:
        result, tables, position = await self._in_thread(lambda: self._commit(change))
        if tables:
            self._tell(tables)
            if self.replicate is not None:
                await self.replicate(position)
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
        except (apsw.Error, OSError) as error:
            raise StoreError(f"The configuration could not be changed: {error}") from error

    def _tell(self, tables: frozenset[str]) -> None:
        for listener in list(self._listeners):
            try:
                listener(tables)
            except Exception:
                log.exception("a listener failed on a change of %s", ", ".join(sorted(tables)))

    # ------------------------------------------------------------------------- the writer's thread, from here on

    def _commit(self, change: Callable[[Transaction], T]) -> tuple[T, frozenset[str], Position]:
        settled = self._settle()
        result, tables = self._transact(change)
        return result, settled | tables, self._line.position

    def _settle(self) -> frozenset[str]:
        """Begin the epochs that are due, each in a transaction of its own."""
        changed: frozenset[str] = frozenset()
        while self._owed:
            epoch, node = self._owed[0]
            changed |= self._transact(lambda t: _begin_epoch(t, epoch, node))[1]  # noqa: B023  called at once
            self._owed.popleft()
        return changed

    def _transact(self, change: Callable[[Transaction], T]) -> tuple[T, frozenset[str]]:
        """Run a change and log it, in one transaction. One that changes nothing in the end leaves no trace."""
        recording = changelog.Recording(self._writer)
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            transaction = Transaction(self._writer)
            result = change(transaction)
            self._writer.execute("UPDATE meta SET value = value + 1 WHERE key = 'seq'")
            changes, tables = recording.end()
            if tables:
                after = read_position(self._writer)
                if transaction.is_logged:
                    entry = changelog.entry_of(self._writer, self._line.position, after, changes)
                    changelog.append(self._writer, entry)
                else:
                    changelog.forget(self._writer)
                self._commit_and_look(tables)
        finally:
            recording.close()
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
        return result, tables

    def _apply(self, entries: Sequence[Entry], begun_count: int) -> frozenset[str]:
        """All of them share one transaction, and so one wait for the disk."""
        self._check_begun(begun_count)
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            tables = changelog.apply(self._writer, entries)
            if tables:
                self._commit_and_look(tables)
        finally:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
        return tables

    def _commit_and_look(self, tables: frozenset[str]) -> None:
        """Nothing may fail after COMMIT: what is remembered of the store is read before."""
        line, leader = self._line._replace(position=read_position(self._writer)), self._leader
        if "epoch" in tables:
            line, leader = read_line(self._writer), read_leader(self._writer)
        self._writer.execute("COMMIT")
        self._line, self._leader = line, leader

    def _take_image(self) -> Image:
        return image.take(self._writer, self._line.position, self.path.parent)

    def _replace(self, data: Data, keep: Keep | None, begun_count: int) -> frozenset[str]:
        source = image.open_image(data, self.path.parent)
        try:
            image.check(source, self._writer)
            self._check_begun(begun_count)
            if keep is not None and not contains(read_line(source), self._line):
                self._keep(keep)
            # All pages in one step are one WAL transaction: atomic for readers, and for a crash.
            with self._writer.backup("main", source, "main") as backup:
                backup.step(-1)
        finally:
            source.close()
        self._line, self._leader = read_line(self._writer), read_leader(self._writer)
        return frozenset(name for kind, name, _ in read_schema(self._writer) if kind == "table")

    def _check_begun(self, begun_count: int) -> None:
        if self._begun_count != begun_count:
            raise StoreError("This controller has begun to lead: its configuration is not overwritten")

    def _keep(self, keep: Keep) -> None:
        try:
            keep(self._take_image())
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
    image.remove_drafts(path.parent)
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


def _migrate(connection: apsw.Connection, path: Path) -> None:
    version = int(connection.pragma("user_version") or 0)
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"{path}: written by a newer version of middlewared (schema {version}, this one knows {SCHEMA_VERSION}); "
            "start the newer version, or restore a backup made by this one"
        )
    for number in range(version, SCHEMA_VERSION):
        connection.execute(f"BEGIN IMMEDIATE; {MIGRATIONS[number]}; PRAGMA user_version = {number + 1}; COMMIT")
