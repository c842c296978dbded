import asyncio

import pytest

from middlewared.errors import CallError
from middlewared.peer.outbox import HEARTBEAT, QUEUED_BYTES_MAX, Outbox


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def outbox(clock: Clock) -> Outbox:
    return Outbox(0.1, clock)


async def test_heartbeats_overtake_all_and_bulk_waits_for_all(outbox: Outbox, clock: Clock) -> None:
    await outbox.put_bulk(b"chunk 1")
    await outbox.put("call 1")
    await outbox.put("call 2")
    outbox.set_facts("old facts")
    outbox.set_facts("facts")
    assert await outbox.next() == HEARTBEAT
    assert await outbox.next() == "facts"
    assert await outbox.next() == "call 1"
    clock.now_s += 0.1
    assert await outbox.next() == HEARTBEAT
    assert await outbox.next() == "call 2"
    assert await outbox.next() == b"chunk 1"


async def test_a_heartbeat_comes_when_nothing_else_does(clock: Clock) -> None:
    outbox = Outbox(0.001, asyncio.get_running_loop().time)
    assert [await outbox.next() for _ in range(3)] == [HEARTBEAT] * 3


async def test_bulk_is_paced_one_at_a_time(outbox: Outbox) -> None:
    await outbox.put_bulk(b"1")
    second = asyncio.create_task(outbox.put_bulk(b"2"))
    assert [await outbox.next(), await outbox.next()] == [HEARTBEAT, b"1"]
    await second
    assert await outbox.next() == b"2"


async def test_the_queue_is_bounded(outbox: Outbox) -> None:
    big = "x" * (QUEUED_BYTES_MAX + 1)
    await outbox.put(big)
    assert not outbox.put_now("progress")
    waiting = asyncio.create_task(outbox.put("answer"))
    assert [await outbox.next(), await outbox.next()] == [HEARTBEAT, big]
    await waiting
    assert await outbox.next() == "answer"


async def test_who_waits_for_room_learns_of_the_end(outbox: Outbox) -> None:
    await outbox.put("x" * (QUEUED_BYTES_MAX + 1))
    await outbox.put_bulk(b"1")
    waiting = [asyncio.create_task(outbox.put("answer")), asyncio.create_task(outbox.put_bulk(b"2"))]
    await asyncio.wait(waiting, timeout=0)
    outbox.close()
    for task in waiting:
        with pytest.raises(CallError, match="lost"):
            await task
    with pytest.raises(CallError, match="lost"):
        outbox.put_now("late")
