import asyncio
import errno
import hashlib
import os
from typing import Any

import pytest

from middlewared.errors import EREMOTENODEERROR, CallError
from middlewared.peer.codec import (
    CHUNK_BYTES_MAX,
    SNAPSHOT_BYTES_MAX,
    Cancel,
    Facts,
    Heartbeat,
    SnapshotBegin,
    SnapshotChunk,
    SnapshotEnd,
    SnapshotFailure,
    SnapshotOk,
    decode,
)
from middlewared.peer.snapshot import Assembly


class Keeper:
    """A serve_snapshot that keeps what came, and may be held or told to fail."""

    def __init__(self) -> None:
        self.images: asyncio.Queue[bytes] = asyncio.Queue()
        self.cancelled = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.error: Exception | None = None

    async def __call__(self, image: bytes) -> None:
        self.images.put_nowait(image)
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if self.error is not None:
            raise self.error


async def refused(coroutine: Any) -> CallError:
    with pytest.raises(CallError) as caught:
        await coroutine
    return caught.value


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES_MAX, CHUNK_BYTES_MAX + 1, 5 * CHUNK_BYTES_MAX - 1])
async def test_an_image_arrives_whole(pair: Any, size: int) -> None:
    a, b = pair
    b.link.serve_snapshot = keeper = Keeper()
    image = os.urandom(size)
    await a.link.send_snapshot(image)
    assert keeper.images.get_nowait() == image


async def test_the_sender_waits_until_it_is_applied(pair: Any) -> None:
    a, b = pair
    b.link.serve_snapshot = keeper = Keeper()
    keeper.go_on.clear()
    task = asyncio.create_task(a.link.send_snapshot(b"x"))
    await keeper.images.get()
    assert not task.done()
    keeper.go_on.set()
    await task


async def test_two_senders_take_turns(pair: Any) -> None:
    a, b = pair
    b.link.serve_snapshot = keeper = Keeper()
    keeper.go_on.clear()
    tasks = [asyncio.create_task(a.link.send_snapshot(image)) for image in (b"1", b"2")]
    assert await keeper.images.get() == b"1"
    assert keeper.images.empty()
    keeper.go_on.set()
    await asyncio.gather(*tasks)
    assert await keeper.images.get() == b"2"


@pytest.mark.parametrize(
    ("error", "number"), [(CallError("other schema", errno.EINVAL), errno.EINVAL), (KeyError("x"), EREMOTENODEERROR)]
)
async def test_a_refusal_reaches_the_sender(pair: Any, error: Exception, number: int) -> None:
    a, b = pair
    b.link.serve_snapshot = keeper = Keeper()
    keeper.error = error
    assert (await refused(a.link.send_snapshot(b"x"))).errno == number
    keeper.error = None
    await a.link.send_snapshot(b"y")


async def test_no_link_and_too_large(start_side: Any) -> None:
    b = await start_side("B")
    assert (await refused(b.link.send_snapshot(b"x"))).errno == errno.ECONNREFUSED
    assert (await refused(b.link.send_snapshot(bytes(SNAPSHOT_BYTES_MAX + 1)))).errno == errno.EFBIG


async def test_a_deadline_cancels_the_applying_too(pair: Any) -> None:
    a, b = pair
    b.link.serve_snapshot = keeper = Keeper()
    keeper.go_on.clear()
    error = await refused(a.link.send_snapshot(b"x", timeout_s=0.05))
    assert error.errno == errno.ETIMEDOUT
    await keeper.cancelled.wait()
    keeper.go_on.set()
    await a.link.send_snapshot(b"y")


async def test_lost_while_applying(pair: Any) -> None:
    a, b = pair
    b.link.serve_snapshot = keeper = Keeper()
    keeper.go_on.clear()
    task = asyncio.create_task(a.link.send_snapshot(b"x"))
    await keeper.images.get()
    await b.link.stop()
    assert (await refused(task)).errno == errno.ECONNRESET
    await keeper.cancelled.wait()


async def test_lost_while_sending(start_side: Any, wire_to: Any) -> None:
    b = await start_side("B")
    wire = await wire_to(b)
    tasks = [asyncio.create_task(b.link.send_snapshot(bytes(64 << 20))) for _ in range(2)]
    await wire.until(SnapshotChunk)
    wire.socket.transport.abort()
    assert [(await refused(task)).errno for task in tasks] == [errno.ECONNRESET, errno.ECONNREFUSED]


def digest(image: bytes) -> str:
    return hashlib.sha256(image).hexdigest()


