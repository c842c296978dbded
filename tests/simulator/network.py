"""The wires between the controllers: a LAN segment a NIC for VRRP, and the heartbeat cable for the peer link.

A direction of a wire that is cut loses datagrams (adverts); TCP keeps what was sent and sends it again after the heal,
as long as both ends still know the connection.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from websockets.exceptions import ConnectionClosedError

from middlewared.peer.transport import Accept, Connection, Listener

if TYPE_CHECKING:
    from tests.simulator.loop import Process, VirtualLoop

HEARTBEAT = "heartbeat"
_OPEN_TIMEOUT_S = 1.0  # as middlewared.peer.transport
_RETRANSMIT_MS = 200.0  # TCP's smallest retransmission time-out


class Network:
    """Every wire by name: `heartbeat`, and the LAN segments by NIC."""

    def __init__(self, loop: "VirtualLoop", rng: random.Random, latency_ms: float) -> None:
        self._loop = loop
        self._rng = rng
        self.latency_ms = latency_ms
        self.cut: set[tuple[str, str]] = set()  # (wire, sender): a cable is out
        self.lossy: set[tuple[str, str]] = set()  # (wire, sender): this direction alone loses everything
        self.slow_ms: dict[str, float] = {}  # by wire
        self.shuffled: set[str] = set()  # wires whose datagrams may overtake one another
        self.wires: dict[str, Wire] = {}  # the peer link's two ends, by controller
        self.on_advert: Callable[[str, str, dict[str, Any]], None] = lambda node, nic, advert: None

    def delay_s(self, wire: str) -> float:
        delay_ms = self.latency_ms * (0.5 + self._rng.random()) + self.slow_ms.get(wire, 0.0)
        if wire in self.shuffled:
            delay_ms *= 1 + 10 * self._rng.random()
        return delay_ms / 1000

    def passes(self, wire: str, sender: str) -> bool:
        return (wire, sender) not in self.cut and (wire, sender) not in self.lossy

    def send_advert(self, sender: str, nic: str, advert: dict[str, Any]) -> None:
        """One VRRP advert on its way; lost if the wire is cut when it arrives."""
        self._loop.call_later(self.delay_s(nic), self._arrive, sender, nic, advert, context=self._loop.world)

    def _arrive(self, sender: str, nic: str, advert: dict[str, Any]) -> None:
        if self.passes(nic, sender):
            self.on_advert("b" if sender == "a" else "a", nic, advert)

    def healed(self) -> None:
        """A wire works again: what waited on the peer link's connections is sent again."""
        for wire in self.wires.values():
            wire.resume()


class Wire:
    """One controller's end of the peer link (middlewared.peer.transport.Wire), for one life of its daemon."""

    def __init__(self, network: Network, node: str, process: "Process") -> None:
        self.network = network
        self.node = node
        self.process = process
        self.accept: Accept | None = None
        self.connections: list[MemoryConnection] = []
        network.wires[node] = self
        process.on_death.append(self._died)

    @property
    def other(self) -> "Wire | None":
        return self.network.wires.get("b" if self.node == "a" else "a")

    async def listen(self, accept: Accept) -> Listener:
        self.accept = accept
        return _Listening(self)

    async def dial(self) -> Connection:
        """TCP, TLS and websocket handshakes: three round trips."""
        loop = self.process.loop
        for _ in range(6):
            await asyncio.sleep(self.network.delay_s(HEARTBEAT))
            there = self.other
            reachable = self.network.passes(HEARTBEAT, "a") and self.network.passes(HEARTBEAT, "b")
            if not reachable or there is None or there.process.stops:
                await asyncio.sleep(_OPEN_TIMEOUT_S)
                raise TimeoutError("timed out during opening handshake")
            if there.accept is None or not there.process.alive:
                raise ConnectionRefusedError("nobody listens")
        accept, there = there.accept, there
        mine, theirs = MemoryConnection(self, loop), MemoryConnection(there, loop)
        mine.other, theirs.other = theirs, mine
        there.process.call_soon(there.process.start, accept(theirs))
        return mine

    def resume(self) -> None:
        for connection in list(self.connections):
            connection.resume()

    def _died(self) -> None:
        """The kernel closes a dead process's connections; one without power says nothing, ever."""
        self.accept = None
        for connection in list(self.connections):
            connection.hang_up()

    def lose_power(self) -> None:
        """Before the process dies: nobody is told."""
        for connection in self.connections:
            connection.mute = True
        if self.network.wires.get(self.node) is self:
            del self.network.wires[self.node]


class _Listening:
    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    @property
    def addresses(self) -> tuple[str, ...]:
        return (f"{self._wire.node}:memory",)

    async def close(self) -> None:
        self._wire.accept = None


_END = object()  # a FIN on its way


class MemoryConnection:
    """One end of a connection. Messages stay in order, and wait while the wire is cut."""

    def __init__(self, wire: Wire, loop: "VirtualLoop") -> None:
        self._wire = wire
        self._loop = loop
        self.heard_at = loop.time()
        self.proof = b""
        self.other: MemoryConnection | None = None
        self.mute = False  # no power: what was sent is lost with the machine
        self._unsent: deque[Any] = deque()  # towards the other end
        self._arrives_s = 0.0
        self._timer: Any = None
        self._inbox: deque[str | bytes] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False
        wire.connections.append(self)

    # ------------------------------------------------------------------------------------------ Connection

    async def recv(self) -> str | bytes:
        while not self._inbox:
            if self._ended:
                raise ConnectionClosedError(None, None)
            self._waiter = self._loop.create_future()
            await self._waiter
        return self._inbox.popleft()

    async def send(self, message: str | bytes) -> None:
        if self._ended:
            raise ConnectionClosedError(None, None)
        self._post(message)

    async def close(self) -> None:
        self.hang_up()

    def abort(self) -> None:
        self.hang_up()

    # ------------------------------------------------------------------------------------------ the wire

    def hang_up(self) -> None:
        if not self._ended:
            self._post(_END)
            self._end()

    def _post(self, what: Any) -> None:
        if self.mute:
            return
        self._unsent.append(what)
        if self._timer is None:
            self._schedule(self._wire.network.delay_s(HEARTBEAT))

    def _schedule(self, delay_s: float) -> None:
        self._timer = self._loop.call_later(delay_s, self._deliver, context=self._loop.world)

    def resume(self) -> None:
        """The wire works again; TCP finds out at its next retransmission."""
        if self._timer is None and self._unsent:
            self._schedule(_RETRANSMIT_MS / 1000)

    def _deliver(self) -> None:
        self._timer = None
        other = self.other
        if self.mute or other is None or not self._wire.network.passes(HEARTBEAT, self._wire.node):
            return  # until `resume`, if ever
        if other.mute:  # its machine lost power; if it has booted since, it answers with a reset
            if other._wire.node in self._wire.network.wires:
                self._wire.process.call_soon(self._end)
            return
        while self._unsent:
            what = self._unsent.popleft()
            if what is _END:
                other._wire.process.call_soon(other._end)
            else:
                other._wire.process.call_soon(other._take, what)

    def _take(self, message: str | bytes) -> None:
        if not self._ended:
            self.heard_at = self._loop.time()
            self._inbox.append(message)
            self._wake()

    def _end(self) -> None:
        self._ended = True
        if self in self._wire.connections:
            self._wire.connections.remove(self)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
