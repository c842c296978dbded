"""The LAN: who answers on an address, and how a client's connection gets to that controller.

A controller's own addresses are its own. A virtual address belongs to whoever last announced it by gratuitous ARP, as
in a real switch: a frozen former owner keeps the traffic until another claims it. A connection that arrives is handed
over whole (SCM_RIGHTS), so that the daemon sees the client's real address and port.
"""

import asyncio
import contextlib
import errno
import socket
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from middlewared.lab.places import LAN_LINKS, NIC_ADDRESS, NODES, PORT, PORT_TLS, VIRTUAL_ADDRESSES, LabError, lan_link

_BACKLOG = 1024
_ACCEPTS_PER_WAKE_MAX = 256
_WAITING_MAX = 4096  # connections that wait for a controller to take them
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger: on, 0 s


@dataclass(slots=True)
class Port:
    """What the switch knows of one controller: its power, what its NICs answer to, and its packet filter."""

    powered: bool = False
    held: dict[str, list[str]] = field(default_factory=dict)  # virtual addresses by NIC, "ip/prefix"
    firewall_allowed: bool = False


class Routes:
    """Pure: which controller gets a connection to an address."""

    def __init__(self) -> None:
        self.ports = {node: Port() for node in NODES}
        self.links = dict.fromkeys(LAN_LINKS, True)
        self._own = {
            address: (node, nic) for node, addresses in NIC_ADDRESS.items() for nic, address in addresses.items()
        }
        self._owners: dict[str, tuple[str, str]] = {}

    def announce(self, node: str, nic: str, address: str) -> None:
        """A gratuitous ARP; heard only over a link that is up."""
        if self._carries(node, nic):
            self._owners[address.partition("/")[0]] = (node, nic)

    def owner(self, address: str) -> str | None:
        """Where the switch would send a packet for the address."""
        place = self._own.get(address) or self._owners.get(address)
        return place[0] if place is not None else None

    def route(self, address: str) -> str | None:
        """Who answers a connection; None: nobody does."""
        own = self._own.get(address)
        if own is not None:
            return own[0] if self._carries(*own) else None
        place = self._owners.get(address)
        if place is None or not self._carries(*place):
            return None
        node, nic = place
        port = self.ports[node]
        held = [item.partition("/")[0] for item in port.held.get(nic, [])]
        return node if address in held and port.firewall_allowed else None

    def _carries(self, node: str, nic: str) -> bool:
        return self.ports[node].powered and self.links[lan_link(node, nic)]


class Handoff:
    """Gives accepted connections to one controller, in order, over its handoff socket."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self._waiting: deque[tuple[socket.socket, bytes]] = deque()

    def give(self, client: socket.socket, port: int) -> None:
        """Hand over, or close the client's connection when nobody is there to take it."""
        if len(self._waiting) >= _WAITING_MAX:
            refuse(client)
            return
        self._waiting.append((client, str(port).encode()))
        if len(self._waiting) == 1:
            self._flush()

    def reset(self) -> None:
        """The controller is off or was replaced: nothing of the old connection counts."""
        self._disconnect()
        while self._waiting:
            refuse(self._waiting.popleft()[0])

    def _flush(self) -> None:
        while self._waiting:
            client, port = self._waiting[0]
            try:
                self._send(client, port)
            except BlockingIOError:  # its queue is full: it is busy, or frozen
                if self._socket is not None:
                    asyncio.get_running_loop().add_writer(self._socket, self._flush)
                    return
                refuse(client)
            except OSError:
                self._disconnect()
                refuse(client)
            else:
                client.close()
            self._waiting.popleft()
        if self._socket is not None:
            asyncio.get_running_loop().remove_writer(self._socket)

    def _send(self, client: socket.socket, port: bytes) -> None:
        """Once on the connection that we have; if that has ended (the daemon restarted), once on a new one."""
        if self._socket is not None:
            try:
                socket.send_fds(self._socket, [port], [client.fileno()])
                return
            except OSError as error:
                if error.errno not in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN):
                    raise
                self._disconnect()
        fresh = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            fresh.connect(str(self._path))
            socket.send_fds(fresh, [port], [client.fileno()])
        except OSError:
            fresh.close()
            raise
        self._socket = fresh

    def _disconnect(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_writer(self._socket)
            self._socket.close()
            self._socket = None


class Switch:
    """Listens on every address of the LAN and hands what arrives to the controller that `routes` names."""

    def __init__(self, routes: Routes, handoff: Callable[[str], Path]) -> None:
        self.routes = routes
        self._handoffs = {node: Handoff(handoff(node)) for node in NODES}
        self._listeners: list[socket.socket] = []

    def start(self) -> None:
        """Raises LabError when an address is in use."""
        own = [address for addresses in NIC_ADDRESS.values() for address in addresses.values()]
        try:
            for address in (*own, *VIRTUAL_ADDRESSES):
                for port in (PORT, PORT_TLS):
                    self._listen(address, port)
        except LabError:
            self.stop()
            raise

    def stop(self) -> None:
        loop = asyncio.get_running_loop()
        for listener in self._listeners:
            loop.remove_reader(listener)
            listener.close()
        self._listeners.clear()
        for handoff in self._handoffs.values():
            handoff.reset()

    def power(self, node: str, on: bool) -> None:
        """A controller that loses power answers nothing, and forgets its addresses and its packet filter."""
        self.routes.ports[node] = Port(powered=on)
        self._handoffs[node].reset()

    def _listen(self, address: str, port: int) -> None:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._listeners.append(listener)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address, port))
            listener.listen(_BACKLOG)
        except OSError as error:
            raise LabError(
                f"{address}:{port} cannot be used: {error.strerror}; another lab or another program has it"
            ) from error
        asyncio.get_running_loop().add_reader(listener, self._accept, listener, address, port)

    def _accept(self, listener: socket.socket, address: str, port: int) -> None:
        for _ in range(_ACCEPTS_PER_WAKE_MAX):
            try:
                client, _ = listener.accept()
            except OSError:  # none left, or no more file descriptors: those that wait are tried again
                return
            node = self.routes.route(address)
            if node is None:
                refuse(client)
            else:
                self._handoffs[node].give(client, port)


def refuse(client: socket.socket) -> None:
    """Close with a reset, as a host does that has no such port."""
    with contextlib.suppress(OSError):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    client.close()
