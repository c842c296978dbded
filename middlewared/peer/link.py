"""PeerLink: what the rest of the daemon sees of the other controller.

Both controllers listen, only node A dials, one connection lives at a time: a newer one, once it has authenticated and
said hello, replaces the one before. A dead, frozen or unreachable peer never blocks anybody here: each wait has its
deadline, and who waits for an answer learns at once that the link is lost.
"""

import asyncio
import contextlib
import errno
import logging
import mmap
from collections.abc import Callable, Iterator
from typing import Any

from websockets.exceptions import WebSocketException

from middlewared.errors import CallError
from middlewared.peer.calls import CALLS_MAX, ProgressCallback, ServeCall, ServeChanges
from middlewared.peer.codec import CHANGES_BYTES_MAX, PROTOCOL_CHANGES, SNAPSHOT_BYTES_MAX, Facts, encode
from middlewared.peer.outbox import Message
from middlewared.peer.pairfiles import PairFiles
from middlewared.peer.session import Session
from middlewared.peer.snapshot import ServeSnapshot
from middlewared.peer.transfers import Transfers
from middlewared.peer.transport import Connection, Listener, TlsWire, Wire
from middlewared.settings import PeerSettings, SettingsError

log = logging.getLogger(__name__)

BACKOFF_MIN_S = 0.05
BACKOFF_MAX_S = 1.0
STOP_TIMEOUT_S = 2.0


async def _not_ready(*_args: Any) -> Any:
    raise CallError("The other controller is still starting", errno.EAGAIN)


def _ignore(*_args: Any) -> None:
    pass


