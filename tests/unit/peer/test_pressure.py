"""A peer that lives but takes nothing, or takes too much: bounds hold, and nobody here waits for it."""

import asyncio
import errno
from typing import Any

import pytest

from middlewared.errors import CallError
from middlewared.peer.calls import CALLS_MAX
from middlewared.peer.codec import FRAME_BYTES_MAX, Call, Facts, Heartbeat, Result
from middlewared.peer.outbox import QUEUED_BYTES_MAX

BIG = "x" * (FRAME_BYTES_MAX - 200)


async def outcome(work: Any) -> Any:
    try:
        return await work
    except CallError as error:
        return error


async def keep_alive(wire: Any) -> None:
    """Heartbeats of a peer whose link never goes silent."""
    while True:
        await wire.send(Heartbeat())
        await asyncio.sleep(0.02)


@pytest.fixture
async def deaf(start_side: Any, wire_to: Any) -> Any:
    """(b, a peer that sends heartbeats and reads nothing)."""
    b = await start_side("B", heartbeat_ms=20, timeout_ms=20_000)
    wire = await wire_to(b)
    wire.socket.transport.pause_reading()
    beating = asyncio.create_task(keep_alive(wire))
    yield b, wire
    beating.cancel()


async def test_calls_to_a_deaf_peer_end_in_their_time_and_facts_do_not_wait(deaf: Any) -> None:
    b, wire = deaf
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    calls = [asyncio.create_task(outcome(b.link.call("x.y", [BIG], timeout_s=0.5))) for _ in range(CALLS_MAX)]
    await asyncio.sleep(0)
    before_s = loop.time()
    for number in range(1000):
        b.link.set_facts({"number": number})  # never blocks, and only the newest is kept
    assert loop.time() - before_s < 1.0
    outbox = b.link._session._outbox
    assert outbox._control_bytes <= QUEUED_BYTES_MAX + FRAME_BYTES_MAX
    for error in await asyncio.gather(*calls):
        assert (error.errno, error.message) == (errno.EFAULT, "Call timeout")
    assert loop.time() - began_s < 5.0
    assert b.link.connected
    assert outbox._control_bytes <= QUEUED_BYTES_MAX + FRAME_BYTES_MAX
    wire.socket.transport.resume_reading()
    while (await wire.until(Facts)).facts != {"number": 999}:
        pass


async def test_answers_that_a_deaf_peer_does_not_take_are_bounded(deaf: Any) -> None:
    b, wire = deaf
    answered = 0

    async def serve(method: str, args: list[Any], on_progress: Any) -> Any:
        nonlocal answered
        for _ in range(3):
            on_progress(BIG)  # dropped when there is no room
        answered += 1
        return BIG

    b.link.serve_call = serve
    for number in range(1, 3 * CALLS_MAX):
        await wire.send(Call(number, "x.y", []))
    async with asyncio.timeout(20):
        while answered < CALLS_MAX:
            await asyncio.sleep(0)
    session = b.link._session
    assert session._outbox._control_bytes <= QUEUED_BYTES_MAX + FRAME_BYTES_MAX
    assert len(session.calls._serving) <= CALLS_MAX
    assert b.link.connected
    wire.socket.transport.resume_reading()
    await wire.until(Result)  # and once it listens again, it gets what was kept


async def test_a_deaf_peer_that_falls_silent_is_lost_with_all_that_waited(start_side: Any, wire_to: Any) -> None:
    b = await start_side("B", heartbeat_ms=20, timeout_ms=200)
    wire = await wire_to(b)
    wire.socket.transport.pause_reading()
    calls = [asyncio.create_task(outcome(b.link.call("x.y", [BIG], timeout_s=60))) for _ in range(16)]
    image = asyncio.create_task(outcome(b.link.send_snapshot(bytes(16 << 20))))
    await b.until("lost")
    for error in await asyncio.gather(*calls, image):
        assert error.errno == errno.ECONNRESET
