"""Sockets of the peer link: websockets over TLS 1.3, where each side proves that it holds the pinned certificate.

An address and a low source port prove nothing. Whoever lacks the certificate gets nothing but a TLS alert.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, cast

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from websockets.asyncio.client import ClientConnection, connect, unix_connect
from websockets.asyncio.connection import Connection as WebSocket
from websockets.asyncio.server import Server, ServerConnection, serve, unix_serve
from websockets.exceptions import WebSocketException

from middlewared.peer import streams
from middlewared.peer.codec import FRAME_BYTES_MAX
from middlewared.peer.front import Front, Sorted
from middlewared.peer.pairfiles import PairFiles, der, is_valid
from middlewared.settings import PeerSettings, SettingsError

log = logging.getLogger(__name__)

OPEN_TIMEOUT_S = 1.0  # TCP, TLS and websocket handshakes together; a frozen controller accepts and stays silent
CLOSE_TIMEOUT_S = 0.5
UNSENT_BYTES_MAX = 256 << 10  # in the write buffer before a sender waits
UNREAD_FRAMES_MAX = 16
LISTEN_BACKLOG = 16

# The library reports every stray connection with a traceback; what matters is logged by the link itself.
_library_log = logging.getLogger(f"{__name__}.websockets")
_library_log.setLevel(logging.CRITICAL)

_OPTIONS: dict[str, Any] = {
    "compression": None,
    "max_size": FRAME_BYTES_MAX,
    "max_queue": UNREAD_FRAMES_MAX,
    "write_limit": UNSENT_BYTES_MAX,
    "ping_interval": None,  # our own heartbeats do that
    "open_timeout": OPEN_TIMEOUT_S,
    "close_timeout": CLOSE_TIMEOUT_S,
    "logger": _library_log,
}


class Trust:
    """Our key and certificate, and the certificates of the other that we accept; `refresh` follows the files.

    What OpenSSL lets pass is not enough: the certificate itself has to be one of the pinned ones, and valid now.
    """

    def __init__(self, settings: PeerSettings) -> None:
        """Raises SettingsError naming the key."""
        self._files = PairFiles(settings)
        self.server = _context(ssl.PROTOCOL_TLS_SERVER)
        self.server.num_tickets = 0  # no resumption: every connection shows its certificate
        self.client = _context(ssl.PROTOCOL_TLS_CLIENT)
        self._own = b""
        self._pinned: dict[bytes, x509.Certificate] = {}
        self._known: set[bytes] = set()  # to OpenSSL, which forgets nothing
        self.refresh()

    def refresh(self) -> bool:
        """Read the files again; whether our own certificate is another one now. Raises SettingsError, then trust as
        before."""
        own, pinned = self._files.own(), {der(one): one for one in self._files.pinned()}
        if not pinned:
            raise SettingsError("peer.peer_certificate: nobody is pinned; pair the controllers first")
        changed = der(own) != self._own
        if changed:
            for context in (_context(ssl.PROTOCOL_TLS_SERVER), self.server, self.client):  # tried on a spare one first
                self._load_own(context)
        for new in pinned.keys() - self._known:
            for context in (self.server, self.client):
                context.load_verify_locations(cadata=pinned[new].public_bytes(Encoding.PEM).decode())
        self._own, self._pinned = der(own), pinned
        self._known |= pinned.keys()
        for whose, certificate in (("our", own), *(("the other controller's", one) for one in pinned.values())):
            if not is_valid(certificate):
                log.error(
                    "%s certificate is valid from %s to %s only: the controllers must be paired again",
                    whose,
                    certificate.not_valid_before_utc,
                    certificate.not_valid_after_utc,
                )
        return changed

    def objection(self, proof: bytes | None) -> str:
        """Why the owner of this certificate (DER) gets nothing; empty: it is the other controller."""
        certificate = self._pinned.get(proof or b"")
        if certificate is None:
            return "its certificate is not the pinned one"
        return "" if is_valid(certificate) else "its certificate has expired, or is not valid yet"

    def pins(self, proof: bytes) -> bool:
        """Whether this certificate (DER) is pinned."""
        return proof in self._pinned

    def _load_own(self, context: ssl.SSLContext) -> None:
        path = self._files.own_path
        try:
            context.load_cert_chain(path, password="")  # never ask on the terminal
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(f"peer.certificate {path}: no key that fits: {error}") from error


def _context(purpose: int) -> ssl.SSLContext:
    context = ssl.SSLContext(purpose)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the certificate itself is pinned; names prove nothing more
    context.verify_mode = ssl.CERT_REQUIRED
    return context


class Connection(Protocol):
    """What a session needs of a connection: whole messages, in order, and when it last heard anything."""

    heard_at: float  # the loop's time, in seconds
    proof: bytes  # the other's certificate (DER); empty where it had nothing to prove

    async def recv(self) -> str | bytes:
        """The next message. Raises ConnectionClosed or OSError when there will be none."""

    async def send(self, message: str | bytes) -> None:
        """Hand a message over; waits while too much is unsent. Raises ConnectionClosed or OSError."""

    async def close(self) -> None: ...

    def abort(self) -> None:
        """Drop it at once, unsent messages included."""


Accept = Callable[[Connection], Awaitable[None]]


class Listener(Protocol):
    """Accepts connections until it is closed."""

    @property
    def addresses(self) -> tuple[str, ...]: ...

    async def close(self) -> None: ...


class Wire(Protocol):
    """The way to the other controller. Both ends of every connection have proved who they are."""

    async def listen(self, accept: Accept) -> Listener:
        """Raises OSError while the address is not there."""

    async def dial(self) -> Connection:
        """Raises OSError, EOFError or WebSocketException when the other cannot be reached."""


class TlsWire:
    """Websockets over TLS 1.3 between two pinned certificates. Raises SettingsError when they cannot be read."""

    def __init__(self, settings: PeerSettings) -> None:
        self._settings = settings
        self.trust = load_trust(settings)
        self.take_stream: Callable[[socket.socket], None] = socket.socket.close  # of files; nobody wants them yet

    async def listen(self, accept: Accept) -> Listener:
        front = Front(self.trust.server, lambda plain: self.take_stream(plain), OPEN_TIMEOUT_S)
        return _Listening(await listen(self._settings.listen, self.trust, accept, front), front)

    async def dial(self) -> Connection:
        return await dial(self._settings.connect, self.trust)

    def dial_stream(self) -> ssl.SSLSocket:
        """A stream for files, beside the link (peer.streams). Blocks; raises OSError."""
        address = self._settings.connect
        where = address.removeprefix("unix:") if address.startswith("unix:") else split_address(address)
        return streams.dial(where, self.trust.client, self.trust.objection)

    def accept_stream(self, plain: socket.socket) -> ssl.SSLSocket:
        return streams.accept(plain, self.trust.server, self.trust.objection)


class _Listening:
    def __init__(self, server: Server, front: Front) -> None:
        self._server = server
        self._front = front

    @property
    def addresses(self) -> tuple[str, ...]:
        names = [socket.getsockname() for socket in self._server.sockets]
        return tuple(name if isinstance(name, str) else f"{name[0]}:{name[1]}" for name in names)

    async def close(self) -> None:
        self._server.close()
        await self._front.close()
        await self._server.wait_closed()


def load_trust(settings: PeerSettings) -> Trust:
    """Check the addresses and read the certificates. Raises SettingsError naming the key."""
    for address in (settings.listen, settings.connect):
        if not address.startswith("unix:"):
            split_address(address)
    return Trust(settings)


class PinnedConnection(WebSocket):
    """A connection that exists for a pinned certificate only, and knows when it last heard anything.

    `heard_at` (the loop's time, s) is set where bytes arrive, before any task runs: a busy event loop does not make
    the other side look silent.
    """

    trust: Trust
    proof: bytes
    heard_at: float
    objection = ""  # why it is being closed

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.heard_at = self.loop.time()
        super().connection_made(transport)
        secured = transport.get_extra_info("ssl_object")
        self.proof = (secured.getpeercert(binary_form=True) if secured is not None else None) or b""
        self.objection = self.trust.objection(self.proof)
        if self.objection:
            cast(asyncio.Transport, transport).abort()

    def data_received(self, data: bytes) -> None:
        self.heard_at = self.loop.time()
        super().data_received(data)

    def abort(self) -> None:
        self.transport.abort()


class _Accepted(Sorted, PinnedConnection, ServerConnection):
    def secured(self, transport: asyncio.Transport) -> None:
        super().secured(transport)
        if self.objection:
            log.warning("refused a connection: %s", self.objection)


class _Dialled(PinnedConnection, ClientConnection):
    pass


async def listen(
    address: str,
    trust: Trust,
    handler: Callable[[PinnedConnection], Awaitable[None]],
    front: Front | None = None,
) -> Server:
    """Listen on host:port or unix:/path. TCP_NODELAY is asyncio's default. Raises OSError.

    `front` takes the file streams; without one they are closed.
    """
    sorter = front or Front(trust.server, socket.socket.close, OPEN_TIMEOUT_S)

    def create(*args: Any, **kwargs: Any) -> _Accepted:
        connection = _Accepted(*args, **kwargs)
        connection.trust = trust
        connection.front = sorter
        return connection

    async def handle(connection: ServerConnection) -> None:
        await handler(cast(_Accepted, connection))

    options = {
        **_OPTIONS,
        "create_connection": create,
        "server_header": None,
        "backlog": LISTEN_BACKLOG,
    }
    if address.startswith("unix:"):
        return await unix_serve(handle, address.removeprefix("unix:"), **options)
    host, port = split_address(address)
    return await serve(handle, host, port, **options)


async def dial(address: str, trust: Trust) -> PinnedConnection:
    """Connect to host:port or unix:/path. Raises OSError (TimeoutError included), WebSocketException, EOFError."""
    made: list[_Dialled] = []

    def create(*args: Any, **kwargs: Any) -> _Dialled:
        connection = _Dialled(*args, **kwargs)
        connection.trust = trust
        made.append(connection)
        return connection

    options = {**_OPTIONS, "ssl": trust.client, "create_connection": create, "user_agent_header": None}
    if address.startswith("unix:"):
        dialling = unix_connect(address.removeprefix("unix:"), **options)
    else:
        host, port = split_address(address)
        # The address is ours alone: no proxy of the environment may stand between.
        dialling = connect("wss://peer/", host=host, port=port, server_hostname="peer", proxy=None, **options)
    try:
        return cast(_Dialled, await dialling)
    except (OSError, EOFError, WebSocketException) as error:
        for connection in made:
            if connection.objection:
                raise ConnectionError(connection.objection) from error
        raise


def split_address(address: str) -> tuple[str, int]:
    """host:port or [v6]:port. Raises SettingsError."""
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise SettingsError(f"peer address {address!r}: must read host:port or unix:/path")
    return host.removeprefix("[").removesuffix("]"), int(port)
