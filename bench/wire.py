"""The leanest websocket client there is: blocking sockets and frames made beforehand (RFC 6455).

A library's client costs as much as the server that is measured. The mask is zero, which the RFC allows and which leaves
the payload as it is.
"""

import base64
import json
import os
import socket
from pathlib import Path
from typing import Any

_HEAD_BYTES_MAX = 16 << 10
_TEXT, _CLOSE, _PING = 0x81, 0x88, 0x89


def request(method: str, *params: Any, number: int = 1) -> bytes:
    """A JSON-RPC call as text."""
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}).encode()


def frame(payload: bytes) -> bytes:
    """One masked text frame of up to 64 KiB."""
    size = len(payload)
    head = bytes((_TEXT, 0x80 | size)) if size < 126 else bytes((_TEXT, 0x80 | 126)) + size.to_bytes(2, "big")
    return head + bytes(4) + payload


class Connection:
    """One websocket. Every wait is bounded by `timeout_s`; raises OSError (TimeoutError, ConnectionError)."""

    def __init__(self, address: tuple[str, int] | Path, path: str = "/api/current", timeout_s: float = 5.0) -> None:
        family = socket.AF_UNIX if isinstance(address, Path) else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self._received = b""
        try:
            self.socket.settimeout(timeout_s)
            if isinstance(address, Path):
                self.socket.connect(str(address))
            else:
                self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.socket.connect(address)
            self._upgrade(path)
        except BaseException:
            self.socket.close()
            raise

    def close(self) -> None:
        self.socket.close()

    def call(self, method: str, *params: Any) -> Any:
        """Call a method and wait for its answer; events that arrive meanwhile are dropped. RuntimeError: refused."""
        self.socket.sendall(frame(request(method, *params)))
        while True:
            message = json.loads(self.receive())
            if message.get("id") == 1:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]

    def receive(self) -> bytes:
        """The next text frame's payload; the server's pings need no answer as soon as a benchmark ends."""
        while True:
            head = self._take(2)
            size = head[1]
            if size >= 126:
                size = int.from_bytes(self._take(2 if size == 126 else 8), "big")
            payload = self._take(size)
            if head[0] == _CLOSE:
                raise ConnectionResetError("closed by the server")
            if head[0] != _PING:
                return payload

    def _upgrade(self, path: str) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        while b"\r\n\r\n" not in self._received:
            self._more()
            if len(self._received) > _HEAD_BYTES_MAX:
                raise ConnectionError("the answer to the upgrade request is too long")
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101"):
            raise ConnectionError(head.split(b"\r\n")[0].decode(errors="replace"))

    def _take(self, size: int) -> bytes:
        while len(self._received) < size:
            self._more()
        taken, self._received = self._received[:size], self._received[size:]
        return taken

    def _more(self) -> None:
        chunk = self.socket.recv(65536)
        if not chunk:
            raise ConnectionResetError("the connection ended")
        self._received += chunk
