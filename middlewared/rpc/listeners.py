"""Ways in: TCP, a unix socket, and connections handed over by somebody who accepted them (SCM_RIGHTS)."""

import asyncio
import errno
import logging
import socket
import struct
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

log = logging.getLogger(__name__)

BACKLOG = 1024
HANDOFF_MESSAGE_BYTES_MAX = 64
HANDOFF_SENDERS_MAX = 16
_OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_ACCEPT_PAUSE_S = 0.5
_PEER_CREDENTIALS = struct.Struct("iII")  # struct ucred: pid, uid, gid

Take = Callable[[socket.socket], None]


def parse_address(text: str) -> tuple[str, int]:
    """`192.0.2.1:80` or `[2001:db8::1]:80`. Raises ValueError."""
    host, _, port = text.rpartition(":")
    return str(ip_address(host.strip("[]"))), int(port)


def plain_address(name: object) -> str:
    """The IP address of a socket name, without port, IPv4 inside IPv6 as IPv4; "unix" for a unix socket."""
    if not isinstance(name, tuple):
        return "unix"
    address = ip_address(name[0].partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def peer_ids(connection: socket.socket) -> tuple[int, int]:
    """uid and gid of the process at the other end of a unix socket, as the kernel vouches for them."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
    _, uid, gid = _PEER_CREDENTIALS.unpack(raw)
    return uid, gid


def listen_tcp(address: str) -> socket.socket:
    """Raises OSError naming the address."""
    host, port = parse_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"cannot listen on {address}: {error.strerror}") from error
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


def listen_unix(path: Path, mode: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
    """A unix socket with exactly these permissions; a stale file is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, kind)
    try:
        listener.bind(str(path))
        path.chmod(mode)
    except OSError:
        listener.close()
        raise
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


async def accept_for_ever(listener: socket.socket, take: Take) -> None:
    """Accept connections and hand them to `take`. Out of descriptors: wait for some to come free."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            connection, _ = await loop.sock_accept(listener)
        except OSError as error:
            if error.errno in _OUT_OF_RESOURCES:
                log.warning("cannot accept connections now: %s", error.strerror)
                await asyncio.sleep(_ACCEPT_PAUSE_S)
            elif error.errno in (errno.EBADF, errno.EINVAL):
                return  # the listener was closed
            continue
        take(connection)


class Handoff:
    """Receives accepted connections: each datagram is the port they came in on, with one descriptor."""

    def __init__(self, path: Path, take: Callable[[socket.socket, int], None]) -> None:
        self._listener = listen_unix(path, 0o600, socket.SOCK_SEQPACKET)
        self._take = take
        self._senders: set[socket.socket] = set()
        self._accepting = asyncio.create_task(accept_for_ever(self._listener, self._serve))

    async def close(self) -> None:
        self._accepting.cancel()
        await asyncio.gather(self._accepting, return_exceptions=True)
        self._listener.close()
        for sender in tuple(self._senders):
            self._drop(sender)

    def _serve(self, sender: socket.socket) -> None:
        if len(self._senders) >= HANDOFF_SENDERS_MAX:
            sender.close()
            return
        sender.setblocking(False)
        self._senders.add(sender)
        asyncio.get_running_loop().add_reader(sender, self._receive, sender)

    def _receive(self, sender: socket.socket) -> None:
        try:
            flags = socket.MSG_CMSG_CLOEXEC
            message, descriptors, _, _ = socket.recv_fds(sender, HANDOFF_MESSAGE_BYTES_MAX, 1, flags)
        except BlockingIOError:
            return
        except OSError:
            message, descriptors = b"", []
        if not message:
            self._drop(sender)
            return
        for descriptor in descriptors:
            connection = socket.socket(fileno=descriptor)
            connection.setblocking(False)
            if message.isdigit():
                self._take(connection, int(message))
            else:
                connection.close()

    def _drop(self, sender: socket.socket) -> None:
        asyncio.get_running_loop().remove_reader(sender)
        self._senders.discard(sender)
        sender.close()