class PeerLink:
    """The link of one daemon. The owner sets the attributes below before `start`; callbacks are quick.

    on_connected and on_lost alternate strictly; on_facts comes only between them. `serve_call` runs a call of the
    other controller, and is cancelled when the link is lost or the caller gives up; so are `serve_changes` and
    `serve_snapshot`.
    """

    on_connected: Callable[[], None] = staticmethod(_ignore)
    on_lost: Callable[[], None] = staticmethod(_ignore)
    on_facts: Callable[[dict[str, Any]], None] = staticmethod(_ignore)
    serve_call: ServeCall = staticmethod(_not_ready)
    serve_changes: ServeChanges = staticmethod(_not_ready)
    serve_snapshot: ServeSnapshot = staticmethod(_not_ready)

    def __init__(self, settings: PeerSettings, node: str, wire: Wire | None = None) -> None:
        """`wire`: another way to the other controller than the settings' own."""
        self._settings = settings
        self._node = node
        self._wire = wire
        self._tls: TlsWire | None = None
        self._pair_files = PairFiles(settings)
        self._paired = wire is not None or self._pair_files.paired
        self._stopped = False
        self._sessions: set[Session] = set()  # those that have not said hello, too
        self._session: Session | None = None
        self._up = asyncio.Event()
        self._facts: Message | None = None
        self._peer_facts: dict[str, Any] | None = None
        self._listener: Listener | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._calls_count = 0
        self._snapshot_turn = asyncio.Lock()
        self.transfers = Transfers(self._comes_up)

    @property
    def paired(self) -> bool:
        """There is another controller to talk to: its certificate is pinned."""
        return self._paired

    @property
    def connected(self) -> bool:
        return self._session is not None

    @property
    def proof(self) -> bytes | None:
        """The certificate (DER) by which the other has proved itself; None while the link is down."""
        return None if self._session is None else self._session.proof

    @property
    def timeout_s(self) -> float:
        """A peer that is silent for so long is lost."""
        return self._settings.timeout_ms / 1000

    @property
    def takes_changes(self) -> bool:
        """The other controller understands `send_changes`; an older release gets snapshots only."""
        return self._session is not None and self._session.protocol >= PROTOCOL_CHANGES

    @property
    def peer_facts(self) -> dict[str, Any] | None:
        """The other's facts as it pushed them last; None while the link is down and until they came."""
        return self._peer_facts

    @property
    def listening_at(self) -> tuple[str, ...]:
        """Where we listen, as host:port (unix: its path); empty while the address is not there yet."""
        return () if self._listener is None else self._listener.addresses

    # ------------------------------------------------------------------------------------------ life

    async def start(self) -> None:
        """Listen and, on node A, dial. Raises SettingsError when the certificates cannot be read."""
        self._stopped = False
        if not self.paired:
            log.warning("not paired with another controller: no peer link; `middlewared pair` on both pairs them")
            return
        wire = self._wire
        if wire is None:
            wire = self._tls = TlsWire(self._settings)
            self.transfers.use(self._tls)
        if not await self._listen(wire):
            self._tasks.append(asyncio.create_task(self._listen_later(wire)))
        if self._node == "A":
            self._tasks.append(asyncio.create_task(self._dial_always(wire)))

    async def follow_files(self) -> None:
        """The files of the pairing have changed: trust whom they name now, and nobody else.

        A connection whose certificate is not pinned any more ends at once. Raises SettingsError when they cannot be
        read; then there is no link until they can.
        """
        if self._wire is not None or self._stopped:
            return
        self._paired = self._pair_files.paired
        if self._tls is None or not self._paired:
            await self._halt("not paired any more")
            await self.start()
            return
        try:
            changed = self._tls.trust.refresh()
        except SettingsError:
            await self._halt("the files of the pairing cannot be read")
            raise
        for session in list(self._sessions):
            if not self._tls.trust.pins(session.proof):
                self._end(session, "its certificate is not pinned any more")
            elif changed:
                self._end(session, "this controller has a new certificate")

    async def _halt(self, reason: str) -> None:
        for session in list(self._sessions):
            self._end(session, reason)
        self._tls = None
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        listener, self._listener = self._listener, None
        if listener is not None:
            await listener.close()

    def _end(self, session: Session, reason: str) -> None:
        if session is self._session:
            self._drop(session, reason)
        else:
            session.end(reason)

    async def stop(self) -> None:
        """End the connection in order and stop listening. Callbacks are not called any more after it returns."""
        self._stopped = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT_S):
                if self._session is not None:
                    await self._session.close()
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)
                if self._listener is not None:
                    await self._listener.close()
        self._tasks.clear()
        self._listener = None
        if self._session is not None:
            self._drop(self._session, "stopped")
        self.transfers.interrupt()

    # ------------------------------------------------------------------------------------------ use

    def set_facts(self, facts: dict[str, Any]) -> None:
        """Push our facts if they differ from those before; again on each connect. Raises CodecError (over 1 MiB)."""
        message = encode(Facts(facts))
        if message == self._facts:
            return
        self._facts = message
        if self._session is not None:
            self._session.send_facts(message)

    async def call(
        self,
        method: str,
        args: list[Any],
        *,
        timeout_s: float = 60,
        connect_timeout_s: float = 2.0,
        on_progress: ProgressCallback | None = None,
        raise_connect_error: bool = True,
        job_id_only: bool = False,
    ) -> Any:
        """Call a method of the other controller (PROTOCOL 12, `failover.call_remote`).

        A job is waited for, and its progress goes to on_progress; with job_id_only its number there is the answer.

        Raises the other's CallError or ValidationErrors as they are, and of its own CallError with errno ECONNREFUSED
        (no link within connect_timeout_s; None is returned instead if raise_connect_error is false), EFAULT "Call
        timeout", ECONNRESET (the link was lost in between: the outcome is unknown), EBUSY (too many calls in flight),
        EREMOTENODEERROR (the method failed there in a way that it should not).
        """
        with self._counted():
            session = await self._wait_connected(connect_timeout_s)
            if session is not None:
                return await session.calls.call(
                    method, list(args), timeout_s=timeout_s, on_progress=on_progress, job_id_only=job_id_only
                )
        if not raise_connect_error:
            return None
        if not self.paired:
            raise CallError("This controller is not paired with another one", errno.ECONNREFUSED)
        text = f"Could not connect to the other controller within {float(connect_timeout_s)} seconds"
        raise CallError(text, errno.ECONNREFUSED)

    async def send_changes(self, data: bytes, timeout_s: float) -> None:
        """Have the other controller apply changes; returns when they are durable there.

        Raises CallError: ECONNREFUSED (no link), ECONNRESET (lost in between), EFAULT (not within timeout_s), EFBIG, or
        what the other controller raised.
        """
        if len(data) > CHANGES_BYTES_MAX:
            raise CallError(f"{len(data)} bytes of changes; at most {CHANGES_BYTES_MAX}", errno.EFBIG)
        if self._session is None:
            raise CallError("The other controller is not connected", errno.ECONNREFUSED)
        await self._session.calls.send_changes(data, timeout_s=timeout_s)

    async def send_snapshot(self, image: bytes | mmap.mmap, timeout_s: float = 30) -> None:
        """Have the other controller apply an image; one at a time, the wait for one's turn included in timeout_s.

        Raises CallError: ECONNREFUSED (no link), ECONNRESET (lost in between), ETIMEDOUT, EFBIG (over 256 MiB), or
        what the other controller raised.
        """
        if len(image) > SNAPSHOT_BYTES_MAX:
            raise CallError(f"A snapshot of {len(image)} bytes; at most {SNAPSHOT_BYTES_MAX}", errno.EFBIG)
        try:
            async with asyncio.timeout(timeout_s), self._snapshot_turn:
                if self._session is None:
                    raise CallError("The other controller is not connected", errno.ECONNREFUSED)
                await self._session.snapshots.send(image)
        except TimeoutError as error:
            text = f"The other controller did not apply the snapshot within {timeout_s} seconds"
            raise CallError(text, errno.ETIMEDOUT) from error

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        if self._calls_count >= CALLS_MAX:
            raise CallError(f"{CALLS_MAX} calls to the other controller already wait for an answer", errno.EBUSY)
        self._calls_count += 1
        try:
            yield
        finally:
            self._calls_count -= 1

    async def _comes_up(self, timeout_s: float) -> bool:
        return await self._wait_connected(timeout_s) is not None

    async def _wait_connected(self, timeout_s: float) -> Session | None:
        if self.paired:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    while self._session is None:  # it may be lost again before we run
                        await self._up.wait()
        return self._session

    # ------------------------------------------------------------------------------------------ sockets

    async def _listen(self, wire: Wire) -> bool:
        try:
            self._listener = await wire.listen(self._accept)
        except OSError as error:
            log.warning("cannot listen at %s yet: %s", self._settings.listen, error)
            return False
        return True

    async def _listen_later(self, wire: Wire) -> None:
        """The heartbeat interface may come up after us."""
        while not await self._listen(wire):
            await asyncio.sleep(BACKOFF_MAX_S)

    async def _accept(self, connection: Connection) -> None:
        await self._run(connection)

    async def _dial_always(self, wire: Wire) -> None:
        backoff_s = BACKOFF_MIN_S
        said = ""
        while True:
            try:
                connection = await wire.dial()
            except (OSError, EOFError, WebSocketException) as error:
                reason = str(error) or type(error).__name__
                if reason != said:  # once, not every second of a long outage
                    log.warning("cannot reach the other controller at %s: %s", self._settings.connect, reason)
                said = reason
            else:
                said = ""
                if await self._run(connection) >= BACKOFF_MAX_S:
                    backoff_s = BACKOFF_MIN_S  # it had worked; one that fails at once is not hammered
            await asyncio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)

    async def _run(self, connection: Connection) -> float:
        """Serve one connection to its end; the seconds that it was established."""
        if self._wire is None and (self._tls is None or not self._tls.trust.pins(connection.proof)):
            connection.abort()  # pinned when it came, and no more
            return 0.0
        session = Session(connection, self._settings, self._node, self)
        self._sessions.add(session)
        try:
            await session.run()
        finally:
            self._sessions.discard(session)
        if session.established_at is None:
            return 0.0
        return asyncio.get_running_loop().time() - session.established_at

    # ------------------------------------------------------------------------------------------ sessions (Owner)

    def session_established(self, session: Session) -> None:
        if self._session is not None:
            self._drop(self._session, "a newer connection took its place")
        self._session = session
        self._up.set()
        log.info("connected to the other controller")
        if self._facts is not None:
            session.send_facts(self._facts)
        _notify(self.on_connected)

    def session_ended(self, session: Session, reason: str) -> None:
        if session is self._session:
            self._drop(session, reason)
        elif session.established_at is None:
            log.warning("a connection to the other controller did not get to work: %s", reason)

    def session_facts(self, session: Session, facts: dict[str, Any]) -> None:
        if session is self._session:
            self._peer_facts = facts
            _notify(self.on_facts, facts)

    async def run_call(self, method: str, args: list[Any], on_progress: ProgressCallback | None) -> Any:
        return await self.serve_call(method, args, on_progress)

    async def run_changes(self, data: bytes) -> None:
        await self.serve_changes(data)

    async def run_snapshot(self, image: bytearray) -> None:
        await self.serve_snapshot(image)

    def _drop(self, session: Session, reason: str) -> None:
        self._session = None
        self._peer_facts = None
        self._up.clear()
        session.end(reason)
        self.transfers.interrupt()
        log.warning("lost the other controller: %s", reason)
        _notify(self.on_lost)


def _notify(callback: Callable[..., None], *args: Any) -> None:
    """The owner's mistakes stay the owner's."""
    try:
        callback(*args)
    except Exception:
        log.exception("a callback of the peer link failed")
