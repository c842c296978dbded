"""What an accepted connection becomes: its first byte says it.

A TLS handshake begins with 0x16: that is the websocket of the link, on the event loop. A file stream says so with a
byte of its own before its handshake, and goes to a thread with its bare socket: asyncio's TLS carries about 60 % of
what the socket does, and keeps the loop busy. Nobody hears anything but TLS alerts before he has shown the certificate.
"""

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Callable
from typing import Any, cast

from websockets.asyncio.server import ServerConnection

STREAM_MARK = b"F"
_TLS_MARK = b"\x16"
_OPENING_MAX = 64  # connections that have not shown their certificate yet; the oldest makes room


class Front:
    """Sorts the connections of one listener. `take_stream` gets the socket of a file stream before its TLS."""

    def __init__(self, tls: ssl.SSLContext, take_stream: Callable[[socket.socket], None], timeout_s: float) -> None:
        self.tls = tls
        self.timeout_s = timeout_s
        self._take_stream = take_stream
        self._opening: dict[asyncio.Task[None], None] = {}  # in the order in which they came

    def admit(self, connection: "Sorted", transport: asyncio.Transport) -> None:
        transport.set_protocol(asyncio.Protocol())  # the connection itself learns nothing before it is secured
        loop = asyncio.get_running_loop()
        # Not at once: Python 3.11.2 (Debian 12) begins to read after `connection_made`, whatever was paused in it.
        loop.call_soon(transport.pause_reading)
        if len(self._opening) >= _OPENING_MAX:
            next(iter(self._opening)).cancel()  # who is honest needs milliseconds, and has gone on long since
        task = loop.create_task(self._open(connection, transport))
        self._opening[task] = None

        def opened(done: asyncio.Task[None]) -> None:
            del self._opening[done]
            if not connection.is_secured:  # also where the task was cancelled before its first step
                transport.abort()

        task.add_done_callback(opened)

    async def close(self) -> None:
        opening = list(self._opening)
        for task in opening:
            task.cancel()
        await asyncio.gather(*opening, return_exceptions=True)

    async def _open(self, connection: "Sorted", transport: asyncio.Transport) -> None:
        try:
            async with asyncio.timeout(self.timeout_s):
                mark = await _first_byte(transport)
                if mark == STREAM_MARK:
                    self._take_stream(_taken_out(transport))
                elif mark == _TLS_MARK:
                    secured = await asyncio.get_running_loop().start_tls(
                        transport, connection, self.tls, server_side=True, ssl_handshake_timeout=self.timeout_s
                    )
                    connection.secured(cast(asyncio.Transport, secured))
                    return
        except (OSError, TimeoutError):
            pass  # who cannot prove who he is, or says nothing, leaves no trace: scanners would fill the log


class Sorted(ServerConnection):
    """A websocket connection that comes into being only once its TLS handshake is done."""

    front: Front
    is_secured = False
    _early: list[bytes]  # what came with the last flight of the handshake
    _lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._early = []
        self.front.admit(self, cast(asyncio.Transport, transport))

    def secured(self, transport: asyncio.Transport) -> None:
        if self._lost:
            transport.abort()
            return
        self.is_secured = True
        super().connection_made(transport)
        for data in self._early:
            super().data_received(data)
        self._early.clear()

    def data_received(self, data: bytes) -> None:
        if self.is_secured:
            super().data_received(data)
        else:
            self._early.append(bytes(data))

    def eof_received(self) -> None:
        if self.is_secured:
            super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.is_secured:
            super().connection_lost(exc)
        else:
            self._lost = True


async def _first_byte(transport: asyncio.Transport) -> bytes:
    """The first byte that arrives; it stays in the socket. Empty: the connection has ended."""
    loop = asyncio.get_running_loop()
    with _duplicate(transport) as peeked:
        arrived: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            loop.remove_reader(peeked)
            if not arrived.done():
                arrived.set_result(None)

        loop.add_reader(peeked, wake)
        try:
            await arrived
        finally:
            loop.remove_reader(peeked)
        with contextlib.suppress(BlockingIOError):
            return peeked.recv(1, socket.MSG_PEEK)
        return b""


def _duplicate(transport: asyncio.Transport) -> socket.socket:
    shown: Any = transport.get_extra_info("socket")
    return socket.socket(fileno=os.dup(shown.fileno()))


def _taken_out(transport: asyncio.Transport) -> socket.socket:
    """The connection's socket, which outlives the transport; the mark is read."""
    taken = _duplicate(transport)
    taken.recv(len(STREAM_MARK))
    transport.abort()
    return taken
