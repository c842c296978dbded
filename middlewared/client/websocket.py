"""The blocking client's end of a websocket: the websockets library, with errors that say what to do."""

import contextlib
import socket
from typing import TYPE_CHECKING

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from middlewared.client.endpoint import Endpoint, explain, refused_upgrade, tls_context
from middlewared.client.errors import ClientError

if TYPE_CHECKING:
    import ssl

MESSAGE_BYTES_MAX = 64 << 20
PING_S = 20.0  # every so often; without an answer within as long again the connection is lost
CLOSE_S = 1.0


class WebSocket:
    """Connected when built. Raises ClientError; after any error it is closed."""

    def __init__(self, endpoint: Endpoint, *, verify: "bool | ssl.SSLContext" = True, timeout_s: float = 10) -> None:
        self._endpoint = endpoint
        try:
            with contextlib.ExitStack() as opening:
                self._connection = self._connect(opening, verify, timeout_s)
                self._open = opening.pop_all()  # nothing went wrong: it stays open
        except InvalidStatus as error:
            raise refused_upgrade(endpoint, error.response.status_code) from error
        except InvalidMessage as error:
            if isinstance(error.__cause__, EOFError):  # a switch with nobody behind it, a daemon that just ended
                raise ClientError(f"{endpoint.url} closed the connection before it answered") from error
            hint = "" if endpoint.tls else ": if it speaks TLS, write wss://"
            raise ClientError(f"{endpoint.url} did not answer like an HTTP server{hint}") from error
        except InvalidHandshake as error:
            raise ClientError(f"{endpoint.url} sent a wrong handshake: that is not the API") from error
        except OSError as error:  # TimeoutError and SSLError too
            raise explain(endpoint, error) from error

    def peer_certificate(self) -> bytes | None:
        """The server's certificate (DER); None without TLS."""
        get = getattr(self._connection.socket, "getpeercert", None)
        return None if get is None else get(True)

    def send(self, text: str) -> None:
        try:
            self._connection.send(text)
        except ConnectionClosed as error:
            raise self._lost(error) from error

    def receive(self, timeout_s: float | None) -> str | None:
        """The next message; None when none came in time."""
        try:
            message = self._connection.recv(timeout_s)
        except TimeoutError:
            return None
        except ConnectionClosed as error:
            raise self._lost(error) from error
        if isinstance(message, bytes):
            self.close()
            raise ClientError(f"{self._endpoint.url} sent a binary message: that is not the API")
        return message

    def close(self) -> None:
        self._open.close()

    def _connect(
        self, opening: contextlib.ExitStack, verify: "bool | ssl.SSLContext", timeout_s: float
    ) -> ClientConnection:
        endpoint = self._endpoint
        if endpoint.socket_path:
            raw = opening.enter_context(socket.socket(socket.AF_UNIX))
            raw.settimeout(timeout_s)
            raw.connect(endpoint.socket_path)
        else:
            raw = opening.enter_context(socket.create_connection((endpoint.host, endpoint.port), timeout_s))
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connecting = connect(
            f"{'wss' if endpoint.tls else 'ws'}://{endpoint.authority}{endpoint.path}",
            sock=raw,
            ssl=tls_context(verify) if endpoint.tls else None,
            server_hostname=endpoint.host if endpoint.tls else None,
            open_timeout=timeout_s,
            close_timeout=CLOSE_S,
            ping_interval=PING_S,
            ping_timeout=PING_S,
            compression=None,
            proxy=None,
            max_size=MESSAGE_BYTES_MAX,
        )
        return opening.enter_context(connecting)

    @staticmethod
    def _lost(error: ConnectionClosed) -> ClientError:
        said = error.rcvd
        if said is None:
            return ClientError("the connection to the daemon was lost")
        return ClientError(f"the daemon closed the connection ({said.code}{': ' + said.reason if said.reason else ''})")
