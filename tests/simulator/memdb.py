"""SQLite databases in memory that survive the process which opened them, as a file on a disk would."""

from pathlib import Path

import apsw

from middlewared.store.image import Data
from middlewared.store.lineage import Position
from tests.support.stores import Dump, dump

_FLAGS = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI


class MemoryDisk:
    """One controller's own disk: its store, and the copies that were set aside."""

    def __init__(self, name: str) -> None:
        self._uri = f"file:/{name}?vfs=memdb"
        self._anchor = apsw.Connection(self._uri, flags=_FLAGS)  # the database lives as long as a connection to it
        self._kept: dict[str, bytes] = {}

    def connect(self, path: Path) -> apsw.Connection:
        """A connection to the store (store.database.Connect)."""
        connection = apsw.Connection(self._uri, flags=_FLAGS)
        connection.set_busy_timeout(0)  # one thread: whoever waited here would wait for ever
        return connection

    def keep(self, image: Data, position: Position) -> str:
        """Set a copy aside; its name."""
        name = f"kept {position.epoch}-{position.seq}"
        self._kept.setdefault(name, bytes(image))
        return name

    def kept(self) -> list[str]:
        """Names of the copies that were set aside."""
        return list(self._kept)

    def names(self) -> list[str]:
        """Names of the writer's changes in the store, in the order in which they were made."""
        return _names(self._anchor)

    def kept_names(self) -> set[str]:
        """Names of the changes in what was set aside."""
        found: set[str] = set()
        for image in self._kept.values():
            patched = bytearray(image)
            patched[18:20] = b"\x01\x01"
            copy = apsw.Connection(":memory:")
            copy.deserialize("main", bytes(patched))
            found.update(_names(copy))
            copy.close()
        return found

    def dump(self) -> Dump:
        """Every row of every table, sorted."""
        return dump(self._anchor)

    def close(self) -> None:
        self._anchor.close()


def _names(connection: apsw.Connection) -> list[str]:
    return [str(row[0]) for row in connection.execute("SELECT name FROM privilege ORDER BY id")]
