"""Changes of the configuration over the link: durable on the other side, or an error that says why not."""

import asyncio
import errno
from typing import Any

import pytest

from middlewared.errors import EREMOTENODEERROR, CallError
from middlewared.peer.codec import CHANGES_BYTES_MAX, Changes, Failure, Hello, Result


async def refused(coroutine: Any) -> CallError:
    with pytest.raises(CallError) as caught:
        await coroutine
    return caught.value


@pytest.mark.parametrize("data", [b"", b"\n{}\xff\x00", bytes(CHANGES_BYTES_MAX)], ids=["empty", "odd", "largest"])
async def test_changes_arrive_whole_and_are_acknowledged(pair: Any, data: bytes) -> None:
    a, b = pair
    came: list[bytes] = []

    async def serve(changes: bytes) -> None:
        came.append(changes)

    b.link.serve_changes = serve
    await a.link.send_changes(data, timeout_s=20)
    assert came == [data]


async def test_the_sender_waits_until_they_are_applied(pair: Any) -> None:
    a, b = pair
    came, go = asyncio.Event(), asyncio.Event()

    async def serve(changes: bytes) -> None:
        came.set()
        await go.wait()

    b.link.serve_changes = serve
    task = asyncio.create_task(a.link.send_changes(b"x", timeout_s=20))
    await came.wait()
    assert not task.done()
    go.set()
    await task


@pytest.mark.parametrize(
    ("error", "number"), [(CallError("a gap", errno.ESTALE), errno.ESTALE), (KeyError("x"), EREMOTENODEERROR)]
)
async def test_a_refusal_reaches_the_sender(pair: Any, error: Exception, number: int) -> None:
    a, b = pair

    async def serve(changes: bytes) -> None:
        raise error

    b.link.serve_changes = serve
    assert (await refused(a.link.send_changes(b"x", timeout_s=20))).errno == number


async def test_a_starting_controller_a_missing_link_and_too_much(pair: Any, start_side: Any) -> None:
    a, b = pair
    assert (await refused(a.link.send_changes(b"x", timeout_s=20))).errno == errno.EAGAIN
    assert (await refused(a.link.send_changes(bytes(CHANGES_BYTES_MAX + 1), timeout_s=20))).errno == errno.EFBIG
    await b.link.stop()
    await a.until("lost")
    assert (await refused(a.link.send_changes(b"x", timeout_s=20))).errno == errno.ECONNREFUSED


async def test_lost_while_applying(pair: Any) -> None:
    a, b = pair
    came = asyncio.Event()

    async def serve(changes: bytes) -> None:
        came.set()
        await asyncio.Event().wait()

    b.link.serve_changes = serve
    task = asyncio.create_task(a.link.send_changes(b"x", timeout_s=20))
    await came.wait()
    await b.link.stop()
    assert (await refused(task)).errno == errno.ECONNRESET


async def test_a_silent_applier_has_a_deadline(start_side: Any, wire_to: Any) -> None:
    b = await start_side("B")
    wire = await wire_to(b)
    assert (await refused(b.link.send_changes(b"x", timeout_s=0.05))).errno == errno.EFAULT
    assert (await wire.until(Changes)).data == b"x"


@pytest.mark.parametrize(("protocol", "takes"), [(1, False), (2, True), (9, True)])
async def test_an_older_release_is_not_sent_any(start_side: Any, wire_to: Any, protocol: int, takes: bool) -> None:
    b = await start_side("B")
    assert not b.link.takes_changes
    wire = await wire_to(b, hello=False)
    await wire.send(Hello("A", protocol, 1))
    await b.until("connected")
    assert b.link.takes_changes is takes


async def test_the_answer_is_that_of_a_call(start_side: Any, wire_to: Any) -> None:
    b = await start_side("B")

    async def serve(changes: bytes) -> None:
        if changes == b"bad":
            raise CallError("no", errno.ESTALE)

    b.link.serve_changes = serve
    wire = await wire_to(b)
    await wire.send(Changes(5, b"good"))
    assert await wire.until(Result) == Result(5, None)
    await wire.send(Changes(6, b"bad"))
    assert await wire.until(Failure) == Failure(6, "call", "no", errno.ESTALE)
