"""The FIFO into which keepalived writes its notifications, one line each."""

import asyncio
import contextlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

from middlewared.ports import PortError

_LINE_BYTES_MAX = 4_096
_READ_BYTES = 65_536  # a pipe holds no more


class Fifo:
    """Held open for reading and writing, so that it survives keepalived's restarts. `on_line` gets each line."""

    def __init__(self, path: Path, on_line: Callable[[str], None]) -> None:
        self._path = path
        self._on_line = on_line
        self._fd: int | None = None
        self._rest = b""

    def open(self) -> None:
        """Make it if need be, forget what nobody read (its order in time is unknown), and listen. Raises PortError."""
        try:
            with contextlib.suppress(FileExistsError):
                os.mkfifo(self._path, 0o600)
            fd = os.open(self._path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise PortError(f"{self._path} cannot be opened: {error.strerror}") from error
        if not stat.S_ISFIFO(os.fstat(fd).st_mode):
            os.close(fd)
            raise PortError(f"{self._path} is not a FIFO; remove it")
        self._fd = fd
        self.drain()
        asyncio.get_running_loop().add_reader(fd, self._readable)

    def drain(self) -> None:
        """Forget what has been written so far."""
        self._rest = b""
        while self._read():
            pass

    def close(self) -> None:
        if self._fd is not None:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = None

    def _read(self) -> bytes:
        try:
            return os.read(self._fd, _READ_BYTES) if self._fd is not None else b""
        except BlockingIOError:
            return b""

    def _readable(self) -> None:
        *lines, self._rest = (self._rest + self._read()).split(b"\n")
        self._rest = self._rest[-_LINE_BYTES_MAX:]
        for line in lines:
            self._on_line(line.decode(errors="replace"))
