"""Files from one controller to the other: over a bare pair of sockets, and over two links."""

import asyncio
import contextlib
import errno
import hashlib
import os
import socket
import ssl
import sys
import threading
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from unit.peer.conftest import settings_of

from middlewared.errors import CallError
from middlewared.peer import files, streams
from middlewared.peer.files import BLOCK_BYTES, Inbox, Offer, StreamError, Talk
from middlewared.peer.front import _OPENING_MAX, STREAM_MARK
from middlewared.peer.transfers import Sent
from middlewared.peer.transport import load_trust, split_address

MIB = 1 << 20
TLS_ALERT = 0x15  # RFC 8446, 5.1


@contextlib.contextmanager
def a_receiver(inboxes: dict[str, Inbox]) -> Iterator[tuple[socket.socket, Callable[[], Any]]]:
    """(the sender's end, what came of the receiver: a name or an exception)."""
    near, far = socket.socketpair()
    for end in (near, far):
        end.settimeout(10)
    outcome: list[Any] = []

    def run() -> None:
        with far:
            try:
                outcome.append(files.receive(far, inboxes))
            except Exception as error:
                outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def result() -> Any:
        near.close()
        thread.join(10)
        return outcome[0]

    with near:
        yield near, result


def send(near: socket.socket, source: Path, **more: Any) -> None:
    options = {"inbox": "box", "name": "image", "mode": 0o640} | more
    keys = {key: options.pop(key) for key in ("inbox", "name", "mode")}
    files.send(near, source, Offer(size_bytes=source.stat().st_size, **keys), **options)


@pytest.fixture
def box(tmp_path: Path) -> Inbox:
    return Inbox(tmp_path / "box", size_bytes_max=64 * MIB)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(os.urandom(5 * MIB + 17))
    return path


class Cut(Exception):
    """The cable is cut, for the sender's progress to raise."""


# ---------------------------------------------------------------------------------------------- one stream


@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES, BLOCK_BYTES + 1, 9 * BLOCK_BYTES])
def test_a_file_arrives_whole(box: Inbox, tmp_path: Path, size: int) -> None:
    path = tmp_path / "source"
    path.write_bytes(os.urandom(size))
    seen: list[tuple[int, int]] = []
    with a_receiver({"box": box}) as (near, result):
        send(near, path, on_progress=lambda sent, total: seen.append((sent, total)))
        assert result() == "image"
    arrived = box.folder / "image"
    assert arrived.read_bytes() == path.read_bytes()
    assert arrived.stat().st_mode & 0o7777 == 0o640
    assert seen[0] == (0, size)
    assert seen[-1] == (size, size)
    assert os.listdir(box.folder) == ["image"]


def test_a_broken_transfer_goes_on_where_it_stopped(box: Inbox, source: Path) -> None:
    def cut(sent: int, size: int) -> None:
        if sent >= 3 * MIB:
            raise Cut

    with a_receiver({"box": box}) as (near, result):
        with pytest.raises(Cut):
            send(near, source, on_progress=cut)
        assert isinstance(result(), StreamError)
    left = (box.folder / "image.partial").stat().st_size
    assert left >= 2 * MIB
    seen: list[int] = []
    with a_receiver({"box": box}) as (near, result):
        send(near, source, on_progress=lambda sent, size: seen.append(sent))
        assert result() == "image"
    assert seen[0] == left
    assert (box.folder / "image").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("left", ["other content", "longer than the file"])
def test_what_does_not_fit_is_sent_anew(box: Inbox, source: Path, left: str) -> None:
    box.folder.mkdir()
    bytes_left = b"x" * MIB if left == "other content" else source.read_bytes() + b"more"
    (box.folder / "image.partial").write_bytes(bytes_left)
    seen: list[int] = []
    with a_receiver({"box": box}) as (near, result):
        send(near, source, on_progress=lambda sent, size: seen.append(sent))
        assert result() == "image"
    assert seen[0] == 0
    assert (box.folder / "image").read_bytes() == source.read_bytes()


