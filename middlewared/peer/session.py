"""One connection between the controllers, from hello to the end."""

import asyncio
import itertools
import logging
from typing import Any, Protocol

from websockets.exceptions import ConnectionClosed

from middlewared.peer.calls import Calls, ProgressCallback
from middlewared.peer.codec import (
    PROTOCOL,
    PROTOCOL_MIN,
    Call,
    Cancel,
    Changes,
    CodecError,
    Facts,
    Failure,
    Frame,
    Heartbeat,
    Hello,
    Progress,
    Result,
    SnapshotBegin,
    SnapshotChunk,
    SnapshotEnd,
    SnapshotFailure,
    SnapshotOk,
    Unknown,
    decode,
    encode,
)
from middlewared.peer.outbox import Message, Outbox
from middlewared.peer.snapshot import Snapshots
from middlewared.peer.transport import Connection
from middlewared.settings import PeerSettings

log = logging.getLogger(__name__)


class Owner(Protocol):
    """What a session needs of the link."""

    def session_established(self, session: "Session") -> None: ...

    def session_ended(self, session: "Session", reason: str) -> None: ...

    def session_facts(self, session: "Session", facts: dict[str, Any]) -> None: ...

    async def run_call(self, method: str, args: list[Any], on_progress: ProgressCallback | None) -> Any: ...

    async def run_changes(self, data: bytes) -> None: ...

    async def run_snapshot(self, image: bytearray) -> None: ...


class Session:
    """Reads, writes and watches one connection. Nothing that the other says counts before its hello."""

    def __init__(self, connection: Connection, settings: PeerSettings, node: str, owner: Owner) -> None:
        self._connection = connection
        self.proof = connection.proof  # the certificate (DER) of the other
        self._timeout_s = settings.timeout_ms / 1000
        self._node = node
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._outbox = Outbox(settings.heartbeat_ms / 1000, self._loop.time)
        ids = itertools.count(1)
        self.calls = Calls(self._outbox, ids, owner.run_call, owner.run_changes)
        self.snapshots = Snapshots(self._outbox, ids, owner.run_snapshot)
        self.established_at: float | None = None  # the loop's time when the hello came
        self.protocol = PROTOCOL_MIN  # what both understand, once it came
        self._started_at = self._loop.time()
        self._ending: asyncio.Future[str] = self._loop.create_future()

    async def run(self) -> None:
        """Until the connection ends, for whatever reason. The owner learns of it before anybody who waits here."""
        tasks = [asyncio.create_task(part) for part in (self._read(), self._write(), self._watch())]
        reason = "stopped"
        try:
            done, _ = await asyncio.wait([*tasks, self._ending], return_when=asyncio.FIRST_COMPLETED)
            reason = _reason(self._ending if self._ending in done else done.pop())
        finally:
            self._owner.session_ended(self, reason)
            self.end(reason)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def end(self, reason: str) -> None:
        """Drop the connection at once. Whoever waits for an answer is told now, not when the sockets are closed."""
        if not self._ending.done():
            self._ending.set_result(reason)
        self._outbox.close()
        self.calls.close()
        self.snapshots.close()
        self._connection.abort()

    async def close(self) -> None:
        """Orderly: what is in the write buffer still goes out. Bounded by the close timeout."""
        await self._connection.close()

    def send_facts(self, message: Message) -> None:
        self._outbox.set_facts(message)

    async def _read(self) -> str:
        hello = decode(await self._connection.recv())
        if not isinstance(hello, Hello):
            raise CodecError("the first frame is not a hello")
        self._check_hello(hello)
        self.protocol = min(hello.protocol, PROTOCOL)
        self.established_at = self._loop.time()
        self._owner.session_established(self)
        while not self._ending.done():  # what was read before the end is not taken after it
            self._take(decode(await self._connection.recv()))
        return "ended"

    def _check_hello(self, hello: Hello) -> None:
        if hello.node == self._node:
            raise CodecError(f"the other controller also says that it is node {self._node}: check `node` on both")
        if hello.protocol < PROTOCOL_MIN or hello.protocol_min > PROTOCOL:
            raise CodecError(
                f"the other controller speaks protocol {hello.protocol_min} to {hello.protocol}, "
                f"this one {PROTOCOL_MIN} to {PROTOCOL}: upgrade the older one"
            )

    async def _write(self) -> str:
        await self._connection.send(encode(Hello(self._node)))
        while True:
            await self._connection.send(await self._outbox.next())

    async def _watch(self) -> str:
        """Ends after timeout_ms of silence; until the hello, after timeout_ms, silent or not."""
        while True:
            heard_at = self._started_at if self.established_at is None else self._connection.heard_at
            left_s = heard_at + self._timeout_s - self._loop.time()
            if left_s <= 0:
                return f"silent for {round(self._timeout_s * 1000)} ms"
            await asyncio.sleep(left_s)

    def _take(self, frame: Frame) -> None:
        match frame:
            case Heartbeat() | Unknown():
                pass
            case Facts():
                self._owner.session_facts(self, frame.facts)
            case Call() | Changes():
                self.calls.on_call(frame)
            case Result() | Failure():
                self.calls.on_answer(frame)
            case Progress():
                self.calls.on_progress(frame)
            case Cancel():
                self.calls.on_cancel(frame)
                self.snapshots.on_cancel(frame)
            case SnapshotBegin():
                self.snapshots.on_begin(frame)
            case SnapshotChunk():
                self.snapshots.on_chunk(frame)
            case SnapshotEnd():
                self.snapshots.on_end(frame)
            case SnapshotOk() | SnapshotFailure():
                self.snapshots.on_answer(frame)
            case Hello():
                raise CodecError("a second hello")


def _reason(ended: asyncio.Future[str]) -> str:
    error = ended.exception()
    if error is None:
        return ended.result()
    if isinstance(error, CodecError):
        return f"protocol error: {error}"
    if isinstance(error, ConnectionClosed | OSError):
        return f"connection closed: {error}"
    log.error("a connection to the other controller failed", exc_info=error)
    return f"internal error: {type(error).__name__}"
