"""Brings the other controller's store after ours: by the log of changes, or whole where that does not lead on.

One group of changes is on its way at a time, and whatever was written meanwhile makes the next one: many writers share
a round trip. A writer waits for its own change only, and never longer than a silent peer is believed to live. From then
on nobody waits, until the other has caught up; what clients were told of by then is owed, and `tell` says so.
"""

import asyncio
import errno
import logging
from collections.abc import Callable

from middlewared.errors import EREMOTENODEERROR, CallError
from middlewared.peer.link import PeerLink
from middlewared.store import changelog
from middlewared.store.database import Store
from middlewared.store.lineage import Position

log = logging.getLogger(__name__)

_CHANGES_TIMEOUT_S = 10.0
_COPY_TIMEOUT_S = 60.0  # of a store of 256 MiB, on a slow disk
_RETRY_S = 1.0
_UNREACHABLE = "it cannot be reached"
_LINK_LOST = {errno.ECONNREFUSED, errno.ECONNRESET}
_NEEDS_COPY = {errno.ESTALE, EREMOTENODEERROR}  # the changes did not fit there, or made it fail


class Replicator:
    """The sending side.

    `leads`: our store is the pair's, now. `theirs`: where the other says that its store stands; None while it says
    nothing. `tell`: why the other lacks something that a client was told of; "" when it has everything.
    """

    def __init__(
        self,
        store: Store,
        peer: PeerLink,
        leads: Callable[[], bool],
        theirs: Callable[[], Position | None],
        tell: Callable[[str], None],
    ) -> None:
        self._store = store
        self._peer = peer
        self._leads = leads
        self._theirs = theirs
        self._tell = tell
        self._acknowledged: Position | None = None  # what the other is known to have; None while it is not reachable
        self._owed_seq = 0  # what clients were told of and the other may lack; 0: nothing
        self._trouble = ""  # why to wait for the other makes no sense now; "": it follows in time
        self._waiting = 0
        self._moved = asyncio.Event()
        self._turn = asyncio.Lock()
        self._sending: asyncio.Task[None] | None = None

    async def stop(self) -> None:
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)

    @property
    def is_current(self) -> bool:
        """The other has acknowledged everything that we have."""
        return self._acknowledged == self._store.position

    async def idle(self) -> None:
        """Wait until nothing is being sent, and nothing is left that could be."""
        while self._sending is not None and not self._sending.done():
            await asyncio.wait([self._sending])

    # ------------------------------------------------------------------------------------------ what changed

    async def replicate(self, position: Position) -> None:
        """After a local write, which led to `position`: returns when the other has it too, or is known to be behind."""
        self._waiting += 1
        try:
            self.wake()
            why = await self._wait_for(position)
        finally:
            self._waiting -= 1
        if why:
            self._owe(position, why)

    def look(self) -> None:
        """The other said anew where it stands, is new here, or is lost."""
        theirs = self._theirs()
        if theirs is None:
            self._acknowledged = None
            self._trouble = ""  # of the next link nothing is known
            self._wake_waiting()
        elif theirs == self._store.position:
            self._acknowledge(theirs, theirs)
        self.wake()

    def forget(self) -> None:
        """Our store was replaced or led on by the other's: what was acknowledged before means nothing any more."""
        self._acknowledged = None

    def wake(self) -> None:
        """Send what is to be sent, in the background."""
        if self._wanted() and (self._sending is None or self._sending.done()):
            self._sending = asyncio.create_task(self._send_all())

    async def push(self) -> None:
        """Give the other our whole store, acknowledged. Raises CallError."""
        async with self._turn:
            await self._send_whole()

    # ------------------------------------------------------------------------------------------ waiting

    async def _wait_for(self, position: Position) -> str:
        """Until the other has it: "", or why it has not."""
        try:
            async with asyncio.timeout(self._peer.timeout_s):
                while not self._has(position):
                    if not self._peer.connected:
                        return _UNREACHABLE
                    if self._trouble:
                        return self._trouble
                    await self._moved.wait()
        except TimeoutError:
            self._give_up("it did not follow in time")
            return self._trouble
        return ""

    def _give_up(self, why: str) -> None:
        """Nobody waits any more until the other has caught up."""
        self._trouble = why
        self._wake_waiting()

    def _has(self, position: Position) -> bool:
        return self._acknowledged is not None and self._acknowledged.seq >= position.seq

    def _owe(self, position: Position, why: str) -> None:
        if not self._has(position):
            self._owed_seq = max(self._owed_seq, position.seq)
            self._tell(why)

    def _acknowledge(self, position: Position, newest: Position) -> None:
        """The other has everything up to `position`; `newest` was our last change when that was sent."""
        self._acknowledged = position
        if position.seq >= newest.seq:
            self._trouble = ""
        if position == self._store.position or position.seq >= self._owed_seq:
            self._owed_seq = 0
            self._tell("")
        self._wake_waiting()

    def _wake_waiting(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()

    # ------------------------------------------------------------------------------------------ sending

    def _wanted(self) -> bool:
        """What a client waits for is sent also while we are about to lead no longer: the other decides."""
        known = self._acknowledged is not None or self._theirs() is not None
        return self._peer.connected and known and not self.is_current and (self._waiting > 0 or self._leads())

    async def _send_all(self) -> None:
        while self._wanted():
            try:
                async with self._turn:
                    await self._send_next()
            except CallError as error:
                if error.errno in _LINK_LOST:
                    await asyncio.sleep(0)
                    continue  # over the next link, as soon as the other says where it stands
                log.warning("the other controller's configuration stays behind: %s", error)
                self._give_up(error.message)
                self._owe(self._store.position, error.message)
                await asyncio.sleep(_RETRY_S)

    async def _send_next(self) -> None:
        newest = self._store.position
        since = self._acknowledged or self._theirs()
        if since is None:
            return  # the link was lost meanwhile
        if since == newest:
            self._acknowledge(since, newest)
            return
        entries = self._store.entries_after(since) if self._peer.takes_changes else None
        if entries is None:
            log.info("the log does not lead on from where the other controller stands: it gets a full copy")
            await self._send_whole()
            return
        try:
            await self._peer.send_changes(changelog.encode(entries), timeout_s=_CHANGES_TIMEOUT_S)
        except CallError as error:
            if error.errno not in _NEEDS_COPY:
                raise
            log.warning("the other controller cannot follow, and gets a full copy: %s", error.message)
            await self._send_whole()
        else:
            self._acknowledge(entries[-1].after, newest)

    async def _send_whole(self) -> None:
        image = await self._store.snapshot()
        await self._peer.send_snapshot(image.data, timeout_s=_COPY_TIMEOUT_S)
        self._acknowledge(image.position, image.position)
