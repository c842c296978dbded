"""The API's sockets: HTTP and websockets by aiohttp, and every deadline (PROTOCOL 1, 2.5).

What a client can do wrong costs only that client: connections are counted and admitted before anything is read, every
phase of one has a deadline, what is not read by a client is bounded, and a sweep cuts off what lingers.
"""

import asyncio
import contextlib
import hashlib
import logging
import socket
import ssl
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from middlewared.auth.identity import Credential, Origin
from middlewared.bus import Bus
from middlewared.rpc import extjson, files, listeners, websocket
from middlewared.rpc.dispatch import Dispatcher
from middlewared.rpc.hub import Hub
from middlewared.rpc.limits import (
    ANSWER_TIMEOUT_S,
    CLOSE_TIMEOUT_S,
    IDLE_BEFORE_LOGIN_TIMEOUT_S,
    REQUEST_HEAD_TIMEOUT_S,
    SWEEP_INTERVAL_S,
    TLS_HANDSHAKE_TIMEOUT_S,
)
from middlewared.rpc.session import LegacySession, RpcSession, Session
from middlewared.settings import ApiSettings

log = logging.getLogger(__name__)

API_VERSIONS = ("v25.04.0", "v25.10.1", "v27.0.0")
CLOSE_GOING_AWAY = 1001
CLOSE_POLICY = 1008

NOTHING_HERE = "Nothing here. The API is a websocket at /api/current; its reference is at /openrpc.json.\n"


class Authenticator(files.Logins, Protocol):
    """What the server needs of `middlewared.auth.authenticator.Authenticator`."""

    def refresh(self, credential: Credential) -> Credential | None: ...

    def on_change(self, listener: Callable[[], None]) -> None: ...


@dataclass(eq=False, slots=True)
class Connection:
    """One client's connection, from accepting it to its very end. Times are the loop's, in seconds."""

    origin: Origin
    transport: asyncio.Transport | None = None
    session: Session | None = None
    transferring: bool = False
    heard_s: float = 0.0
    stuck_since_s: float | None = None
    unwanted: bool = False  # closed before its handshake was through

    def hear(self) -> None:
        self.heard_s = asyncio.get_running_loop().time()


