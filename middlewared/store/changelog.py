"""What was changed, an entry a transaction, in order: by it the other store follows without a full copy.

An entry is what SQLite's session extension recorded of the transaction (old and new values of each row), written in
that same transaction. `meta` and `epoch` are in it like any other table; what no changeset holds stands beside it.
Whoever applies an entry writes the same entry into its own log, so that both stores are the same, the log included.

The log is bounded. Who needs an entry that was forgotten, or one that was too large to be kept, gets a full copy.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import apsw
import orjson

from middlewared.store.errors import OutOfStep
from middlewared.store.lineage import Position
from middlewared.store.migrations import SCHEMA_VERSION
from middlewared.store.rows import Row, read_position, rows

ROWS_MAX = 10_000
BYTES_MAX = 8 << 20
ENTRY_BYTES_MAX = 512 << 10
GROUP_ENTRIES_MAX = 1000
GROUP_BYTES_MAX = 512 << 10  # changes of one message; with its head it stays below the link's bound of a frame

_REASONS = {
    apsw.SQLITE_CHANGESET_DATA: "has other values",
    apsw.SQLITE_CHANGESET_NOTFOUND: "is missing",
    apsw.SQLITE_CHANGESET_CONFLICT: "is there already",
    apsw.SQLITE_CHANGESET_CONSTRAINT: "breaks a constraint",
    apsw.SQLITE_CHANGESET_FOREIGN_KEY: "leaves dangling references",
}


class Entry(NamedTuple):
    """One transaction: it leads from `before` to `after`, its neighbour."""

    before: Position
    after: Position
    schema_version: int
    sequences: str  # JSON: sqlite_sequence as it was left, name -> number; no changeset holds it
    changes: bytes  # of SQLite's session extension


class Recording:
    """Records what a connection changes from now on, within one transaction."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._session = apsw.Session(connection, "main")
        self._session.attach()

    def end(self) -> tuple[bytes, frozenset[str]]:
        """What was changed, and in which tables."""
        changes = self._session.changeset()
        self._session.close()
        return changes, tables(changes)

    def close(self) -> None:
        """Record no more. Safe to call twice."""
        self._session.close()


def tables(changes: bytes) -> frozenset[str]:
    """The tables that a changeset touches, but for `meta`, which each one does."""
    return frozenset(change.name for change in apsw.Changeset.iter(changes)) - {"meta"}


def entry_of(connection: apsw.Connection, before: Position, after: Position, changes: bytes) -> Entry:
    """The entry of what the present transaction changed."""
    return Entry(before, after, SCHEMA_VERSION, _read_sequences(connection), changes)


def append(connection: apsw.Connection, entry: Entry) -> None:
    """Write an entry, and forget the oldest ones. Both controllers come to the same log by it."""
    if len(entry.changes) > ENTRY_BYTES_MAX:
        forget(connection)
        return
    newest = rows(connection, "SELECT bytes_logged FROM log ORDER BY seq DESC LIMIT 1")
    epoch, seq = entry.after
    bytes_logged = len(entry.changes) + (newest[0]["bytes_logged"] if newest else 0)
    connection.execute(
        "INSERT INTO log (seq, epoch, epoch_before, schema_version, sequences, bytes_logged, changes)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (seq, epoch, entry.before.epoch, entry.schema_version, entry.sequences, bytes_logged, entry.changes),
    )
    for row in connection.execute("SELECT seq, bytes_logged - length(changes) AS start FROM log ORDER BY seq"):
        if row["seq"] > seq - ROWS_MAX and row["start"] >= bytes_logged - BYTES_MAX:
            break
        connection.execute("DELETE FROM log WHERE seq = ?", (row["seq"],))


def forget(connection: apsw.Connection) -> None:
    """After a change that is not logged: what comes next does not follow on what is there."""
    connection.execute("DELETE FROM log")


def after(connection: apsw.Connection, position: Position) -> list[Entry] | None:
    """The entries that follow on a position, as many as one message carries; None where the log does not lead on."""
    found: list[Entry] = []
    size_bytes = 0
    cursor = connection.execute(
        "SELECT * FROM log WHERE seq > ? ORDER BY seq LIMIT ?", (position.seq, GROUP_ENTRIES_MAX)
    )
    for row in cursor:
        entry = _entry(row)
        size_bytes += len(entry.changes)
        if found and size_bytes > GROUP_BYTES_MAX:
            break
        found.append(entry)
    cursor.close()
    return found if found and found[0].before == position else None


