"""A small SQLite file of this controller's own, which is not replicated: the audit log, the history of failovers."""

import contextlib
import logging
import os
from pathlib import Path

import apsw

log = logging.getLogger(__name__)

_BUSY_TIMEOUT_MS = 5000


def open_or_replace(path: Path, schema: str, *, what: str, durable: bool = False) -> tuple[apsw.Connection, bool]:
    """Open or create the file (mode 0600, WAL): the connection, and whether a damaged file was put aside for it.

    A damaged file is kept as `.damaged`. `durable`: a commit survives a power failure, and the whole file is checked
    now (for small ones). `what` names it in the log. Raises apsw.Error, OSError when no file can be had at all.
    """
    try:
        return _connect(path, schema, durable), False
    except (apsw.NotADBError, apsw.CorruptError):
        log.exception("%s is damaged: it is put aside and a new %s begun", path, what)
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                Path(f"{path}{suffix}").replace(f"{path}.damaged{suffix}")
        return _connect(path, schema, durable), True


def _connect(path: Path, schema: str, durable: bool) -> apsw.Connection:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    path.chmod(0o600)
    connection = apsw.Connection(str(path))
    try:
        connection.set_busy_timeout(_BUSY_TIMEOUT_MS)
        connection.pragma("journal_mode", "wal")
        connection.pragma("synchronous", "full" if durable else "normal")
        connection.execute(schema)
        if durable and (found := connection.pragma("quick_check")) != "ok":
            raise apsw.CorruptError(str(found))
    except BaseException:
        connection.close()
        raise
    return connection
