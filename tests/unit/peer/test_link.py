"""Two links, or a link and a hand-made other end, on real sockets."""

import asyncio
import errno
from pathlib import Path
from typing import Any

import pytest

from middlewared.errors import EREMOTENODEERROR, CallError, MatchNotFound, ValidationErrors, invalid
from middlewared.peer.calls import CALLS_MAX
from middlewared.peer.codec import (
    FRAME_BYTES_MAX,
    Call,
    Cancel,
    CodecError,
    Facts,
    Failure,
    Heartbeat,
    Hello,
    Progress,
    Result,
)
from middlewared.peer.link import PeerLink
from middlewared.settings import PeerSettings, SettingsError


async def for_ever() -> Any:
    await asyncio.get_running_loop().create_future()


class Served:
    """A serve_call whose calls wait until told, and which says what happened to them."""

    def __init__(self) -> None:
        self.started: asyncio.Queue[str] = asyncio.Queue()
        self.cancelled: asyncio.Queue[str] = asyncio.Queue()
        self.go_on = asyncio.Event()

    async def __call__(self, method: str, args: list[Any], on_progress: Any) -> Any:
        self.started.put_nowait(method)
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled.put_nowait(method)
            raise
        return args


async def refused(coroutine: Any) -> CallError:
    with pytest.raises(CallError) as caught:
        await coroutine
    return caught.value


# ---------------------------------------------------------------------------------------------- connection, facts


async def test_facts_go_both_ways_on_connect_and_on_change(start_side: Any) -> None:
    b = await start_side("B", lambda link: link.set_facts({"node": "B"}))
    a = await start_side("A", lambda link: link.set_facts({"node": "A"}), connect=b.link.listening_at[0])
    assert await a.until("facts") == {"node": "B"}
    assert await b.until("facts") == {"node": "A"}
    assert a.link.connected
    assert b.link.connected
    a.link.set_facts({"node": "A"})  # no change: not sent, so the next that comes is the one after
    a.link.set_facts({"node": "A", "ready": True})
    assert await b.until("facts") == {"node": "A", "ready": True} == b.link.peer_facts
    assert a.history == b.history[:2] == ["connected", "facts"]


async def test_unix_sockets_serve_as_well(start_side: Any, tmp_path: Path) -> None:
    path = f"unix:{tmp_path}/peer.sock"
    b = await start_side("B", listen=path)
    a = await start_side("A", connect=path)
    await a.until("connected")
    await b.until("connected")
    assert b.link.listening_at == (f"{tmp_path}/peer.sock",)


async def test_a_stopped_peer_is_lost_at_once_and_found_again(start_side: Any, pair: Any) -> None:
    a, b = pair
    address = b.link.listening_at[0]
    b.link.set_facts({"life": 1})
    await a.until("facts")
    await b.link.stop()
    await a.until("lost")
    assert a.link.peer_facts is None
    assert not a.link.connected
    again = await start_side("B", lambda link: link.set_facts({"life": 2}), listen=address)
    assert await a.until("facts") == {"life": 2}
    assert again.link.connected
    assert a.history == ["connected", "facts", "lost", "connected", "facts"]


async def test_stop_during_every_state_ends(start_side: Any, pair: Any) -> None:
    a, b = pair
    await a.link.stop()
    await b.until("lost")
    await b.link.stop()
    lonely = await start_side("A")  # dials a port where nobody listens
    await lonely.link.stop()
    assert not lonely.link.connected


async def test_a_newer_connection_replaces_the_older(start_side: Any, wire_to: Any) -> None:
    b = await start_side("B")
    first = await wire_to(b)
    await first.send(Facts({"from": 1}))
    assert await b.until("facts") == {"from": 1}
    second = await wire_to(b)
    await first.socket.wait_closed()
    await second.send(Facts({"from": 2}))
    assert await b.until("facts") == {"from": 2}
    assert b.history == ["connected", "facts", "lost", "connected", "facts"]


