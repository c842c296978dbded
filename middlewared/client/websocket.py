"""The blocking client's end of a websocket: the websockets library, with errors that say what to do."""

import contextlib
import logging
from typing import TYPE_CHECKING, Any

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus, WebSocketException
from websockets.sync.client import connect, unix_connect

from middlewared.client.endpoint import Endpoint, explain, refused_upgrade, tls_context
from middlewared.client.errors import ClientError

if TYPE_CHECKING:
    import ssl

    from websockets.sync.client import reconnect

MESSAGE_BYTES_MAX = 64 << 20
PING_S = 20.0  # every so often; without an answer within as long again the connection is lost
SEND_S = 40.0  # the longest that one message may take to leave
CLOSE_S = 1.0

# The library tells its log, with a traceback, what our errors say too. Who sets up logging still gets it; Python's last
# resort for those who do not, standard error, is midctl's user.
_log = logging.getLogger(__name__)
_log.addHandler(logging.NullHandler())


class WebSocket:
    """Connected when built. Raises ClientError; after any error it is closed."""

    def __init__(self, endpoint: Endpoint, *, verify: "bool | ssl.SSLContext" = True, timeout_s: float = 10) -> None:
        self._endpoint = endpoint
        self._open = contextlib.ExitStack()  # what the library closes when it leaves its context
        try:
            self._connection = self._open.enter_context(_connecting(endpoint, verify, timeout_s))
        except InvalidStatus as error:
            raise refused_upgrade(endpoint, error.response.status_code) from error
        except InvalidMessage as error:
            if isinstance(error.__cause__, EOFError):  # a switch with nobody behind it, a daemon that just ended
                raise ClientError(f"{endpoint.url} closed the connection before it answered") from error
            hint = "" if endpoint.private else ": if it speaks TLS, write wss://"
            raise ClientError(f"{endpoint.url} did not answer like an HTTP server{hint}") from error
        except InvalidHandshake as error:
            raise ClientError(f"{endpoint.url} sent a wrong handshake: that is not the API") from error
        except OSError as error:  # TimeoutError and SSLError too
            raise explain(endpoint, error) from error
        except (WebSocketException, ValueError) as error:  # a redirect to elsewhere, a host name that cannot be one
            raise ClientError(f"cannot use {endpoint.url}: {error}") from error
        self._connection.socket.settimeout(SEND_S)

    def peer_certificate(self) -> bytes | None:
        """The server's certificate (DER); None without TLS."""
        get = getattr(self._connection.socket, "getpeercert", None)
        return None if get is None else get(True)

    def send(self, text: str) -> None:
        try:
            self._connection.send(text)
        except ConnectionClosed as error:
            raise _lost(error) from error

    def receive(self, timeout_s: float | None) -> str | None:
        """The next message; None when none came in time."""
        try:
            message = self._connection.recv(timeout_s)
        except TimeoutError:
            return None
        except ConnectionClosed as error:
            raise _lost(error) from error
        if isinstance(message, bytes):
            self.close()
            raise ClientError(f"{self._endpoint.url} sent a binary message: that is not the API")
        return message

    def close(self) -> None:
        self._open.close()


def _connecting(endpoint: Endpoint, verify: "bool | ssl.SSLContext", timeout_s: float) -> "reconnect":
    """A context that connects when it is entered: what `legacy=False` asks for. (We enter once: no reconnecting.)"""
    options: dict[str, Any] = {
        "open_timeout": timeout_s,
        "close_timeout": CLOSE_S,
        "ping_interval": PING_S,
        "ping_timeout": PING_S,
        "compression": None,
        "proxy": None,
        "max_size": MESSAGE_BYTES_MAX,
        "logger": _log,
    }
    if endpoint.socket_path:
        return unix_connect(endpoint.socket_path, endpoint.websocket_url, legacy=False, **options)
    if endpoint.tls:
        options["ssl"] = tls_context(verify)
    # With the address named, a redirect cannot lead what we send to another host.
    return connect(endpoint.websocket_url, address=(endpoint.host, endpoint.port), legacy=False, **options)


def _lost(error: ConnectionClosed) -> ClientError:
    said, ours = error.rcvd, error.sent
    if said is not None and error.rcvd_then_sent is not False:
        reason = f": {said.reason}" if said.reason else ""
        return ClientError(f"the daemon closed the connection ({said.code}{reason})")
    # We ended it: the library's reason says what it could not read, or that no ping was answered.
    why = f" ({ours.reason})" if ours is not None and ours.reason else ""
    return ClientError(f"the connection to the daemon was lost{why}")
