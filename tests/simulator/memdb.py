"""SQLite databases in memory that survive the process which opened them, as a file on a disk would."""

from pathlib import Path

import apsw


class MemoryDisk:
    """One controller's own disk: its store, its kept copies, what the keeper remembers of this boot."""

    def __init__(self, name: str) -> None:
        self._uri = f"file:/{name}?vfs=memdb"
        self._flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI
        self._anchor = apsw.Connection(self._uri, flags=self._flags)  # the database lives as long as a connection

    def connect(self, path: Path) -> apsw.Connection:
        """A connection to the store (store.database.Connect)."""
        connection = apsw.Connection(self._uri, flags=self._flags)
        connection.set_busy_timeout(0)  # one thread: whoever waited here would wait for ever
        return connection

    def query(self, sql: str) -> list[tuple[object, ...]]:
        """What is on the disk, for the oracles."""
        return list(self._anchor.execute(sql))

    def close(self) -> None:
        self._anchor.close()