async def test_a_connection_without_hello_replaces_nothing(start_side: Any, wire_to: Any) -> None:
    b = await start_side("B")
    first = await wire_to(b)
    second = await wire_to(b, hello=False)
    await second.send(Facts({"from": 2}))
    await second.socket.wait_closed()
    await first.send(Facts({"from": 1}))
    assert await b.until("facts") == {"from": 1}
    assert b.history == ["connected", "facts"]


@pytest.mark.parametrize(
    "hello", [Hello("B"), Hello("A", 9, 9), Hello("A", 1, 9)], ids=["same node", "newer only", "not ours"]
)
async def test_a_hello_that_does_not_fit_ends_the_connection(start_side: Any, wire_to: Any, hello: Hello) -> None:
    b = await start_side("B")
    wire = await wire_to(b, hello=False)
    await wire.send(hello)
    await wire.socket.wait_closed()
    assert not b.link.connected
    assert b.history == []


async def test_a_newer_release_is_understood(start_side: Any, wire_to: Any) -> None:
    b = await start_side("B")
    wire = await wire_to(b, hello=False)
    await wire.socket.send('{"t":"hello","node":"A","protocol":9,"protocol_min":1,"colour":"blue"}')
    await wire.socket.send('{"t":"gossip"}')
    await wire.send(Facts({"ok": True}))
    assert await b.until("facts") == {"ok": True}


async def test_a_frozen_peer_is_lost_after_the_timeout(start_side: Any, wire_to: Any) -> None:
    b = await start_side("B", heartbeat_ms=20, timeout_ms=100)
    wire = await wire_to(b)
    await wire.send(Facts({"ok": True}))
    await b.until("facts")
    await b.until("lost")  # nobody closed anything: silence did it
    assert b.link.peer_facts is None


async def test_a_peer_frozen_from_the_start_never_counts(start_side: Any, stand_in: Any) -> None:
    address, came = await stand_in()
    a = await start_side("A", connect=address, heartbeat_ms=20, timeout_ms=100)
    await came.get()
    await came.get()  # given up and dialled again
    error = await refused(a.link.call("core.ping", [], connect_timeout_s=0))
    assert error.errno == errno.ECONNREFUSED
    assert a.history == []


async def test_heartbeats_alone_keep_the_link(start_side: Any, wire_to: Any) -> None:
    b = await start_side("B", heartbeat_ms=10, timeout_ms=200)
    wire = await wire_to(b)
    for _ in range(40):  # paced by the heartbeats of the other side: 400 ms
        await wire.until(Heartbeat)
        await wire.send(Heartbeat())
    assert b.history == ["connected"]


async def test_an_owners_mistake_does_not_end_the_link(start_side: Any, wire_to: Any) -> None:
    b = await start_side("B")

    def fail(*_args: Any) -> None:
        raise RuntimeError("the owner's")

    wire = await wire_to(b)
    told, b.link.on_facts = b.link.on_facts, fail
    await wire.send(Facts({"n": 1}))
    b.link.serve_call = lambda method, args, on_progress: _async(args)
    await wire.send(Call(1, "echo", [5]))
    assert (await wire.until(Result)).result == [5]
    b.link.on_facts = told
    await wire.send(Facts({"n": 2}))
    assert await b.until("facts") == {"n": 2}


async def _async(value: Any) -> Any:
    return value


@pytest.mark.parametrize(
    "message", ["garbage", '{"t":"hello","node":"A","protocol":1,"protocol_min":1}', "x" * (FRAME_BYTES_MAX + 1), b"\n"]
)
async def test_a_protocol_error_ends_the_connection(start_side: Any, wire_to: Any, message: str | bytes) -> None:
    b = await start_side("B")
    wire = await wire_to(b)
    await wire.socket.send(message)
    await b.until("lost")
    await wire.socket.wait_closed()


async def test_facts_beyond_the_bound_are_refused_here(pair: Any) -> None:
    a, _ = pair
    with pytest.raises(CodecError):
        a.link.set_facts({"x": "y" * FRAME_BYTES_MAX})
    assert a.link.connected