def apply(connection: apsw.Connection, entries: Iterable[Entry]) -> frozenset[str]:
    """Make the changes of entries, within the caller's transaction; the tables that changed.

    Entries that are here already are skipped. Raises OutOfStep when one does not follow on what is here, is of another
    schema, or finds other values than it expects.
    """
    position = read_position(connection)
    changed: frozenset[str] = frozenset()
    for entry in entries:
        if entry.after == position or _logged(connection, entry.after):
            continue
        if entry.before != position:
            raise OutOfStep(f"A change leads from {_words(entry.before)}, and this store is at {_words(position)}")
        if entry.schema_version != SCHEMA_VERSION:
            raise OutOfStep(
                f"A change is of schema version {entry.schema_version}, and this store of {SCHEMA_VERSION}; "
                "both controllers have to run the same version"
            )
        changed |= _apply(connection, entry)
        position = entry.after
    return changed


def encode(entries: Sequence[Entry]) -> bytes:
    """Entries as one message: a line of JSON, then all their changes."""
    head = [(*each.before, *each.after, each.schema_version, each.sequences, len(each.changes)) for each in entries]
    return b"".join((orjson.dumps(head), b"\n", *(each.changes for each in entries)))


def decode(message: bytes) -> list[Entry]:
    """The entries of a message. Raises OutOfStep when they cannot be read: a full copy may be."""
    head, _, changes = message.partition(b"\n")
    entries: list[Entry] = []
    start = 0
    try:
        for row in orjson.loads(head):
            entries.append(_decode_entry(row, memoryview(changes)[start:]))
            start += len(entries[-1].changes)
    except (TypeError, ValueError) as error:
        raise OutOfStep(f"The changes of the other controller cannot be read: {error}") from error
    if start != len(changes):
        raise OutOfStep(f"The changes of the other controller have {len(changes)} bytes, not {start} as announced")
    return entries


def _decode_entry(row: list[Any], changes: memoryview) -> Entry:
    *numbers, sequences, size_bytes = row
    before_epoch, before_seq, epoch, seq, schema_version = numbers
    whole = all(type(number) is int and number >= 0 for number in (*numbers, size_bytes))
    if not whole or seq != before_seq + 1 or size_bytes > len(changes):
        raise ValueError("not an entry")
    if not all(type(number) is int for number in dict(orjson.loads(sequences)).values()):
        raise ValueError("not a table's numbers")
    before, after = Position(before_epoch, before_seq), Position(epoch, seq)
    return Entry(before, after, schema_version, sequences, bytes(changes[:size_bytes]))


def _apply(connection: apsw.Connection, entry: Entry) -> frozenset[str]:
    found: list[str] = []

    def refuse(reason: int, change: apsw.TableChange) -> int:
        found.append(f"a row of {change.name} {_REASONS.get(reason, 'does not fit')}")
        return apsw.SQLITE_CHANGESET_ABORT

    try:
        # What a foreign key did there is in the changes: here it only has to be true in the end.
        flags = apsw.SQLITE_CHANGESETAPPLY_FKNOACTION
        apsw.Changeset.apply(entry.changes, connection, conflict=refuse, flags=flags)
    except apsw.Error as error:
        why = found[0] if found else str(error)
        raise OutOfStep(f"The change to {_words(entry.after)} does not fit what is here: {why}") from error
    if read_position(connection) != entry.after:
        raise OutOfStep(f"The change to {_words(entry.after)} leads elsewhere")
    _write_sequences(connection, entry.sequences)
    append(connection, entry)
    return tables(entry.changes)


def _logged(connection: apsw.Connection, position: Position) -> bool:
    return bool(rows(connection, "SELECT 1 FROM log WHERE epoch = ? AND seq = ?", tuple(position)))


def _entry(row: Row) -> Entry:
    before = Position(row["epoch_before"], row["seq"] - 1)
    after = Position(row["epoch"], row["seq"])
    return Entry(before, after, row["schema_version"], row["sequences"], row["changes"])


def _read_sequences(connection: apsw.Connection) -> str:
    found = rows(connection, "SELECT name, seq FROM sqlite_sequence ORDER BY name")
    return orjson.dumps({row["name"]: row["seq"] for row in found}).decode()


def _write_sequences(connection: apsw.Connection, sequences: str) -> None:
    """Numbers that are never given twice, also those of rows that came and went within one change."""
    if sequences == _read_sequences(connection):
        return
    connection.execute("DELETE FROM sqlite_sequence")
    for name, number in orjson.loads(sequences).items():
        connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (name, number))


def _words(position: Position) -> str:
    return f"change {position.seq} of epoch {position.epoch}"
