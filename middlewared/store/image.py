"""A whole store as the bytes of a database file.

A small one is handled in memory. A large one lies in a file without a name in the store's folder: copied in memory, it
would hold up every thread of the program for as long as the peer link waits for a heartbeat.
"""

import mmap
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import apsw

from middlewared.store.errors import StoreError
from middlewared.store.lineage import Position
from middlewared.store.migrations import SCHEMA_VERSION
from middlewared.store.rows import prepare, read_position, read_schema, rows

IMAGE_BYTES_MAX = 256 << 20
IN_MEMORY_BYTES_MAX = 4 << 20
_DRAFT = ("image-", ".new")

Data = bytes | bytearray | mmap.mmap

# SQLite file format, section 1.3: where the header says what a whole, WAL-free image of a database looks like.
_HEADER_BYTES = 100
_MAGIC = b"SQLite format 3\x00"
_VERSION_BYTES = slice(18, 20)  # file format write and read version: 1 is rollback journal, 2 is WAL
_NO_WAL = b"\x01\x01"  # a WAL file cannot be opened in memory, or without a name


class Image(NamedTuple):
    """A whole store as a database file, and where that store stands."""

    data: bytes | mmap.mmap
    position: Position


def take(connection: apsw.Connection, position: Position, folder: Path) -> Image:
    """The image of what a connection leads to. Raises apsw.Error, OSError (no room in the folder)."""
    if connection.pragma("page_count") * connection.pragma("page_size") <= IN_MEMORY_BYTES_MAX:
        return Image(connection.serialize("main"), position)
    with _draft(folder) as path:
        copy = apsw.Connection(str(path))
        try:
            copy.pragma("synchronous", "off")
            with copy.backup("main", connection, "main") as backup:
                backup.step(-1)
        finally:
            copy.close()
        with path.open("rb") as file:
            return Image(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), position)


def open_image(data: Data, folder: Path) -> apsw.Connection:
    """A connection to a copy of an image. Raises StoreError when it is none, OSError (no room in the folder)."""
    if len(data) > IMAGE_BYTES_MAX:
        raise StoreError(f"The image of the store is too large: {len(data)} bytes, {IMAGE_BYTES_MAX} allowed")
    page_bytes = int.from_bytes(data[16:18], "big")
    page_bytes = 65536 if page_bytes == 1 else page_bytes
    pages = int.from_bytes(data[28:32], "big")
    if len(data) < _HEADER_BYTES or data[: len(_MAGIC)] != _MAGIC or len(data) != page_bytes * pages:
        raise StoreError("The image of the store is damaged or cut short")
    return prepare(_open_in_memory(data) if len(data) <= IN_MEMORY_BYTES_MAX else _open_file(data, folder))


def remove_drafts(folder: Path) -> None:
    """What a killed program left behind."""
    for path in folder.glob("*".join(_DRAFT)):
        path.unlink(missing_ok=True)


def _open_in_memory(data: Data) -> apsw.Connection:
    copy = bytearray(data)
    copy[_VERSION_BYTES] = _NO_WAL
    source = apsw.Connection(":memory:")
    source.deserialize("main", copy)
    return source


def _open_file(data: Data, folder: Path) -> apsw.Connection:
    with _draft(folder) as path:
        with path.open("r+b") as file:
            file.write(data)
            file.seek(_VERSION_BYTES.start)
            file.write(_NO_WAL)
        return apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)


@contextmanager
def _draft(folder: Path) -> Iterator[Path]:
    """A private file that has a name for a moment; whoever has opened it by then keeps it."""
    prefix, suffix = _DRAFT
    descriptor, name = tempfile.mkstemp(suffix, prefix, folder)
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        os.unlink(name)


def check(source: apsw.Connection, ours: apsw.Connection) -> None:
    """Refuse what is not a sound store of exactly our schema. Raises StoreError."""
    try:
        findings = [next(iter(row.values())) for row in rows(source, "PRAGMA integrity_check(1)")]
        version = source.pragma("user_version")
        orphans = rows(source, "PRAGMA foreign_key_check")
        schema = read_schema(source)
    except apsw.Error as error:
        raise StoreError(f"The image of the store is damaged: {error}") from error
    if findings != ["ok"] or orphans:
        raise StoreError(f"The image of the store is damaged: {findings[0] if not orphans else 'dangling references'}")
    if version != SCHEMA_VERSION or schema != read_schema(ours):
        raise StoreError(
            f"The image of the store has schema version {version}, this controller has {SCHEMA_VERSION}; "
            "both controllers have to run the same version"
        )
    try:
        read_position(source)
    except KeyError as error:
        raise StoreError("The image of the store is damaged: it has no position") from error
