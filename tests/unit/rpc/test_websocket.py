"""The reading of one websocket, without any: who reads while a call waits, and whose turn it is."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import cast

import aiohttp
import pytest

from middlewared.rpc.session import Session, Work
from middlewared.rpc.websocket import FRAMES_PER_TURN, Peer, Reader, frame_head


class FakePeer:
    """Frames that are all there already: reading them never waits."""

    def __init__(self, texts: list[str]) -> None:
        self._messages = deque(aiohttp.WSMessage(aiohttp.WSMsgType.TEXT, text, None) for text in texts)

    async def receive(self) -> aiohttp.WSMessage:
        if self._messages:
            return self._messages.popleft()
        return aiohttp.WSMessage(aiohttp.WSMsgType.CLOSED, None, None)


class FakeSession:
    """Each text is a call: `works` says what it does."""

    def __init__(self, work: Callable[[str], Work | None]) -> None:
        self.receive = work


class Tasks:
    def __init__(self) -> None:
        self.all: list[asyncio.Task[None]] = []

    def run(self, work: Work) -> None:
        self.all.append(asyncio.create_task(work))


def reader(texts: list[str], work: Callable[[str], Work | None], tasks: Tasks) -> Reader:
    peer, session = cast(Peer, FakePeer(texts)), cast(Session, FakeSession(work))
    return Reader(peer, session, tasks.run, lambda: None)


async def test_others_get_their_turn_in_the_middle_of_a_flood() -> None:
    heard: list[str] = []
    turns: list[int] = []

    async def other() -> None:
        while len(heard) < 10 * FRAMES_PER_TURN:
            turns.append(len(heard))
            await asyncio.sleep(0)

    def hear(text: str) -> None:
        heard.append(text)

    tasks = Tasks()
    tasks.run(other())
    await reader(["x"] * 10 * FRAMES_PER_TURN, hear, tasks).read()
    assert [turn for turn in turns if 0 < turn < 10 * FRAMES_PER_TURN]


async def test_a_call_that_waits_holds_no_frame_up() -> None:
    gate = asyncio.Event()
    done: list[str] = []

    async def work(text: str) -> None:
        if text == "slow":
            async with asyncio.timeout(10):  # must bind to the task that the call stays in
                await gate.wait()
        done.append(text)
        if text == "last":
            gate.set()

    tasks = Tasks()
    await reader(["a", "slow", "b", "slow", "last"], work, tasks).read()
    await asyncio.gather(*tasks.all)
    assert done == ["a", "b", "last", "slow", "slow"]


async def test_calls_that_do_not_wait_need_no_task() -> None:
    async def work(text: str) -> None: ...

    tasks = Tasks()
    await reader(["x"] * 20, work, tasks).read()
    assert len(tasks.all) == 1


async def test_deadlines_and_cancellations_reach_the_call() -> None:
    seen: list[str] = []

    async def work(text: str) -> None:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            seen.append("late")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    tasks = Tasks()
    await reader(["x"], work, tasks).read()
    while seen != ["late"]:
        await asyncio.sleep(0)
    for task in tasks.all:
        task.cancel()
    await asyncio.gather(*tasks.all, return_exceptions=True)
    assert seen == ["late", "cancelled"]


@pytest.mark.parametrize(
    ("size_bytes", "head"),
    [
        (0, b"\x81\x00"),
        (125, b"\x81\x7d"),
        (126, b"\x81\x7e\x00\x7e"),
        (65535, b"\x81\x7e\xff\xff"),
        (65536, b"\x81\x7f" + (65536).to_bytes(8, "big")),
    ],
)
def test_frame_heads(size_bytes: int, head: bytes) -> None:
    assert frame_head(size_bytes) == head