def test_a_file_that_is_there_already_is_not_sent_again(box: Inbox, source: Path) -> None:
    seen: list[int] = []
    for _ in range(2):
        seen.clear()
        with a_receiver({"box": box}) as (near, result):
            send(near, source, on_progress=lambda sent, size: seen.append(sent))
            assert result() == "image"
    assert seen == [source.stat().st_size]


def test_what_was_altered_on_its_way_is_not_kept(box: Inbox, source: Path) -> None:
    """The sender knows the digest of what should arrive; something else does."""
    wrong = hashlib.sha256(b"something else").hexdigest()
    with a_receiver({"box": box}) as (near, result):
        with pytest.raises(CallError, match="SHA-256") as refused:
            send(near, source, sha256=wrong)
        assert refused.value.errno == errno.EBADMSG
        assert isinstance(result(), CallError)
    assert os.listdir(box.folder) == []


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "/etc/passwd", "", ".", "..", ".hidden", "x" * 200, "a\n", "a\0b", "x.partial"]
)
def test_names_that_could_lead_elsewhere_are_refused(box: Inbox, source: Path, tmp_path: Path, name: str) -> None:
    """The sender of this test does not check; the receiver does."""
    before = sorted(path.name for path in tmp_path.iterdir())
    with a_receiver({"box": box}) as (near, result):
        with pytest.raises(CallError, match="plain file name"):
            send(near, source, name=name)
        assert isinstance(result(), CallError)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("offer", "number"),
    [
        ({"inbox": "elsewhere"}, errno.ENOENT),
        ({"inbox": None}, errno.ENOENT),
        ({"inbox": ["box"]}, errno.ENOENT),
        ({"name": None}, errno.EINVAL),
        ({"size_bytes": -1}, errno.EINVAL),
        ({"size_bytes": True}, errno.EINVAL),
        ({"size_bytes": 65 * MIB}, errno.EFBIG),
        ({"size_bytes": 1 << 60}, errno.EFBIG),
        ({"mode": 0o4755}, errno.EINVAL),
        ({"mode": "rw"}, errno.EINVAL),
    ],
)
def test_a_wrong_offer_is_refused(box: Inbox, offer: dict[str, Any], number: int) -> None:
    with a_receiver({"box": box}) as (near, result):
        talk = Talk(near)
        talk.say(**({"inbox": "box", "name": "image", "size_bytes": 1, "mode": 0o600} | offer))
        with pytest.raises(CallError) as refused:
            talk.hear("have_bytes")
        assert refused.value.errno == number
        assert isinstance(result(), CallError)


def test_a_disk_without_room_refuses_beforehand(tmp_path: Path) -> None:
    vast = Inbox(tmp_path / "box", size_bytes_max=1 << 62)
    with a_receiver({"box": vast}) as (near, _):
        talk = Talk(near)
        talk.say(inbox="box", name="image", size_bytes=1 << 60, mode=0o600)
        with pytest.raises(CallError, match="no room") as refused:
            talk.hear("have_bytes")
    assert refused.value.errno == errno.ENOSPC


def test_a_full_inbox_refuses_and_stale_files_go(tmp_path: Path, source: Path) -> None:
    box = Inbox(tmp_path / "box", size_bytes_max=64 * MIB, files_max=2)
    box.folder.mkdir()
    for name in ("one", "two.partial"):
        (box.folder / name).write_bytes(b"x")
    with a_receiver({"box": box}) as (near, _), pytest.raises(CallError, match="holds 2 files") as refused:
        send(near, source)
    assert refused.value.errno == errno.ENOSPC
    os.utime(box.folder / "two.partial", (0, 0))
    with a_receiver({"box": box}) as (near, _):
        send(near, source)
    assert sorted(os.listdir(box.folder)) == ["image", "one"]


