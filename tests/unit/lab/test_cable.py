"""The heartbeat cable: relayed bytes, a cut that holds them, and deaths without a goodbye."""

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from middlewared.lab.cable import Cable
from middlewared.lab.places import LabError

TIMEOUT_S = 5


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@dataclass
class Ends:
    """A cable, and B's daemon at its end: each connection it accepts is put into `accepted`."""

    cable: Cable
    port: int
    accepted: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]]

    async def dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)


@pytest.fixture
async def ends(tmp_path: Path) -> AsyncIterator[Ends]:
    accepted: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.put_nowait((reader, writer))

    sockets = {"a": tmp_path / "a.sock", "b": tmp_path / "b.sock"}
    daemon = await asyncio.start_unix_server(accept, str(sockets["b"]))
    port = free_port()
    cable = Cable(sockets, addresses={"b": "127.0.0.1"})
    await cable.start(port)
    for node in sockets:
        cable.power(node, True)
    async with asyncio.timeout(4 * TIMEOUT_S):
        yield Ends(cable, port, accepted)
    await cable.stop()
    daemon.close()


async def read(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(TIMEOUT_S):
        return await reader.read(100)


async def test_bytes_go_both_ways(ends: Ends) -> None:
    reader, writer = await ends.dial()
    far_reader, far_writer = await ends.accepted.get()
    writer.write(b"ping")
    assert await read(far_reader) == b"ping"
    far_writer.write(b"pong")
    assert await read(reader) == b"pong"


async def test_a_cut_holds_bytes_and_healing_delivers_them(ends: Ends) -> None:
    _, writer = await ends.dial()
    far_reader, _ = await ends.accepted.get()
    ends.cable.cut()
    assert not ends.cable.whole
    writer.write(b"held")
    await writer.drain()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await far_reader.read(100)
    ends.cable.heal()
    assert await read(far_reader) == b"held"


async def test_a_goodbye_does_not_pass_a_cut_cable(ends: Ends) -> None:
    _, writer = await ends.dial()
    far_reader, _ = await ends.accepted.get()
    ends.cable.cut()
    writer.close()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await far_reader.read(100)
    ends.cable.heal()
    assert await read(far_reader) == b""


async def test_a_connection_over_a_cut_cable_is_made_when_it_heals(ends: Ends) -> None:
    ends.cable.cut()
    _, writer = await ends.dial()
    writer.write(b"early")
    assert ends.accepted.empty()
    ends.cable.heal()
    far_reader, _ = await ends.accepted.get()
    assert await read(far_reader) == b"early"


async def test_a_daemon_that_ends_is_seen_at_once(ends: Ends) -> None:
    reader, _ = await ends.dial()
    _, far_writer = await ends.accepted.get()
    far_writer.close()
    assert await read(reader) == b""


async def test_a_controller_that_loses_power_says_nothing_until_it_has_booted(ends: Ends) -> None:
    reader, writer = await ends.dial()
    _, far_writer = await ends.accepted.get()
    ends.cable.power("b", False)
    far_writer.transport.abort()
    writer.write(b"are you there?")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await reader.read(100)
    ends.cable.power("b", True)
    assert await read(reader) == b""


async def test_nobody_listening_ends_the_connection(ends: Ends, tmp_path: Path) -> None:
    (tmp_path / "b.sock").unlink()
    reader, _ = await ends.dial()
    assert await read(reader) == b""


async def test_an_address_in_use_is_explained(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        cable = Cable({"b": tmp_path / "b.sock"}, addresses={"b": "127.0.0.1"})
        with pytest.raises(LabError, match="cannot be used"):
            await cable.start(taken.getsockname()[1])
