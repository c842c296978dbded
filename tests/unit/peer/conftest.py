"""Two links on real sockets, and stand-ins that speak the protocol by hand."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve

from middlewared.peer import pairing
from middlewared.peer.codec import FRAME_BYTES_MAX, Frame, Hello, decode, encode
from middlewared.peer.link import PeerLink
from middlewared.peer.transport import load_trust
from middlewared.settings import PeerSettings

DEADLINE_S = 20.0  # of a test's wait; only ever reached by a failure


@dataclass(slots=True)
class Side:
    """One controller's link, and what it told its owner."""

    link: PeerLink
    told: asyncio.Queue[tuple[str, Any]] = field(default_factory=asyncio.Queue)
    history: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.link.on_connected = lambda: self._tell("connected")
        self.link.on_lost = lambda: self._tell("lost")
        self.link.on_facts = lambda facts: self._tell("facts", facts)

    def _tell(self, what: str, data: Any = None) -> None:
        self.history.append(what)
        self.told.put_nowait((what, data))

    async def until(self, what: str) -> Any:
        """Wait to be told; what else is told before is skipped."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                name, data = await self.told.get()
                if name == what:
                    return data


class Wire:
    """A hand-made other end: sends and receives frames, and does nothing of its own accord."""

    def __init__(self, socket: ClientConnection | ServerConnection) -> None:
        self.socket = socket

    async def send(self, *frames: Frame) -> None:
        for frame in frames:
            await self.socket.send(encode(frame))

    async def until(self, kind: type[Any]) -> Any:
        async with asyncio.timeout(DEADLINE_S):
            while not isinstance(frame := decode(await self.socket.recv()), kind):
                pass
            return frame


def write_pair(folder: Path, node: str, pem: bytes) -> None:
    pairing.write_private(folder / f"{node}.pem", pem)
    (folder / f"{node}.crt").write_bytes(pairing.public_part(pem))


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with <node>.pem and <node>.crt for A, B, a stranger, and B's expired twin."""
    folder = tmp_path_factory.mktemp("certificates")
    for node in ("A", "B", "stranger"):
        write_pair(folder, node, pairing.generate_certificate("B" if node == "stranger" else node))
    long_ago = datetime.now(UTC) - timedelta(days=pairing.VALID_DAYS + 1)
    write_pair(folder, "expired", pairing.generate_certificate("B", now=long_ago))
    return folder


def settings_of(certificates: Path, node: str, **changes: Any) -> PeerSettings:
    other = "B" if node == "A" else "A"
    settings = PeerSettings(
        listen="127.0.0.1:0",
        connect="127.0.0.1:1",
        certificate=str(certificates / f"{node}.pem"),
        peer_certificate=str(certificates / f"{other}.crt"),
        heartbeat_ms=20,
        timeout_ms=5000,  # generous: a busy machine is no failure
    )
    return replace(settings, **changes)


StartSide = Callable[..., Awaitable[Side]]


@pytest.fixture
async def start_side(certificates: Path) -> AsyncIterator[StartSide]:
    """Start one link: start_side("B", timeout_ms=100); stopped at the end of the test."""
    sides: list[Side] = []

    async def start(node: str, prepare: Callable[[PeerLink], None] = lambda link: None, **changes: Any) -> Side:
        side = Side(PeerLink(settings_of(certificates, node, **changes), node))
        prepare(side.link)
        sides.append(side)
        await side.link.start()
        return side

    yield start
    for side in sides:
        await side.link.stop()


@pytest.fixture
async def pair(start_side: StartSide) -> tuple[Side, Side]:
    """A and B, connected."""
    b = await start_side("B")
    a = await start_side("A", connect=b.link.listening_at[0])
    await a.until("connected")
    await b.until("connected")
    return a, b


@pytest.fixture
async def wire_to(certificates: Path) -> AsyncIterator[Callable[..., Awaitable[Wire]]]:
    """Dial a link by hand, as the other controller: wire_to(b) has said hello, wire_to(b, hello=False) has not."""
    sockets: list[ClientConnection] = []

    async def dial(side: Side, *, node: str = "A", hello: bool = True, certificate: str = "A") -> Wire:
        trust = load_trust(settings_of(certificates, node, certificate=str(certificates / f"{certificate}.pem")))
        socket = await connect(
            f"wss://{side.link.listening_at[0]}/",
            ssl=trust.client,
            compression=None,
            ping_interval=None,
            max_size=2 * FRAME_BYTES_MAX,
            close_timeout=0.1,
            proxy=None,
        )
        sockets.append(socket)
        wire = Wire(socket)
        if hello:
            await wire.send(Hello(node))
            await side.until("connected")
        return wire

    yield dial
    for socket in sockets:
        socket.transport.abort()


@pytest.fixture
async def stand_in(certificates: Path) -> AsyncIterator[Callable[..., Awaitable[tuple[str, asyncio.Queue[Wire]]]]]:
    """Listen by hand, as node B: (address, queue of the connections that came)."""
    servers = []
    end = asyncio.Event()

    async def listen(certificate: str = "B", port: int = 0) -> tuple[str, asyncio.Queue[Wire]]:
        came: asyncio.Queue[Wire] = asyncio.Queue()

        async def handle(socket: ServerConnection) -> None:
            came.put_nowait(Wire(socket))
            await end.wait()
            socket.transport.abort()

        trust = load_trust(settings_of(certificates, "B", certificate=str(certificates / f"{certificate}.pem")))
        server = await serve(
            handle, "127.0.0.1", port, ssl=trust.server, compression=None, ping_interval=None, close_timeout=0.1
        )
        servers.append(server)
        return f"127.0.0.1:{server.sockets[0].getsockname()[1]}", came

    yield listen
    end.set()
    for server in servers:
        server.close()
        await server.wait_closed()
