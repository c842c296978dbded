"""What one connection still has to send, most urgent first: heartbeat, facts, control frames, bulk.

Bulk (snapshot chunks) waits in a slot of one, so that everything else overtakes it; control frames wait in a queue
bounded by bytes; of facts only the newest is kept. Facts that were set before an answer was given arrive before it.
"""

import asyncio
import contextlib
import errno
from collections import deque
from collections.abc import Callable

from middlewared.errors import CallError
from middlewared.peer.codec import Heartbeat, encode

QUEUED_BYTES_MAX = 4 << 20
HEARTBEAT = encode(Heartbeat())

Message = str | bytes


def link_lost() -> CallError:
    """The link went down after the request was handed over: whether the other controller acted on it is unknown."""
    return CallError("The link to the other controller was lost before it answered", errno.ECONNRESET)


class Outbox:
    """`next` is for the one writer; everybody else puts. `clock` gives seconds, as the loop's time()."""

    def __init__(self, heartbeat_s: float, clock: Callable[[], float]) -> None:
        self._heartbeat_s = heartbeat_s
        self._clock = clock
        self._beat_at = clock()
        self._facts: Message | None = None
        self._control: deque[Message] = deque()
        self._control_bytes = 0
        self._bulk: Message | None = None
        self._closed = False
        self._filled = asyncio.Event()  # there is something to send
        self._taken = asyncio.Event()  # there is room again

    def set_facts(self, message: Message) -> None:
        self._facts = message
        self._filled.set()

    async def put(self, message: Message) -> None:
        """Queue a control frame once there is room. Raises CallError when the connection ends first."""
        while not self.put_now(message):
            await self._wait_taken()

    def put_now(self, message: Message) -> bool:
        """Queue a control frame, or say False when the queue is full: for those that may be dropped."""
        if self._closed:
            raise link_lost()
        if self._control_bytes > QUEUED_BYTES_MAX:
            return False
        self._control.append(message)
        self._control_bytes += len(message)
        self._filled.set()
        return True

    async def put_bulk(self, message: Message) -> None:
        """Hand a bulk frame over once the one before it was taken. Raises CallError when the connection ends first."""
        while self._bulk is not None and not self._closed:
            await self._wait_taken()
        if self._closed:
            raise link_lost()
        self._bulk = message
        self._filled.set()

    async def next(self) -> Message:
        """Wait for the next message to send; at least one comes every heartbeat."""
        while (message := self._pick()) is None:
            self._filled.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._beat_at - self._clock()):
                    await self._filled.wait()
        return message

    def close(self) -> None:
        """Nothing will be taken any more: whoever waits to put is told."""
        self._closed = True
        self._taken.set()

    async def _wait_taken(self) -> None:
        if not self._closed:
            self._taken.clear()
            await self._taken.wait()

    def _pick(self) -> Message | None:
        now = self._clock()
        if now >= self._beat_at:
            self._beat_at = now + self._heartbeat_s
            return HEARTBEAT
        if self._facts is not None:
            facts, self._facts = self._facts, None
            return facts
        if self._control:
            message = self._control.popleft()
            self._control_bytes -= len(message)
            self._taken.set()
            return message
        if self._bulk is not None:
            bulk, self._bulk = self._bulk, None
            self._taken.set()
            return bulk
        return None
