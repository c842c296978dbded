"""Streams of bytes between an HTTP transfer and a job, bounded at both ends."""

import asyncio
import errno
import tempfile
from collections import deque
from collections.abc import AsyncIterator
from typing import Protocol

from middlewared.errors import CallError
from middlewared.rpc.limits import DOWNLOAD_BUFFERED_BYTES_MAX, TRANSFER_CHUNK_BYTES

PIPE_BYTES_MAX = 4 * TRANSFER_CHUNK_BYTES


class Output(Protocol):
    """Where a job writes what is to be downloaded."""

    async def write(self, data: bytes) -> None:
        """Waits until there is room. Raises CallError (EPIPE) when nobody will read it any more."""

    def close(self) -> None:
        """The writer has no more."""

    def abandon(self) -> None:
        """The reader wants no more."""

    def chunks(self) -> AsyncIterator[bytes]: ...


class Pipe:
    """A bounded stream in memory: the writer waits for the reader."""

    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque()
        self._size_bytes = 0
        self._closed = False
        self._abandoned = False
        self._failure: str | None = None
        self._changed = asyncio.Event()

    async def write(self, data: bytes) -> None:
        while self._size_bytes >= PIPE_BYTES_MAX and not self._abandoned and not self._closed:
            self._changed.clear()
            await self._changed.wait()
        if self._abandoned or self._closed:
            raise CallError("The other end of the transfer is closed", errno.EPIPE)
        if data:
            self._chunks.append(bytes(data))
            self._size_bytes += len(data)
            self._changed.set()

    def close(self) -> None:
        self._closed = True
        self._changed.set()

    def fail(self, why: str) -> None:
        """The writer broke off: the reader must not take what it has for the whole."""
        if not self._closed:
            self._failure = why
            self.close()

    def abandon(self) -> None:
        self._abandoned = True
        self._chunks.clear()
        self._size_bytes = 0
        self._changed.set()

    async def chunks(self) -> AsyncIterator[bytes]:
        """Read to the end. There is one reader and one writer, so one event serves both."""
        while not self._abandoned:
            if self._chunks:
                chunk = self._chunks.popleft()
                self._size_bytes -= len(chunk)
                self._changed.set()
                yield chunk
            elif self._failure is not None:
                raise CallError(self._failure, errno.EPIPE)
            elif self._closed:
                return
            else:
                self._changed.clear()
                await self._changed.wait()


class Spool:
    """A stream kept on disk, so that the job may end long before it is fetched."""

    def __init__(self) -> None:
        # Deleted by the kernel with its last descriptor: nothing is left behind, whatever happens to us.
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  closed by abandon() and by the end of chunks()
        self._size_bytes = 0
        self._closed = asyncio.Event()

    async def write(self, data: bytes) -> None:
        if self._file.closed:
            raise CallError("The download was not fetched in time", errno.EPIPE)
        self._size_bytes += len(data)
        if self._size_bytes > DOWNLOAD_BUFFERED_BYTES_MAX:
            raise CallError(f"A buffered download may have {DOWNLOAD_BUFFERED_BYTES_MAX} bytes; ask unbuffered")
        await asyncio.to_thread(self._file.write, data)

    def close(self) -> None:
        self._closed.set()

    def abandon(self) -> None:
        self._closed.set()
        self._file.close()

    async def chunks(self) -> AsyncIterator[bytes]:
        await self._closed.wait()
        if self._file.closed:
            return
        await asyncio.to_thread(self._file.seek, 0)
        while chunk := await asyncio.to_thread(self._file.read, TRANSFER_CHUNK_BYTES):
            yield chunk


class Uploads:
    """The files of one upload, in order; a job reads them while they arrive."""

    def __init__(self) -> None:
        self._files: asyncio.Queue[Pipe | None] = asyncio.Queue()
        self._open: list[Pipe] = []
        self._abandoned = False
        self._failure: str | None = None

    def add_file(self) -> Pipe:
        """The writer begins the next file."""
        pipe = Pipe()
        if self._abandoned:
            pipe.abandon()
        self._open.append(pipe)
        self._files.put_nowait(pipe)
        return pipe

    def close(self) -> None:
        """There are no more files; an unfinished one ends here."""
        for pipe in self._open:
            pipe.close()
        self._files.put_nowait(None)

    def fail(self, why: str) -> None:
        """The upload broke off: the job learns it where it reads."""
        self._failure = why
        for pipe in self._open:
            pipe.fail(why)
        self._files.put_nowait(None)

    def abandon(self) -> None:
        """The job has ended: what still arrives is dropped."""
        self._abandoned = True
        for pipe in self._open:
            pipe.abandon()

    async def files(self) -> AsyncIterator[Pipe]:
        """Each file as it begins; read it to its end (or `abandon` it) before the next."""
        while (pipe := await self._files.get()) is not None:
            yield pipe
        if self._failure is not None:
            raise CallError(self._failure, errno.EPIPE)
