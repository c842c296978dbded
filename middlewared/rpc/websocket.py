"""One websocket: frames to and from a session (RFC 6455, PROTOCOL 2.5)."""

import asyncio
import logging
from collections.abc import Callable, Generator
from typing import Any

from aiohttp import WSMsgType, web

from middlewared.rpc.limits import CLOSE_TIMEOUT_S, HEARTBEAT_S, REQUEST_BYTES_MAX, UNSENT_BYTES_MAX
from middlewared.rpc.session import CLOSE_TOO_BIG, Session, Work

log = logging.getLogger(__name__)

CLOSE_UNSUPPORTED_DATA = 1003
FRAMES_PER_TURN = 32  # of one connection, before others get theirs

Run = Callable[[Work], None]


class Peer(web.WebSocketResponse):
    """The other end. The close code for frames beyond all bounds depends on the session's login."""

    def __init__(self) -> None:
        limit = REQUEST_BYTES_MAX + 1
        super().__init__(heartbeat=HEARTBEAT_S, compress=False, timeout=CLOSE_TIMEOUT_S, max_msg_size=limit)
        self.session: Session | None = None

    async def close(self, *, code: int = 1000, message: bytes = b"", drain: bool = False) -> bool:
        if code == CLOSE_TOO_BIG and self.session is not None:
            code = self.session.too_big_code
        return await super().close(code=code, message=message, drain=drain)


def frame_head(size_bytes: int) -> bytes:
    """RFC 6455 section 5.2: of one whole text frame, unmasked as servers send it."""
    if size_bytes < 126:
        return bytes((0x81, size_bytes))
    if size_bytes < 1 << 16:
        return b"\x81\x7e" + size_bytes.to_bytes(2, "big")
    return b"\x81\x7f" + size_bytes.to_bytes(8, "big")


class Shell:
    """Carries a session. Frames go straight to the transport: no task, no wait, whole frames in order."""

    def __init__(self, peer: Peer, transport: asyncio.Transport, run: Run, address: str) -> None:
        self.run = run
        self._peer = peer
        self._transport = transport
        self._address = address

    def send(self, payload: bytes) -> None:
        transport = self._transport
        if transport.is_closing():
            return
        if transport.get_write_buffer_size() > UNSENT_BYTES_MAX:
            log.warning("%s does not read what it is sent: cut off", self._address)
            transport.abort()
            return
        transport.write(frame_head(len(payload)) + payload)

    def close(self, code: int) -> None:
        self.run(self._close(code))

    async def _close(self, code: int) -> None:
        await self._peer.close(code=code)


class _Call:
    """Awaits `work`, and calls `on_wait` when it has to wait for the first time: most calls never do."""

    def __init__(self, work: Work, on_wait: Callable[[], None]) -> None:
        self._steps = work.__await__()
        self._on_wait = on_wait

    def __await__(self) -> Generator[Any, Any, None]:
        try:
            waits_for = next(self._steps)
        except StopIteration:
            return
        self._on_wait()
        try:
            while True:
                try:
                    sent = yield waits_for
                except GeneratorExit:
                    self._steps.close()
                    raise
                except BaseException as error:  # a cancellation, mostly: it is the call's to handle
                    waits_for = self._steps.throw(error)
                else:
                    waits_for = self._steps.send(sent)
        except StopIteration:
            return


class Reader:
    """Reads a websocket to its end and runs the calls that come in.

    A task for each call would cost as much as the call itself. So the task that reads also runs the call, and only if
    that has to wait does a new task take over the reading (leader and followers).
    """

    def __init__(self, peer: Peer, session: Session, run: Run, on_frame: Callable[[], None]) -> None:
        self._peer = peer
        self._session = session
        self._run = run
        self._on_frame = on_frame
        self._ended = asyncio.Event()
        self._leader = 0
        self._frames = 0

    async def read(self) -> None:
        """Returns when the websocket has ended; calls may still run."""
        self._run(self._lead(0))
        await self._ended.wait()

    def _promote(self) -> None:
        self._leader += 1
        self._run(self._lead(self._leader))

    async def _lead(self, me: int) -> None:
        try:
            while me == self._leader and await self._read_frame():
                pass
        finally:
            if me == self._leader:
                self._ended.set()

    async def _read_frame(self) -> bool:
        """False: there will be no more."""
        message = await self._peer.receive()
        if message.type is WSMsgType.TEXT:
            self._on_frame()
            work = self._session.receive(message.data)
            if work is not None:
                await _Call(work, self._promote)
        elif message.type is WSMsgType.BINARY:
            await self._peer.close(code=CLOSE_UNSUPPORTED_DATA)
        else:
            return False  # closed by the client, by us, or by aiohttp for a breach of the protocol
        self._frames += 1
        if self._frames % FRAMES_PER_TURN == 0:
            await asyncio.sleep(0)
        return True
