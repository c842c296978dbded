"""The files that go over a link, both ways, each over a stream of its own beside the link's websocket.

Nothing here blocks the event loop, and nothing waits for a transfer but who asked for it: streams live in threads,
their number is bounded, each step has its time, and they end with the link.
"""

import asyncio
import contextlib
import errno
import logging
import select
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from middlewared.errors import EREMOTENODEERROR, CallError
from middlewared.peer import files, streams
from middlewared.peer.files import Inbox, Offer, StreamError

log = logging.getLogger(__name__)

SENDING_MAX = 2
RECEIVING_MAX = 4
PATIENCE_S = 60.0
_RETRY_S = 0.2
_TELL_S = 0.2  # progress is told so often at most

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sent:
    """How far a transfer is."""

    sent_bytes: int
    size_bytes: int
    bytes_per_s: float  # since it began; bytes that an earlier attempt left there do not count

    @property
    def percent(self) -> float:
        return 100.0 * self.sent_bytes / self.size_bytes if self.size_bytes else 100.0


class StreamWire(Protocol):
    """A way to the other controller that carries file streams. All but `take_stream` block, and raise OSError."""

    take_stream: Callable[[socket.socket], None]  # called in the event loop with each that arrives

    def dial_stream(self) -> ssl.SSLSocket: ...

    def accept_stream(self, plain: socket.socket) -> ssl.SSLSocket: ...


class Transfers:
    """`inboxes` are the only places where the other controller can put anything; the owner sets them.

    `wait_link(timeout_s)`: whether the link is up within that time.
    """

    def __init__(self, wait_link: Callable[[float], Awaitable[bool]]) -> None:
        self.inboxes: dict[str, Inbox] = {}
        self._wait_link = wait_link
        self._wire: StreamWire | None = None
        self._sending = asyncio.Semaphore(SENDING_MAX)
        self._open: set[_Stream] = set()
        self._receiving = 0

    def use(self, wire: StreamWire) -> None:
        self._wire = wire
        wire.take_stream = self._take

    def interrupt(self) -> None:
        """The link is lost: streams end with it. What was sent goes on from there when the link is back."""
        for stream in list(self._open):
            stream.end()

    # ------------------------------------------------------------------------------------------ to the other

    async def send(
        self,
        source: Path,
        inbox: str,
        name: str,
        *,
        mode: int = 0o600,
        sha256: str | None = None,
        patience_s: float = PATIENCE_S,
        on_progress: Callable[[Sent], None] = lambda sent: None,
    ) -> None:
        """Put a file into an inbox of the other controller; returns once it is durable there.

        A broken link or a restarted daemon is waited for, and the transfer goes on where it stopped; it is given up
        when nothing has moved for `patience_s`. `sha256` (of the whole, hex) spares the sender computing it.

        Raises CallError: ECONNREFUSED (no link), ETIMEDOUT (nothing moves), ENOENT and the like (the file here),
        EINVAL, EFBIG, ENOSPC, EBADMSG (the other refuses it).
        """
        if self._wire is None:
            raise CallError("The link to the other controller carries no files", errno.ECONNREFUSED)
        try:
            size_bytes = (await asyncio.to_thread(source.stat)).st_size
        except OSError as error:
            raise CallError(f"{source} cannot be read: {error.strerror}", error.errno or errno.EIO) from error
        offer = Offer(inbox, name, size_bytes, mode)
        offer.check()
        async with self._sending:
            progress = _Progress(asyncio.get_running_loop(), size_bytes, on_progress)
            while True:
                if not await self._wait_link(patience_s):
                    raise CallError("The other controller is not connected", errno.ECONNREFUSED)
                try:
                    return await self._attempt(self._wire, source, offer, sha256, progress)
                except (StreamError, OSError) as error:
                    log.info("the transfer of %s stopped: %s", name, error)
                    if progress.still_s > patience_s:
                        text = f"The transfer of {name} does not get on: {error or type(error).__name__}"
                        raise CallError(text, errno.ETIMEDOUT) from error
                await asyncio.sleep(_RETRY_S)

    async def _attempt(
        self, wire: StreamWire, source: Path, offer: Offer, sha256: str | None, progress: "_Progress"
    ) -> None:
        stream = _Stream()
        progress.begin()

        def work() -> None:
            with stream.opened(wire.dial_stream()) as secured:
                files.send(
                    secured,
                    source,
                    offer,
                    sha256=sha256,
                    on_progress=progress.moved,
                    interrupted=lambda: _has_said(secured),
                )

        await self._carry(stream, work)

    # ------------------------------------------------------------------------------------------ from the other

    def _take(self, plain: socket.socket) -> None:
        wire = self._wire
        if wire is None or self._receiving >= RECEIVING_MAX:
            plain.close()
            return
        self._receiving += 1
        stream = _Stream()

        def work() -> str:
            with stream.opened(wire.accept_stream(plain)) as secured:
                try:
                    return files.receive(secured, self.inboxes)
                except CallError:
                    streams.drain(secured)
                    raise

        task = asyncio.get_running_loop().create_task(self._carry(stream, work))
        task.add_done_callback(self._taken)

    def _taken(self, task: "asyncio.Task[str]") -> None:
        self._receiving -= 1
        error = None if task.cancelled() else task.exception()
        if isinstance(error, CallError):
            log.warning("refused a file of the other controller: %s", error.message)
        elif isinstance(error, StreamError | OSError):
            log.info("a file stream ended early: %s", error)
        elif error is not None:
            log.error("a file stream failed", exc_info=error)
        elif not task.cancelled():
            log.info("received %s from the other controller", task.result())

    # ------------------------------------------------------------------------------------------ threads

    async def _carry(self, stream: "_Stream", work: Callable[[], T]) -> T:
        """Run in a thread of its own (a shared pool would run out of threads), and end the stream with our task."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def run() -> None:
            try:
                result = work()
            except Exception as error:
                _tell(loop, _fail, answer, error)
            else:
                _tell(loop, _answer, answer, result)

        self._open.add(stream)
        try:
            threading.Thread(target=run, name="file stream", daemon=True).start()
            return await answer
        finally:
            self._open.discard(stream)
            stream.end()


class _Stream:
    """A stream that its thread opens, and anybody ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: ssl.SSLSocket | None = None
        self._ended = False

    def opened(self, secured: ssl.SSLSocket) -> ssl.SSLSocket:
        """Raises ConnectionError when it was ended meanwhile."""
        with self._lock:
            if self._ended:
                secured.close()
                raise ConnectionAbortedError("the link was lost")
            self._socket = secured
        return secured

    def end(self) -> None:
        with self._lock:
            self._ended = True
            if self._socket is not None:
                streams.hang_up(self._socket)