@pytest.mark.parametrize(
    "frames",
    [
        [SnapshotChunk(1, 0, b"abX"), SnapshotEnd(1, digest(b"abc"))],
        [SnapshotChunk(1, 0, b"ab"), SnapshotEnd(1, digest(b"ab"))],
        [SnapshotChunk(1, 0, b"abcd")],
        [SnapshotChunk(1, 1, b"bc")],
        [SnapshotChunk(1, 0, b"a"), SnapshotChunk(1, 2, b"c")],
    ],
    ids=["corrupted", "short", "long", "not from the start", "gap"],
)
async def test_a_bad_image_is_never_applied(start_side: Any, wire_to: Any, frames: list[Any]) -> None:
    b = await start_side("B")
    b.link.serve_snapshot = keeper = Keeper()
    wire = await wire_to(b)
    await wire.send(SnapshotBegin(1, 3), *frames)
    assert (await wire.until(SnapshotFailure)).errno == errno.EBADMSG
    await wire.send(SnapshotBegin(2, 3), SnapshotChunk(2, 0, b"abc"), SnapshotEnd(2, digest(b"abc")))
    assert (await wire.until(SnapshotOk)).id == 2
    assert keeper.images.get_nowait() == b"abc"
    assert keeper.images.empty()


async def test_an_image_beyond_the_bound_is_refused_at_its_beginning(start_side: Any, wire_to: Any) -> None:
    b = await start_side("B")
    wire = await wire_to(b)
    await wire.send(SnapshotBegin(1, SNAPSHOT_BYTES_MAX + 1))
    assert (await wire.until(SnapshotFailure)).errno == errno.EFBIG
    await wire.send(SnapshotChunk(1, 0, b"late"), SnapshotEnd(1, digest(b"late")), Facts({"still": "here"}))
    assert await b.until("facts") == {"still": "here"}


async def test_an_interrupted_image_is_forgotten(start_side: Any, wire_to: Any) -> None:
    b = await start_side("B")
    b.link.serve_snapshot = keeper = Keeper()
    first = await wire_to(b)
    await first.send(SnapshotBegin(1, 6), SnapshotChunk(1, 0, b"abc"), Facts({"sent": True}))
    await b.until("facts")
    first.socket.transport.abort()
    await b.until("lost")
    second = await wire_to(b)
    await second.send(SnapshotChunk(1, 3, b"def"), SnapshotEnd(1, digest(b"abcdef")))
    await second.send(SnapshotBegin(2, 1), SnapshotChunk(2, 0, b"z"), Cancel(2), SnapshotEnd(2, digest(b"z")))
    await second.send(SnapshotBegin(3, 1), SnapshotChunk(3, 0, b"!"), SnapshotEnd(3, digest(b"!")))
    assert (await second.until(SnapshotOk)).id == 3
    assert keeper.images.get_nowait() == b"!"
    assert keeper.images.empty()


async def test_an_early_refusal_stops_the_sender(start_side: Any, wire_to: Any) -> None:
    b = await start_side("B")
    wire = await wire_to(b)
    task = asyncio.create_task(b.link.send_snapshot(bytes(64 << 20)))
    begin = await wire.until(SnapshotBegin)
    await wire.send(SnapshotFailure(begin.id, "no room", errno.ENOSPC))
    while not task.done():
        decode(await wire.socket.recv())
    assert (await refused(task)).errno == errno.ENOSPC


async def test_heartbeats_and_facts_go_on_during_a_big_image(start_side: Any, wire_to: Any) -> None:
    b = await start_side("B", heartbeat_ms=10)
    wire = await wire_to(b)
    image = bytes(64 << 20)
    task = asyncio.create_task(b.link.send_snapshot(image))
    assembly = Assembly(await wire.until(SnapshotBegin))
    heartbeats = 0
    facts_after: int | None = None
    chunks = 0
    while not isinstance(frame := decode(await wire.socket.recv()), SnapshotEnd):
        match frame:
            case SnapshotChunk():
                assembly.add(frame)
                chunks += 1
                if chunks == 10:
                    b.link.set_facts({"during": True})
            case Heartbeat():
                heartbeats += 1
            case Facts():
                facts_after = chunks
    assert heartbeats > 0
    assert facts_after is not None
    assert 10 <= facts_after < chunks  # it did not wait for the image
    assert assembly.finish(frame) == image
    await wire.send(SnapshotOk(frame.id))
    await task


async def test_a_peer_that_does_not_read_holds_nobody_for_ever(start_side: Any, wire_to: Any) -> None:
    """It stays alive, but takes nothing: the sender's deadline ends the wait, memory stays bounded by the one chunk."""
    b = await start_side("B")
    wire = await wire_to(b)
    wire.socket.transport.pause_reading()
    error = await refused(b.link.send_snapshot(bytes(64 << 20), timeout_s=0.2))
    assert error.errno == errno.ETIMEDOUT
    assert b.link.connected
