"""The client's end of a websocket (RFC 6455) over a blocking socket: uncompressed text messages, and no more.

The websockets library does this better, but importing it takes longer than everything else that a one-shot command
does (measured: 60 to 80 ms of 110). The tests run this against that library's server.
"""

import base64
import hashlib
import os
import socket
import time
from typing import TYPE_CHECKING

from middlewared.client.endpoint import Endpoint, explain, refused_upgrade, tls_context
from middlewared.client.errors import ClientError

if TYPE_CHECKING:
    import ssl

ACCEPT_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
HEADERS_BYTES_MAX = 64 << 10
MESSAGE_BYTES_MAX = 64 << 20
CONTINUATION, TEXT, CLOSE, PING, PONG = 0x0, 0x1, 0x8, 0x9, 0xA
FINAL, MASKED = 0x80, 0x80


class WebSocket:
    """Connected when built. Raises ClientError; after any error it is closed."""

    def __init__(self, endpoint: Endpoint, *, verify: "bool | ssl.SSLContext" = True, timeout_s: float = 10) -> None:
        self._endpoint = endpoint
        self._deadline = time.monotonic() + timeout_s
        self._received = bytearray()
        self._message = bytearray()  # what has come of a fragmented message
        try:
            self._socket = self._connect(verify, timeout_s)
        except OSError as error:  # TimeoutError and SSLError too
            raise explain(endpoint, error) from error
        try:
            self._upgrade()
        except TimeoutError as error:
            self._socket.close()
            raise explain(endpoint, error) from error

    def peer_certificate(self) -> bytes | None:
        """The server's certificate (DER); None without TLS."""
        get = getattr(self._socket, "getpeercert", None)
        return None if get is None else get(True)

    def send(self, text: str) -> None:
        self._send_frame(TEXT, text.encode())

    def ping(self) -> None:
        self._send_frame(PING, b"")

    def receive(self, timeout_s: float) -> str | None:
        """The next text message; None when nothing at all came in time (a pong is something: it returns "")."""
        self._deadline = time.monotonic() + timeout_s
        while True:
            try:
                final, opcode, payload = self._receive_frame()
            except TimeoutError:
                return None
            if opcode == PING:
                self._send_frame(PONG, payload)
            elif opcode == PONG:
                return ""
            elif opcode == CLOSE:
                raise self._closed(payload)
            elif opcode not in (TEXT, CONTINUATION):
                raise self._broken(f"a frame of kind {opcode}")
            elif len(self._message) + len(payload) > MESSAGE_BYTES_MAX:
                raise self._broken("too long a message")
            else:
                self._message += payload
                if final:
                    return self._take_message()

    def close(self) -> None:
        """Say goodbye without waiting for the answer."""
        try:
            self._send_frame(CLOSE, (1000).to_bytes(2, "big"))
        except ClientError:
            return  # gone already
        self._socket.close()

    def _connect(self, verify: "bool | ssl.SSLContext", timeout_s: float) -> socket.socket:
        endpoint = self._endpoint
        if endpoint.socket_path:
            local = socket.socket(socket.AF_UNIX)
            local.settimeout(timeout_s)
            local.connect(endpoint.socket_path)
            return local
        connection = socket.create_connection((endpoint.host, endpoint.port), timeout_s)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if endpoint.tls:
            return tls_context(verify).wrap_socket(connection, server_hostname=endpoint.host)
        return connection

    def _upgrade(self) -> None:
        """The opening handshake (section 4.1)."""
        key = base64.b64encode(os.urandom(16))
        request = (
            f"GET {self._endpoint.path} HTTP/1.1\r\nHost: {self._endpoint.authority}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {key.decode()}\r\n\r\n"
        )
        self._write(request.encode())
        while (end := self._received.find(b"\r\n\r\n")) < 0:
            if len(self._received) > HEADERS_BYTES_MAX:
                raise self._broken("endless headers")
            self._fill()
        lines = bytes(self._received[:end]).decode("latin-1").split("\r\n")
        del self._received[: end + 4]
        version, _, status = lines[0].partition(" ")
        if not version.startswith("HTTP/") or not status[:3].isdecimal():
            hint = "" if self._endpoint.tls else ": if it speaks TLS, write wss://"
            raise ClientError(f"{self._endpoint.url} did not answer like an HTTP server{hint}")
        if status[:3] != "101":
            raise refused_upgrade(self._endpoint, int(status[:3]))
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
        }
        accept = base64.b64encode(hashlib.sha1(key + ACCEPT_GUID, usedforsecurity=False).digest()).decode()
        if headers.get("sec-websocket-accept") != accept:
            raise self._broken("a wrong handshake")

    def _take_message(self) -> str:
        message, self._message = self._message, bytearray()
        try:
            return message.decode()
        except UnicodeDecodeError as error:
            raise self._broken("text that is not UTF-8") from error

    def _send_frame(self, opcode: int, payload: bytes) -> None:
        """One masked frame (section 5.2)."""
        size = len(payload)
        if size < 126:
            head = bytes((FINAL | opcode, MASKED | size))
        elif size < 1 << 16:
            head = bytes((FINAL | opcode, MASKED | 126)) + size.to_bytes(2, "big")
        else:
            head = bytes((FINAL | opcode, MASKED | 127)) + size.to_bytes(8, "big")
        mask = os.urandom(4)
        repeated = (mask * (size // 4 + 1))[:size]
        masked = (int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")).to_bytes(size, "big")
        self._write(head + mask + masked)

    def _receive_frame(self) -> tuple[bool, int, bytes]:
        """Final or not, opcode, payload. Nothing is taken from the buffer until the frame is whole."""
        self._need(2)
        first, size, start = self._received[0], self._received[1], 2
        if first & 0x70 or size & MASKED:
            raise self._broken("a malformed frame")
        if size >= 126:
            start = 4 if size == 126 else 10
            self._need(start)
            size = int.from_bytes(self._received[2:start], "big")
        if size > MESSAGE_BYTES_MAX:
            raise self._broken("too long a frame")
        self._need(start + size)
        payload = bytes(self._received[start : start + size])
        del self._received[: start + size]
        return bool(first & FINAL), first & 0x0F, payload

    def _need(self, size: int) -> None:
        while len(self._received) < size:
            self._fill()

    def _fill(self) -> None:
        """Wait for more bytes until the deadline, which raises TimeoutError."""
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        try:
            self._socket.settimeout(left_s)
            data = self._socket.recv(1 << 16)
        except TimeoutError:
            raise
        except OSError as error:
            raise self._lost() from error
        if not data:
            raise self._lost()
        self._received += data

    def _write(self, data: bytes) -> None:
        try:
            self._socket.settimeout(max(1.0, self._deadline - time.monotonic()))
            self._socket.sendall(data)
        except OSError as error:
            raise self._lost() from error

    def _lost(self) -> ClientError:
        self._socket.close()
        return ClientError("the connection to the daemon was lost")

    def _broken(self, what: str) -> ClientError:
        self._socket.close()
        return ClientError(f"{self._endpoint.url} sent {what}: that is not the API")

    def _closed(self, payload: bytes) -> ClientError:
        code, reason = int.from_bytes(payload[:2], "big") or 1005, payload[2:].decode(errors="replace")
        self._socket.close()
        return ClientError(f"the daemon closed the connection ({code}{': ' + reason if reason else ''})")