class _Progress:
    """Counts in the stream's thread, tells in the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, size_bytes: int, tell: Callable[[Sent], None]) -> None:
        self._loop = loop
        self._size_bytes = size_bytes
        self._tell_owner = tell
        self._began_s = self._moved_s = time.monotonic()
        self._told_s = 0.0
        self._furthest_bytes = 0
        self._last_bytes: int | None = None
        self._carried_bytes = 0

    @property
    def still_s(self) -> float:
        """For how long nothing new has arrived there."""
        return time.monotonic() - self._moved_s

    def begin(self) -> None:
        """Another attempt: what it finds there is not carried."""
        self._last_bytes = None

    def moved(self, sent_bytes: int, size_bytes: int) -> None:
        now_s = time.monotonic()
        if self._last_bytes is not None:
            self._carried_bytes += sent_bytes - self._last_bytes
        self._last_bytes = sent_bytes
        if sent_bytes > self._furthest_bytes:
            self._furthest_bytes, self._moved_s = sent_bytes, now_s
        if now_s - self._told_s >= _TELL_S or sent_bytes == size_bytes:
            self._told_s = now_s
            rate = self._carried_bytes / max(now_s - self._began_s, 1e-6)
            _tell(self._loop, self._tell, Sent(sent_bytes, size_bytes, rate))

    def _tell(self, sent: Sent) -> None:
        try:
            self._tell_owner(sent)
        except Exception:
            log.exception("a progress callback failed")


def _has_said(stream: ssl.SSLSocket) -> bool:
    poll = select.poll()
    poll.register(stream, select.POLLIN)
    return bool(poll.poll(0))


def _tell(loop: asyncio.AbstractEventLoop, act: Callable[..., None], *args: object) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits
        loop.call_soon_threadsafe(act, *args)


def _answer(answer: "asyncio.Future[T]", result: T) -> None:
    if not answer.done():
        answer.set_result(result)


def _fail(answer: "asyncio.Future[T]", error: Exception) -> None:
    if isinstance(error, CallError | StreamError | OSError):
        found: Exception = error
    else:
        log.error("a file stream failed", exc_info=error)
        found = CallError(f"The transfer failed: {type(error).__name__}: {error}", EREMOTENODEERROR)
    if not answer.done():
        answer.set_exception(found)