async def test_listening_waits_for_the_address(start_side: Any, tmp_path: Path) -> None:
    folder = tmp_path / "later"
    b = await start_side("B", listen=f"unix:{folder}/peer.sock")
    assert b.link.listening_at == ()
    folder.mkdir()
    a = await start_side("A", connect=f"unix:{folder}/peer.sock")
    await a.until("connected")


# ---------------------------------------------------------------------------------------------- calls


async def test_results_and_progress(pair: Any) -> None:
    a, b = pair

    async def serve(method: str, args: list[Any], on_progress: Any) -> Any:
        on_progress({"percent": 50})
        on_progress({"percent": 100})
        return [method, args]

    a.link.serve_call = b.link.serve_call = serve
    seen: list[Any] = []
    for side in (a, b):
        assert await side.link.call("x.y", [1, "z"], on_progress=seen.append) == ["x.y", [1, "z"]]
    assert seen == [{"percent": 50}, {"percent": 100}] * 2


@pytest.mark.parametrize(
    "raised",
    [CallError("no", errno.EBUSY, {"left": 3}), MatchNotFound(), invalid("data.x", "attribute required")],
    ids=lambda error: type(error).__name__,
)
async def test_the_others_errors_are_passed_on(pair: Any, raised: CallError | ValidationErrors) -> None:
    a, b = pair

    async def serve(*_args: Any) -> Any:
        raise raised

    b.link.serve_call = serve
    with pytest.raises(type(raised)) as caught:
        await a.link.call("x.y", [])
    assert vars(caught.value) == vars(raised)


@pytest.mark.parametrize(
    ("raised", "text"),
    [
        (KeyError("secret.path"), "x.y failed on the other controller: KeyError"),
        (asyncio.CancelledError(), "x.y was aborted"),
        (CallError("no", errno.EIO, object()), "no"),
        (CallError("no", -1), "no"),
    ],
    ids=lambda value: repr(value)[:20],
)
async def test_the_others_strange_errors_have_a_text(pair: Any, raised: BaseException, text: str) -> None:
    a, b = pair

    async def serve(*_args: Any) -> Any:
        raise raised

    b.link.serve_call = serve
    error = await refused(a.link.call("x.y", []))
    assert text in error.message
    assert "Traceback" not in error.message
    assert (error.errno == EREMOTENODEERROR) == isinstance(raised, KeyError)


@pytest.mark.parametrize("value", ["x" * FRAME_BYTES_MAX, object()], ids=["too large", "no JSON"])
async def test_values_that_cannot_be_carried_are_errors(pair: Any, value: Any) -> None:
    a, b = pair
    b.link.serve_call = lambda method, args, on_progress: _async(value)
    assert "cannot be sent" in (await refused(a.link.call("x.y", []))).message
    assert "cannot be sent" in (await refused(a.link.call("x.y", [value]))).message
    b.link.serve_call = lambda method, args, on_progress: _async("fine")
    assert await a.link.call("x.y", []) == "fine"


async def test_calls_before_the_owner_is_ready_are_refused(pair: Any) -> None:
    a, _ = pair
    assert (await refused(a.link.call("x.y", []))).errno == errno.EAGAIN


async def test_a_call_times_out_and_is_cancelled_there(pair: Any) -> None:
    a, b = pair
    b.link.serve_call = served = Served()
    error = await refused(a.link.call("x.slow", [], timeout_s=0.05))
    assert (error.message, error.errno) == ("Call timeout", errno.EFAULT)
    assert await served.cancelled.get() == "x.slow"
    served.go_on.set()
    assert await a.link.call("x.y", [7]) == [7]


async def test_a_cancelled_caller_cancels_there(pair: Any) -> None:
    a, b = pair
    b.link.serve_call = served = Served()
    task = asyncio.create_task(a.link.call("x.slow", []))
    await served.started.get()
    task.cancel()
    assert await served.cancelled.get() == "x.slow"


