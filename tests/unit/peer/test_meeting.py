"""The port that is open while somebody pairs: few tries, little time, and not a word to strangers."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from support.pairing import CODE, controller

from middlewared.peer import introduction, meeting
from middlewared.peer.introduction import CodeRefused, Controller, Paired, PairingError
from middlewared.peer.pake import MAGIC, Pake
from middlewared.settings import SettingsError

WRONG = "7K3DQ9MY"
DEADLINE_S = 20.0


class Showing:
    """One side that shows its code, in the background."""

    def __init__(self, me: Controller, wait_s: float) -> None:
        self.tries_left: list[int] = []
        self._address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.task = asyncio.create_task(
            meeting.show(
                me,
                CODE,
                "127.0.0.1:0",
                on_listening=self._address.set_result,
                on_wrong_code=self.tries_left.append,
                wait_s=wait_s,
            )
        )

    async def address(self) -> str:
        return await asyncio.wait_for(asyncio.shield(self._address), DEADLINE_S)

    async def outcome(self) -> Paired:
        return await asyncio.wait_for(self.task, DEADLINE_S)


Show = Callable[..., Awaitable[Showing]]


@pytest.fixture
async def show(tmp_path: Path) -> AsyncIterator[Show]:
    all_of_them: list[Showing] = []

    async def start(wait_s: float = 600.0) -> Showing:
        showing = Showing(controller(tmp_path, "A"), wait_s)
        all_of_them.append(showing)
        await showing.address()
        return showing

    yield start
    for showing in all_of_them:
        showing.task.cancel()
        await asyncio.gather(showing.task, return_exceptions=True)


@pytest.fixture
def b(tmp_path: Path) -> Controller:
    return controller(tmp_path, "B")


async def test_they_meet(show: Show, b: Controller) -> None:
    showing = await show()
    joined = await meeting.join(b, CODE, await showing.address())
    shown = await showing.outcome()
    assert (joined.node, shown.node) == ("A", "B")
    with pytest.raises(PairingError, match="Nobody waits at"):
        await meeting.join(b, CODE, await showing.address())


async def test_two_wrong_codes_are_forgiven(show: Show, b: Controller) -> None:
    showing = await show()
    for left in (2, 1):
        with pytest.raises(CodeRefused):
            await meeting.join(b, WRONG, await showing.address())
        assert showing.tries_left[-1] == left
    await meeting.join(b, CODE, await showing.address())
    await showing.outcome()


async def test_the_third_ends_it(show: Show, b: Controller) -> None:
    showing = await show()
    for _ in range(meeting.TRIES_MAX):
        with pytest.raises(CodeRefused):
            await meeting.join(b, WRONG, await showing.address())
    with pytest.raises(PairingError, match=r"3 wrong codes.*Nothing was changed; start again for a new code"):
        await showing.outcome()
    with pytest.raises(PairingError, match="Nobody waits at"):
        await meeting.join(b, CODE, await showing.address())


async def test_calling_at_the_same_time_gives_no_more_tries(show: Show, b: Controller) -> None:
    """All prove at once; three are judged, and then even the right code comes too late."""
    showing = await show()
    callers = []
    for code in (WRONG, WRONG, WRONG, CODE):
        reader, writer = await dial(await showing.address())
        pake = Pake(code, caller=True)
        writer.write(framed(pake.message))
        answer = await reader.readexactly(4 + introduction.MESSAGE_BYTES)
        pake.finish(answer[4:])
        callers.append((pake, reader, writer))
    answers = []
    for pake, reader, writer in callers:
        writer.write(framed(pake.confirmation()))
        answers.append(await all_of(reader))
    assert answers == [b""] * 4
    with pytest.raises(PairingError, match="3 wrong codes"):
        await showing.outcome()


async def test_nobody_comes(show: Show) -> None:
    showing = await show(wait_s=0.05)
    with pytest.raises(PairingError, match="Nobody came"):
        await showing.outcome()


async def test_the_port_is_somebody_elses(b: Controller) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(PairingError, match=r"in use.*--listen"):
            await meeting.show(b, CODE, address, on_listening=print, on_wrong_code=print)
    with pytest.raises(PairingError, match=r"Give this host that address"):
        await meeting.show(b, CODE, "192.0.2.77:6001", on_listening=print, on_wrong_code=print)


async def test_what_answers_is_no_controller(b: Controller) -> None:
    """Something else listens there: it gets one message, and nothing is changed."""

    def banner(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")

    server = await asyncio.start_server(banner, "127.0.0.1", 0)
    try:
        with pytest.raises(PairingError, match="does not speak the language of pairing: see --peer"):
            await meeting.join(b, CODE, f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
    finally:
        server.close()
    assert b.files.pinned() == ()


async def test_what_answers_stays_silent(b: Controller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(introduction, "STEP_TIMEOUT_S", 0.05)
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    try:
        with pytest.raises(PairingError, match="did not answer within"):
            await meeting.join(b, CODE, f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
    finally:
        server.close()


# ---------------------------------------------------------------------------------------------- strangers


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(4, "big") + message


async def dial(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = address.split(":")
    return await asyncio.open_connection(host, int(port))


async def all_of(reader: asyncio.StreamReader) -> bytes:
    """What comes until the other side hangs up."""
    with contextlib.suppress(ConnectionError):
        return await asyncio.wait_for(reader.read(), DEADLINE_S)
    return b""


TLS_HELLO = bytes.fromhex("16030100f1010000ed0303")


@pytest.mark.parametrize(
    "words",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        TLS_HELLO + bytes(300),
        b"\x00\x00\x00\x00",
        b"\xff\xff\xff\xff" + bytes(100),
        framed(MAGIC + b"A" + bytes(32)),
        framed(MAGIC + b"A" + b"\x01" + bytes(31)),
        framed(b"mwpair2\0" + b"A" + bytes(32)),
        framed(bytes(41)),
        framed(MAGIC),
        b"\n" * 1000,
    ],
    ids=["get", "upgrade", "tls", "empty", "huge", "no point", "neutral", "version", "zeros", "short", "lines"],
)
async def test_strangers_hear_nothing(show: Show, b: Controller, words: bytes) -> None:
    """Not a byte; it costs no try, and the other controller is let in afterwards."""
    showing = await show()
    reader, writer = await dial(await showing.address())
    writer.write(words)
    writer.write_eof()
    assert await all_of(reader) == b""
    writer.close()
    assert showing.tries_left == []
    await meeting.join(b, CODE, await showing.address())
    await showing.outcome()


async def test_who_only_waits_hears_nothing(show: Show, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(introduction, "STEP_TIMEOUT_S", 0.05)
    showing = await show()
    reader, writer = await dial(await showing.address())
    assert await all_of(reader) == b""
    writer.close()


async def test_a_few_at_a_time(show: Show, b: Controller) -> None:
    """Whoever fills the port keeps others out only as long as he is there."""
    showing = await show()
    crowd = [await dial(await showing.address()) for _ in range(meeting.CALLERS_MAX)]
    for number, (reader, writer) in enumerate(crowd):
        pake = Pake(CODE, caller=True)
        writer.write(framed(pake.message))
        assert len(await reader.readexactly(4 + introduction.MESSAGE_BYTES)) > 0, f"caller {number} is heard"
    reader, writer = await dial(await showing.address())
    assert await all_of(reader) == b""
    for _, crowding in crowd:
        crowding.close()
    for reader, _ in crowd:
        await all_of(reader)
    await meeting.join(b, CODE, await showing.address())
    await showing.outcome()


@pytest.mark.parametrize(
    ("link", "expected"), [("169.254.10.1:6000", "169.254.10.1:6001"), ("[fe80::1]:6000", "[fe80::1]:6001")]
)
def test_the_port_beside(link: str, expected: str) -> None:
    assert meeting.address_beside(link) == expected


@pytest.mark.parametrize("link", ["unix:/run/x", "127.0.0.1:65535"])
def test_no_port_beside(link: str) -> None:
    with pytest.raises(SettingsError, match="name host:port to pair at"):
        meeting.address_beside(link)
