"""Whole images (the store) over one connection: chunked, paced, checked by SHA-256, acknowledged when applied."""

import asyncio
import contextlib
import errno
import hashlib
import logging
import mmap
from collections.abc import Awaitable, Callable, Iterator

from middlewared.errors import EREMOTENODEERROR, CallError
from middlewared.peer.calls import ERROR_CHARS_MAX, cancelled_from_outside
from middlewared.peer.codec import (
    CHUNK_BYTES_MAX,
    SNAPSHOT_BYTES_MAX,
    Cancel,
    SnapshotBegin,
    SnapshotChunk,
    SnapshotEnd,
    SnapshotFailure,
    SnapshotOk,
    encode,
)
from middlewared.peer.outbox import Message, Outbox, link_lost

log = logging.getLogger(__name__)

ServeSnapshot = Callable[[bytearray], Awaitable[None]]


class Assembly:
    """An image on its way in. Pure; raises CallError when the parts do not make the announced whole."""

    def __init__(self, begin: SnapshotBegin) -> None:
        if begin.size_bytes > SNAPSHOT_BYTES_MAX:
            raise CallError(f"A snapshot of {begin.size_bytes} bytes; at most {SNAPSHOT_BYTES_MAX}", errno.EFBIG)
        self.id = begin.id
        self._size_bytes = begin.size_bytes
        self._image = bytearray()  # grows in place: parts that are joined would be there twice
        self._digest = hashlib.sha256()

    def add(self, chunk: SnapshotChunk) -> None:
        if chunk.offset_bytes != len(self._image) or len(self._image) + len(chunk.data) > self._size_bytes:
            raise CallError(f"The snapshot does not continue at byte {len(self._image)}", errno.EBADMSG)
        self._image += chunk.data
        self._digest.update(chunk.data)

    def finish(self, end: SnapshotEnd) -> bytearray:
        """The image, whole and unaltered."""
        if len(self._image) != self._size_bytes:
            raise CallError(f"The snapshot ends at byte {len(self._image)} of {self._size_bytes}", errno.EBADMSG)
        if self._digest.hexdigest() != end.sha256:
            raise CallError("The snapshot was altered on its way: its SHA-256 differs", errno.EBADMSG)
        return self._image


class Snapshots:
    """Our image on its way out, and the other's on its way in: at most one each."""

    def __init__(self, outbox: Outbox, ids: Iterator[int], serve: ServeSnapshot) -> None:
        self._outbox = outbox
        self._ids = ids
        self._serve = serve
        self._sending: dict[int, asyncio.Future[None]] = {}
        self._assembly: Assembly | None = None
        self._applying: asyncio.Task[None] | None = None
        self._applying_id = 0

    async def send(self, image: bytes | mmap.mmap) -> None:
        """Returns once the other controller applied the image. The caller sets the deadline. Raises CallError."""
        number = next(self._ids)
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sending[number] = answer
        try:
            await self._stream(number, image, answer)
            await answer
        finally:
            if self._sending.pop(number, None) is not None:  # no answer came
                with contextlib.suppress(CallError):  # the link is gone, and the other side gives up by itself
                    self._outbox.put_now(encode(Cancel(number)))
            if answer.done() and not answer.cancelled():
                answer.exception()  # it counts as seen even when something else ended the wait

    async def _stream(self, number: int, image: bytes | mmap.mmap, answer: asyncio.Future[None]) -> None:
        view = memoryview(image)
        digest = hashlib.sha256()
        await self._outbox.put_bulk(encode(SnapshotBegin(number, len(image))))
        for offset_bytes in range(0, len(image), CHUNK_BYTES_MAX):
            if answer.done():
                return  # refused early
            chunk = view[offset_bytes : offset_bytes + CHUNK_BYTES_MAX]
            digest.update(chunk)
            await self._outbox.put_bulk(encode(SnapshotChunk(number, offset_bytes, chunk)))
        await self._outbox.put_bulk(encode(SnapshotEnd(number, digest.hexdigest())))

    def on_answer(self, frame: SnapshotOk | SnapshotFailure) -> None:
        answer = self._sending.pop(frame.id, None)
        if answer is None or answer.done():
            return  # answered after its deadline: the sender has gone
        if isinstance(frame, SnapshotOk):
            answer.set_result(None)
        else:
            answer.set_exception(CallError(frame.message, frame.errno))

    def on_begin(self, frame: SnapshotBegin) -> None:
        """A new image replaces one that never ended: the sender gave that up."""
        self._assembly = None
        with self._refusing(frame.id):
            self._assembly = Assembly(frame)

    def on_chunk(self, frame: SnapshotChunk) -> None:
        if self._assembly is not None and self._assembly.id == frame.id:
            with self._refusing(frame.id):
                self._assembly.add(frame)

    def on_end(self, frame: SnapshotEnd) -> None:
        if self._assembly is None or self._assembly.id != frame.id:
            return
        assembly, self._assembly = self._assembly, None
        before = self._applying
        if before is not None:
            before.cancel()
        self._applying_id = frame.id
        self._applying = asyncio.create_task(self._apply(assembly, frame, before))

    def on_cancel(self, frame: Cancel) -> None:
        if self._assembly is not None and self._assembly.id == frame.id:
            self._assembly = None
        if self._applying is not None and self._applying_id == frame.id:
            self._applying.cancel()

    def close(self) -> None:
        """The connection ended: our sender is told at once, the other's image is forgotten.

        Applying is cancelled too: the next thing here may be a takeover, and the image is older than that.
        """
        sending, self._sending = self._sending, {}
        for answer in sending.values():
            if not answer.done():
                answer.set_exception(link_lost())
        self._assembly = None
        if self._applying is not None:
            self._applying.cancel()

    @contextlib.contextmanager
    def _refusing(self, number: int) -> Iterator[None]:
        """Answer a CallError to the sender, and forget the image."""
        try:
            yield
        except CallError as error:
            log.warning("refused a snapshot of the other controller: %s", error.message)
            self._assembly = None
            self._outbox.put_now(encode(SnapshotFailure(number, error.message, error.errno)))

    async def _apply(self, assembly: Assembly, end: SnapshotEnd, before: asyncio.Task[None] | None) -> None:
        number = end.id
        if before is not None and not before.done():
            await asyncio.wait([before])  # two images are never applied at once
        reply: Message
        try:
            await self._serve(assembly.finish(end))
            reply = encode(SnapshotOk(number))
        except asyncio.CancelledError:
            if cancelled_from_outside():
                raise  # nobody waits for an answer
            reply = encode(SnapshotFailure(number, "Applying the snapshot was aborted", errno.ECANCELED))
        except CallError as error:
            log.warning("refused a snapshot of the other controller: %s", error.message)
            reply = encode(SnapshotFailure(number, error.message[:ERROR_CHARS_MAX], error.errno))
        except Exception as error:
            log.exception("a snapshot of the other controller was not applied")
            text = f"The snapshot was not applied: {type(error).__name__}: {error}"
            reply = encode(SnapshotFailure(number, text[:ERROR_CHARS_MAX], EREMOTENODEERROR))
        with contextlib.suppress(CallError):  # the link is gone; the sender knows
            await self._outbox.put(reply)