class _WebServer(web.Server):
    """aiohttp's server, which also tells when a connection has ended."""

    def __init__(self, handler: Any, on_lost: Callable[[Any], None], **options: Any) -> None:
        super().__init__(handler, **options)
        self._on_lost = on_lost

    def connection_lost(self, handler: Any, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self._on_lost(handler)


def channel_binding(certificate: Path) -> bytes:
    """tls-server-end-point (RFC 5929 section 4.1): MD5 and SHA-1 are replaced by SHA-256, as is "no hash" (Ed25519)."""
    parsed = x509.load_pem_x509_certificate(certificate.read_bytes())
    algorithm = parsed.signature_hash_algorithm
    name = "sha256" if algorithm is None or algorithm.name in ("md5", "sha1") else algorithm.name
    return hashlib.new(name, parsed.public_bytes(Encoding.DER)).digest()


def tls_context(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate)
    return context


class Server:
    """Serves the API until `stop`."""

    def __init__(
        self,
        settings: ApiSettings,
        socket_path: Path,
        *,
        dispatcher: Dispatcher,
        bus: Bus,
        authenticator: Authenticator,
        boot_id: str,
        admit: Callable[[str], bool] = lambda local_address: True,
        inherited: Sequence[socket.socket] = (),
    ) -> None:
        """`admit(local_address)` is asked for each new TCP connection.

        `inherited` sockets listen already and belong to whoever made them (systemd, sd_listen_fds(3)); a unix socket
        among them stands for `socket_path`.
        """
        self._inherited = inherited
        self.hub = Hub(bus, dispatcher.registry)
        self._settings = settings
        self._socket_path = socket_path
        self._dispatcher = dispatcher
        self._authenticator = authenticator
        self._admit = admit
        self._documents = {
            "/api/versions": extjson.dumps(list(API_VERSIONS)),
            "/api/boot_id": extjson.dumps(boot_id),
        }
        self._dialects: dict[str, type[Session]] = {"/api/current": RpcSession, "/websocket": LegacySession}
        self._dialects |= {f"/api/{version}": RpcSession for version in API_VERSIONS}
        self._connections: dict[Any, Connection] = {}  # by aiohttp's protocol object
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting: list[asyncio.Task[None]] = []
        self._listening: list[socket.socket] = []
        self._handoff: listeners.Handoff | None = None
        self._tls: ssl.SSLContext | None = None
        self._binding: bytes | None = None
        self._web: _WebServer | None = None
        self._stopped = False
        authenticator.on_change(lambda: self.hub.refresh(authenticator.refresh))

    # ------------------------------------------------------------------------------------------ life

    async def start(self) -> None:
        """Listen everywhere. Raises OSError, naming the address that is taken or the certificate that is wrong."""
        # aiohttp closes a connection that has not completed a request's headers within keepalive_timeout, counted from
        # its beginning or from its last answer; data that trickles in does not prolong it.
        self._web = _WebServer(
            self._handle, self._forget, keepalive_timeout=REQUEST_HEAD_TIMEOUT_S, access_log=None, tcp_keepalive=True
        )
        settings = self._settings
        if settings.certificate:
            self._tls = tls_context(Path(settings.certificate))
            self._binding = channel_binding(Path(settings.certificate))
        try:
            for address in settings.listen:
                self._listen(listeners.listen_tcp(address), lambda taken: self._take(taken, tls=False))
            for address in settings.listen_tls:
                self._listen(listeners.listen_tcp(address), lambda taken: self._take(taken, tls=True))
            for listener in self._inherited:
                listener.setblocking(False)
                self._listen(listener, self._take_inherited)
            if not self._socket_is_inherited:
                own = listeners.listen_unix(self._socket_path, 0o666)
                self._listen(own, lambda taken: self._take(taken, tls=False))
            if settings.handoff:
                self._handoff = listeners.Handoff(Path(settings.handoff), self._take_handed_over)
        except OSError:
            await self.stop()
            raise
        self._accepting.append(asyncio.create_task(self._sweep_for_ever()))

    async def stop(self) -> None:
        """Close every connection (websockets with 1001) and end what still runs for them. Bounded in time."""
        if self._stopped:
            return
        self._stopped = True
        for accepting in self._accepting:
            accepting.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        for listener in self._listening:
            listener.close()
        if self._handoff is not None:
            await self._handoff.close()
        for connection in tuple(self._connections.values()):
            if connection.session is not None:
                connection.session.close(CLOSE_GOING_AWAY)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                while self._tasks:
                    await asyncio.wait(tuple(self._tasks))
        for task in tuple(self._tasks):
            task.cancel()
        if self._web is not None:
            await self._web.shutdown(CLOSE_TIMEOUT_S)
        self.hub.close()
        if not self._socket_is_inherited:
            self._socket_path.unlink(missing_ok=True)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where TCP is listened on: useful after asking for port 0."""
        return [listener.getsockname()[:2] for listener in self._listening if listener.family != socket.AF_UNIX]

    @property
    def connections(self) -> int:
        return len(self._connections)

    def close_connections(self, local_address: str) -> None:
        """End every connection that came in on this address (1001): it has moved, and they must follow it."""
        for connection in tuple(self._connections.values()):
            if connection.origin.local_address != local_address:
                continue
            connection.unwanted = True
            if connection.session is not None:
                connection.session.close(CLOSE_GOING_AWAY)
            elif connection.transport is not None:
                connection.transport.abort()

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something beside the connection that asked for it, and remember it until it has ended."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --------------------------------------------------------------------------------- connections

    def _listen(self, listener: socket.socket, take: listeners.Take) -> None:
        self._listening.append(listener)
        self._accepting.append(asyncio.create_task(listeners.accept_for_ever(listener, take)))

    @property
    def _socket_is_inherited(self) -> bool:
        return any(listener.family == socket.AF_UNIX for listener in self._inherited)

    def _take_inherited(self, taken: socket.socket) -> None:
        tls = taken.family != socket.AF_UNIX and taken.getsockname()[1] == self._settings.port_tls
        self._take(taken, tls=tls)

    def _take_handed_over(self, taken: socket.socket, port: int) -> None:
        self._take(taken, tls=port == self._settings.port_tls)

    def _take(self, taken: socket.socket, *, tls: bool) -> None:
        """Admit an accepted connection or close it, before a byte of it is read."""
        try:
            origin = self._origin(taken, tls)
        except (OSError, ValueError):  # it was gone before we looked
            taken.close()
            return
        full = len(self._connections) >= self._settings.connections_max
        if full or (tls and self._tls is None) or not (origin.is_unix or self._admit(origin.local_address)):
            taken.close()
            return
        if not origin.is_unix:
            # Sent and not acknowledged for so long: the client or the way to it is dead. Covers closed windows too.
            taken.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, ANSWER_TIMEOUT_S * 1000)
        self.run(self._open(taken, Connection(origin, heard_s=asyncio.get_running_loop().time()), tls))

    def _origin(self, taken: socket.socket, tls: bool) -> Origin:
        if taken.family == socket.AF_UNIX:
            uid, gid = listeners.peer_ids(taken)
            return Origin("unix", uid=uid, gid=gid)
        return Origin(
            listeners.plain_address(taken.getpeername()),
            secure=tls,
            channel_binding=self._binding if tls else None,
            local_address=listeners.plain_address(taken.getsockname()),
        )

    async def _open(self, taken: socket.socket, connection: Connection, tls: bool) -> None:
        if self._web is None:
            taken.close()
            return
        handler = self._web()
        self._connections[handler] = connection
        options: dict[str, Any] = {}
        if tls:
            options = {"ssl": self._tls, "ssl_handshake_timeout": TLS_HANDSHAKE_TIMEOUT_S}
        try:
            loop = asyncio.get_running_loop()
            connection.transport, _ = await loop.connect_accepted_socket(lambda: handler, taken, **options)
        except (OSError, TimeoutError):  # the handshake failed; ssl.SSLError is an OSError
            self._forget(handler)
            taken.close()
            return
        if connection.unwanted:
            connection.transport.abort()

    def _forget(self, handler: Any) -> None:
        self._connections.pop(handler, None)

    async def _sweep_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_INTERVAL_S)
            for connection in tuple(self._connections.values()):
                self._sweep(connection, loop.time())

    def _sweep(self, connection: Connection, now_s: float) -> None:
        """Cut off a connection that cannot be got rid of, or does not read its answer; ask idle strangers to leave."""
        transport, session = connection.transport, connection.session
        if transport is None or connection.transferring:
            return
        stuck = transport.is_closing() or (session is None and transport.get_write_buffer_size() > 0)
        if not stuck:
            connection.stuck_since_s = None
        elif connection.stuck_since_s is None:
            connection.stuck_since_s = now_s
        elif now_s - connection.stuck_since_s > ANSWER_TIMEOUT_S:
            transport.abort()
        idle = now_s - connection.heard_s > IDLE_BEFORE_LOGIN_TIMEOUT_S
        if session is not None and session.credential is None and idle:
            session.close(CLOSE_POLICY)

    # ------------------------------------------------------------------------------------ requests

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = self._connections.get(request.protocol)
        if connection is None:
            raise web.HTTPServiceUnavailable
        try:
            return await self._answer(request, connection)
        except ConnectionError:  # the client has gone, which aiohttp would log as an error of ours
            if request.transport is not None:
                request.transport.abort()
            return web.Response()

    async def _answer(self, request: web.BaseRequest, connection: Connection) -> web.StreamResponse:
        path = request.path
        if "//" in path:
            merged = request.rel_url.with_path("/" + "/".join(part for part in path.split("/") if part))
            raise web.HTTPPermanentRedirect(str(merged.with_query(request.query)))
        dialect = self._dialects.get(path)
        if dialect is not None:
            return await self._serve_websocket(request, connection, dialect)
        if path.startswith(("/_upload/", "/_download/")):
            return await self._transfer(request, connection)
        if request.method not in ("GET", "HEAD"):
            raise web.HTTPNotFound
        if path in self._documents:
            return web.Response(body=self._documents[path], content_type="application/json")
        if path == "/openrpc.json":
            return web.Response(body=self._dispatcher.registry.openrpc_text, content_type="application/json")
        raise web.HTTPNotFound(text=NOTHING_HERE)

    async def _transfer(self, request: web.BaseRequest, connection: Connection) -> web.StreamResponse:
        connection.transferring = True
        try:
            if request.path.startswith("/_upload/"):
                if request.method != "POST":
                    raise web.HTTPMethodNotAllowed(request.method, ["POST"])
                return await files.upload(request, self._dispatcher, self._authenticator, connection.origin)
            if request.method != "GET":
                raise web.HTTPMethodNotAllowed(request.method, ["GET"])
            downloads = self._dispatcher.downloads
            return await files.download(request, downloads, self._authenticator, connection.origin)
        finally:
            connection.transferring = False

    async def _serve_websocket(
        self, request: web.BaseRequest, connection: Connection, dialect: type[Session]
    ) -> web.StreamResponse:
        peer = websocket.Peer()
        await peer.prepare(request)
        if connection.transport is None:
            raise ConnectionResetError
        shell = websocket.Shell(peer, connection.transport, self.run, connection.origin.address)
        credential = self._authenticator.unix_credential(connection.origin)
        session = dialect(self.hub, self._dispatcher, connection.origin, shell, credential)
        peer.session = connection.session = session
        try:
            await websocket.Reader(peer, session, self.run, connection.hear).read()
        finally:
            session.closed()
            connection.session = None
        return peer