@pytest.mark.parametrize("what", ["partial is a link", "partial is a pipe", "partial is a second name", "folder"])
def test_links_are_not_followed(box: Inbox, source: Path, tmp_path: Path, what: str) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    if what == "folder":
        (tmp_path / "elsewhere").mkdir()
        box.folder.symlink_to(tmp_path / "elsewhere")
    else:
        box.folder.mkdir()
        partial = box.folder / "image.partial"
        if what.endswith("link"):
            partial.symlink_to(victim)
        elif what.endswith("pipe"):
            os.mkfifo(partial)
        else:
            os.link(victim, partial)
    with a_receiver({"box": box}) as (near, result):
        with pytest.raises(CallError):
            send(near, source)
        assert isinstance(result(), CallError)
    assert victim.read_bytes() == b"precious"
    assert not (tmp_path / "elsewhere" / "image").exists()


def test_a_link_in_the_place_of_the_file_is_replaced(box: Inbox, source: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    box.folder.mkdir()
    (box.folder / "image").symlink_to(victim)
    with a_receiver({"box": box}) as (near, result):
        send(near, source)
        assert result() == "image"
    assert victim.read_bytes() == b"precious"
    assert not (box.folder / "image").is_symlink()


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x04oops",
        b"\x00\x00\x00\x02[]",
        b"\x00\x00\x00\x02{}",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_nonsense_ends_the_stream(box: Inbox, said: bytes) -> None:
    with a_receiver({"box": box}) as (near, result):
        near.sendall(said)
        near.shutdown(socket.SHUT_WR)
        assert isinstance(result(), StreamError)


def test_a_file_that_shrinks_while_it_is_sent_is_no_file(box: Inbox, source: Path) -> None:
    def shrink(sent: int, size: int) -> None:
        os.truncate(source, MIB)

    with a_receiver({"box": box}) as (near, result):
        with pytest.raises(CallError, match="became shorter"):
            send(near, source, on_progress=shrink)
        assert isinstance(result(), StreamError)
    assert os.listdir(box.folder) == ["image.partial"]


# ---------------------------------------------------------------------------------------------- over the link


async def test_a_file_goes_both_ways(pair: Any, tmp_path: Path, source: Path) -> None:
    """Whoever sends dials, also node B, which never dials for the link itself."""
    a, b = pair
    b.link.transfers._wire._settings = replace(b.link.transfers._wire._settings, connect=a.link.listening_at[0])
    for number, (here, there) in enumerate((pair, pair[::-1])):
        there.link.transfers.inboxes["box"] = box = Inbox(tmp_path / f"box-{number}", 64 * MIB)
        told: list[Sent] = []
        await here.link.transfers.send(source, "box", "image", on_progress=told.append)
        assert (box.folder / "image").read_bytes() == source.read_bytes()
        assert told[-1].sent_bytes == told[-1].size_bytes == source.stat().st_size
        assert told[-1].bytes_per_s > 0


async def test_a_refusal_is_not_tried_again(pair: Any, source: Path) -> None:
    with pytest.raises(CallError, match="no such place") as refused:
        await pair[0].link.transfers.send(source, "box", "image")
    assert refused.value.errno == errno.ENOENT
    with pytest.raises(CallError, match="cannot be read"):
        await pair[0].link.transfers.send(source.with_name("nowhere"), "box", "image")
    with pytest.raises(CallError, match="plain file name"):
        await pair[0].link.transfers.send(source, "box", "../image")


async def test_without_a_link_it_is_given_up(start_side: Any, source: Path) -> None:
    b = await start_side("B")
    with pytest.raises(CallError, match="not connected") as refused:
        await b.link.transfers.send(source, "box", "image", patience_s=0.01)
    assert refused.value.errno == errno.ECONNREFUSED


async def test_a_restarted_receiver_goes_on(start_side: Any, tmp_path: Path) -> None:
    """The other daemon ends in the middle, and another comes: what arrived before is not sent again."""
    source = tmp_path / "source"
    source.write_bytes(os.urandom(40 * MIB))
    box = Inbox(tmp_path / "box", 64 * MIB)
    b = await start_side("B", lambda link: link.transfers.inboxes.update(box=box))
    address = b.link.listening_at[0]
    a = await start_side("A", connect=address)
    await a.until("connected")
    told: list[Sent] = []
    watched = Watched(a, after_bytes=8 * MIB)
    task = asyncio.create_task(a.link.transfers.send(source, "box", "image", on_progress=told.append))
    async with asyncio.timeout(20):
        await watched.stands.wait()
        await b.link.stop()
        await a.until("lost")
        left = (box.folder / "image.partial").stat().st_size
        assert left > 0
        watched.go_on.set()
        await start_side("B", lambda link: link.transfers.inboxes.update(box=box), listen=address)
        await task
    assert (box.folder / "image").read_bytes() == source.read_bytes()
    assert told[-1].sent_bytes == source.stat().st_size
    assert watched.sent_bytes[-1] < 40 * MIB - left + MIB


FAR = """
import asyncio, sys
from pathlib import Path
from unit.peer.conftest import settings_of
from middlewared.peer.files import Inbox
from middlewared.peer.link import PeerLink

async def serve(certificates, listen, folder):
    link = PeerLink(settings_of(Path(certificates), "B", listen=listen), "B")
    link.transfers.inboxes["box"] = Inbox(Path(folder), 1 << 30)
    await link.start()
    print(link.listening_at[0], flush=True)
    await asyncio.to_thread(sys.stdin.read)

asyncio.run(serve(*sys.argv[1:]))
"""


@contextlib.asynccontextmanager
async def a_daemon(certificates: Path, listen: str, folder: Path) -> AsyncIterator[tuple[Any, str]]:
    """Node B in a process of its own, and where it listens."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        FAR,
        str(certificates),
        listen,
        str(folder),
        stdin=PIPE,
        stdout=PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            address = (await process.stdout.readline()).decode().strip()
        yield process, address
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_a_receiver_that_is_killed_goes_on(start_side: Any, certificates: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle, and a new process: what the dead one had received is not sent again."""
    source = tmp_path / "source"
    source.write_bytes(os.urandom(24 * MIB))
    box = tmp_path / "box"
    async with a_daemon(certificates, "127.0.0.1:0", box) as (process, address), asyncio.timeout(40):
        a = await start_side("A", connect=address)
        await a.until("connected")
        watched = Watched(a, after_bytes=12 * MIB)
        task = asyncio.create_task(a.link.transfers.send(source, "box", "image"))
        await watched.stands.wait()
        process.kill()
        await a.until("lost")
        watched.go_on.set()
        left = (box / "image.partial").stat().st_size
        assert left > 0
        async with a_daemon(certificates, address, box):
            await task
    assert (box / "image").read_bytes() == source.read_bytes()
    assert watched.sent_bytes[-1] < 24 * MIB - left + MIB
    assert not (box / "image.partial").exists()


class Watched:
    """A side's streams: what went out on each, in bytes. The first stands still after so much, until told to go on."""

    def __init__(self, side: Any, after_bytes: int) -> None:
        self.sent_bytes: list[int] = []
        self.stands = asyncio.Event()
        self.go_on = threading.Event()
        self._after_bytes = after_bytes
        self._loop = asyncio.get_running_loop()
        self._wire = side.link.transfers._wire
        self._dial = self._wire.dial_stream
        self._wire.dial_stream = self._dial_stream

    def _dial_stream(self) -> Any:
        stream = self._dial()
        number, sendall = len(self.sent_bytes), stream.sendall
        self.sent_bytes.append(0)

        def watched(data: Any) -> None:
            sendall(data)
            self.sent_bytes[number] += len(data)
            if number == 0 and self.sent_bytes[0] >= self._after_bytes:
                self._loop.call_soon_threadsafe(self.stands.set)
                self.go_on.wait(20)

        stream.sendall = watched
        return stream


async def test_a_frozen_receiver_holds_nothing_else_up(start_side: Any, wire_to: Any, source: Path) -> None:
    """B's stream is taken and then nothing: calls, facts and the loop go on, and the end of the link ends it."""
    b = await start_side("B", heartbeat_ms=20, timeout_ms=20_000)
    held: list[socket.socket] = []
    a = await start_side("A", connect=b.link.listening_at[0])
    await a.until("connected")
    b.link.transfers._wire.take_stream = held.append  # accepted by the kernel, never served
    a.link.transfers._wire.dial_stream = lambda: _unsecured(b.link.listening_at[0])
    b.link.serve_call = _echo
    task = asyncio.create_task(a.link.transfers.send(source, "box", "image", patience_s=0.0))
    for number in range(20):
        assert await a.link.call("echo", [number], timeout_s=5) == [number]
    assert not task.done()
    await b.link.stop()
    with pytest.raises(CallError):
        await asyncio.wait_for(task, 10)
    for each in held:
        each.close()


def _unsecured(address: str) -> Any:
    host, _, port = address.rpartition(":")
    plain = socket.create_connection((host, int(port)), 5)
    plain.sendall(STREAM_MARK)
    return plain


async def _echo(method: str, args: list[Any], on_progress: Any) -> Any:
    return args


async def test_a_cancelled_sender_ends_the_stream(pair: Any, tmp_path: Path, source: Path) -> None:
    a, b = pair
    b.link.transfers.inboxes["box"] = Inbox(tmp_path / "box", 64 * MIB)
    watched = Watched(a, after_bytes=MIB)
    task = asyncio.create_task(a.link.transfers.send(source, "box", "image"))
    await watched.stands.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    watched.go_on.set()
    await a.link.transfers.send(source, "box", "image")  # the lock of the first is gone, and what it brought is used
    assert (tmp_path / "box" / "image").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("certificate", ["stranger", "expired", None])
async def test_a_stranger_gets_no_stream(
    start_side: Any, certificates: Path, tmp_path: Path, certificate: str | None
) -> None:
    box = Inbox(tmp_path / "box", 64 * MIB)
    b = await start_side("B", lambda link: link.transfers.inboxes.update(box=box))
    if certificate is None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    else:
        context = load_trust(
            settings_of(certificates, "A", certificate=str(certificates / f"{certificate}.pem"))
        ).client

    def attempt() -> None:
        with streams.dial(split_address(b.link.listening_at[0]), context, lambda proof: "") as stream:
            files.send(stream, Path(__file__), Offer("box", "image", Path(__file__).stat().st_size, 0o600))

    with pytest.raises(OSError):  # noqa: PT011 - a TLS alert, or the end of the connection
        await asyncio.to_thread(attempt)
    assert not box.folder.exists()


async def test_many_who_say_nothing_do_not_keep_the_other_controller_out(start_side: Any) -> None:
    b = await start_side("B")
    host, _, port = b.link.listening_at[0].rpartition(":")
    silent = [await asyncio.open_connection(host, int(port)) for _ in range(3 * _OPENING_MAX)]
    a = await start_side("A", connect=b.link.listening_at[0])
    await a.until("connected")
    for reader, writer in silent:
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
    assert a.history == ["connected"]


@pytest.mark.parametrize("said", [b"F", b"X", b"GET / HTTP/1.1\r\n\r\n", b"\x16", b"FF\x00\x00\x00\x02{}"])
async def test_who_shows_no_certificate_hears_nothing(start_side: Any, said: bytes) -> None:
    b = await start_side("B")
    host, _, port = b.link.listening_at[0].rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(said)
    async with asyncio.timeout(10):
        with contextlib.suppress(ConnectionError):
            heard = await reader.read()
            assert heard == b"" or (heard[0] == TLS_ALERT and len(heard) == 7)
    writer.close()
    assert b.history == []