async def test_lost_in_between_ends_both_halves_at_once(pair: Any, start_side: Any) -> None:
    a, b = pair
    b.link.serve_call = served = Served()
    task = asyncio.create_task(a.link.call("x.slow", []))
    await served.started.get()
    await b.link.stop()
    assert (await refused(task)).errno == errno.ECONNRESET
    assert await served.cancelled.get() == "x.slow"


async def test_a_frozen_peer_does_not_hold_a_call(start_side: Any, wire_to: Any) -> None:
    b = await start_side("B", heartbeat_ms=20, timeout_ms=100)
    await wire_to(b)
    error = await refused(b.link.call("x.y", [], timeout_s=60))
    assert error.errno == errno.ECONNRESET
    assert b.history == ["connected", "lost"]


async def test_no_link_is_said_with_the_seconds(start_side: Any) -> None:
    b = await start_side("B")
    error = await refused(b.link.call("x.y", [], connect_timeout_s=0.01))
    assert error.errno == errno.ECONNREFUSED
    assert "0.01 seconds" in error.message
    assert await b.link.call("x.y", [], connect_timeout_s=0, raise_connect_error=False) is None


async def test_a_call_waits_for_the_link(start_side: Any) -> None:
    b = await start_side("B")
    b.link.serve_call = lambda method, args, on_progress: _async(args)
    a = await start_side("A", lambda link: setattr(link, "serve_call", b.link.serve_call))
    task = asyncio.create_task(b.link.call("x.y", [1], connect_timeout_s=30))
    await a.link.stop()
    a = await start_side(
        "A", lambda link: setattr(link, "serve_call", b.link.serve_call), connect=b.link.listening_at[0]
    )
    assert await task == [1]


async def test_calls_in_flight_are_bounded(pair: Any) -> None:
    a, b = pair
    b.link.serve_call = served = Served()
    tasks = [asyncio.create_task(a.link.call("x.y", [n])) for n in range(CALLS_MAX)]
    for _ in tasks:
        await served.started.get()
    assert (await refused(a.link.call("x.y", []))).errno == errno.EBUSY
    served.go_on.set()
    assert await asyncio.gather(*tasks) == [[n] for n in range(CALLS_MAX)]


async def test_a_peer_that_calls_too_much_is_refused(start_side: Any, wire_to: Any) -> None:
    b = await start_side("B")
    b.link.serve_call = Served()
    wire = await wire_to(b)
    await wire.send(*(Call(n, "x.y", []) for n in range(1, CALLS_MAX + 2)))
    failure = await wire.until(Failure)
    assert (failure.id, failure.errno) == (CALLS_MAX + 1, errno.EBUSY)


async def test_late_and_strange_answers_are_ignored(start_side: Any, wire_to: Any) -> None:
    b = await start_side("B")
    wire = await wire_to(b)
    task = asyncio.create_task(b.link.call("x.y", [], on_progress=_fail))
    call = await wire.until(Call)
    await wire.send(Result(999, 1), Progress(999, 1), Cancel(999), Progress(call.id, 1), Result(call.id, "ok"))
    assert await task == "ok"
    assert b.history == ["connected"]


def _fail(_progress: Any) -> None:
    raise RuntimeError("the caller's own mistake")


# ---------------------------------------------------------------------------------------------- settings


async def test_an_unpaired_controller_has_no_link() -> None:
    link = PeerLink(PeerSettings(), "A")
    await link.start()
    link.set_facts({"node": "A"})
    error = await refused(link.call("x.y", []))
    assert error.errno == errno.ECONNREFUSED
    assert "not paired" in error.message
    assert not link.connected
    await link.stop()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"certificate": "/nowhere/a.pem"}, "peer.certificate /nowhere/a.pem"),
        ({"peer_certificate": "/dev"}, "peer.peer_certificate /dev"),
        ({"listen": "nonsense"}, "nonsense"),
    ],
)
async def test_wrong_settings_are_named(start_side: Any, changes: dict[str, str], text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        await start_side("B", **changes)


async def test_a_certificate_without_key_is_named(start_side: Any, certificates: Path) -> None:
    with pytest.raises(SettingsError, match="no key"):
        await start_side("B", certificate=str(certificates / "B.crt"))
