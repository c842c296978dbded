"""Sockets of file streams: the link's port and its pinned certificates, blocking, each in a thread of its own."""

import contextlib
import socket
import ssl
from collections.abc import Callable

from middlewared.peer.front import STREAM_MARK

Objection = Callable[[bytes | None], str]  # why the owner of a certificate (DER) gets nothing; empty: nothing

OPEN_TIMEOUT_S = 1.0  # each step of the way to a secured stream
STALL_TIMEOUT_S = 10.0  # a stream on which nothing moves for so long has broken
_DRAINED_BYTES_MAX = 64 << 20
_TOS_THROUGHPUT = 0x08  # where the way out is full, the link's own packets overtake these: tc-prio(8)


def dial(where: str | tuple[str, int], context: ssl.SSLContext, objection: Objection) -> ssl.SSLSocket:
    """To (host, port) or the path of a unix socket, secured. Raises OSError."""
    if isinstance(where, str):
        plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    else:
        plain = socket.create_connection(where, OPEN_TIMEOUT_S)
    try:
        plain.settimeout(OPEN_TIMEOUT_S)
        if isinstance(where, str):
            plain.connect(where)
        plain.sendall(STREAM_MARK)
        return _secured(plain, context, objection, server_side=False)
    except BaseException:
        plain.close()
        raise


def accept(plain: socket.socket, context: ssl.SSLContext, objection: Objection) -> ssl.SSLSocket:
    """The other half, of a connection whose mark is read. Raises OSError."""
    try:
        plain.settimeout(OPEN_TIMEOUT_S)
        return _secured(plain, context, objection, server_side=True)
    except BaseException:
        plain.close()
        raise


def _secured(
    plain: socket.socket, context: ssl.SSLContext, objection: Objection, *, server_side: bool
) -> ssl.SSLSocket:
    if plain.family != socket.AF_UNIX:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if plain.family == socket.AF_INET:
        plain.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, _TOS_THROUGHPUT)
    secured = context.wrap_socket(plain, server_side=server_side, server_hostname=None if server_side else "peer")
    refusal = objection(secured.getpeercert(binary_form=True))
    if refusal:
        secured.close()
        raise ConnectionError(refusal)
    secured.settimeout(STALL_TIMEOUT_S)
    return secured


def hang_up(stream: socket.socket) -> None:
    """From another thread: whoever reads or writes it learns of its end at once."""
    with contextlib.suppress(OSError):  # it has ended already
        socket.socket.shutdown(stream, socket.SHUT_RDWR)


def drain(stream: ssl.SSLSocket) -> None:
    """Read what is still on its way, or the refusal that we sent would be reset away."""
    buffer = memoryview(bytearray(1 << 20))
    left_bytes = _DRAINED_BYTES_MAX
    with contextlib.suppress(OSError):
        stream.settimeout(OPEN_TIMEOUT_S)
        while left_bytes > 0 and (received := stream.recv_into(buffer)):
            left_bytes -= received
