"""Whatever arrives on the link: a frame, or one protocol error; never a traceback, nor more memory than bounds say."""

import asyncio
import contextlib
import logging
import tracemalloc
from collections import deque
from typing import Any, cast

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from unit.peer.test_codec import FRAMES
from websockets.exceptions import ConnectionClosedError

from middlewared.peer import codec, link
from middlewared.peer.codec import CodecError, Frame, Hello, decode, encode
from middlewared.peer.link import PeerLink
from middlewared.settings import PeerSettings

BOUNDED = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SESSIONS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
PATIENT = PeerSettings(timeout_ms=60_000)  # nothing here is about silence
NAMES = [*codec._FRAMES, "snapshot_chunk", "gossip"]
MEMBERS = sorted({member for _, checks in codec._FRAMES.values() for member in checks} | {"t", "data"})
SCALARS = st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats() | st.text(max_size=20)
VALUES = st.recursive(
    SCALARS | st.sampled_from([1, 2, 3, codec.ID_MAX, codec.SNAPSHOT_BYTES_MAX, "A", "B", "0" * 64]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["$date", "$time", "$set", "$ipv4_interface", "errors", "x"]), inner, max_size=3
        )
    ),
    max_leaves=12,
)
OBJECTS = st.builds(
    lambda name, members: {"t": name, **members},
    st.sampled_from(NAMES),
    st.dictionaries(st.sampled_from(MEMBERS), VALUES, max_size=6),
)


def _json(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except (TypeError, ValueError):  # an integer or a text that JSON cannot say
        return b"{}"


@st.composite
def damaged(draw: Any) -> str | bytes:
    """A valid message with some bytes changed, cut away or doubled."""
    message = encode(draw(st.sampled_from(FRAMES)))
    data = bytearray(message.encode() if isinstance(message, str) else message)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.integers(0, 2)):
            case 0:
                data[at : at + 1] = draw(st.binary(max_size=3))
            case 1:
                del data[at : at + draw(st.integers(1, 8))]
            case _:
                data[at:at] = data[: draw(st.integers(0, len(data)))]
    return bytes(data) if isinstance(message, bytes) else data.decode(errors="replace")


ANYTHING = (
    st.binary(max_size=200)
    | st.text(max_size=200)
    | damaged()
    | OBJECTS.map(lambda value: _json(value).decode())
    | st.builds(lambda value, data: _json(value) + b"\n" + data, OBJECTS, st.binary(max_size=50))
    | st.integers(1, 3000).map(lambda depth: '{"t":"facts","facts":' + '{"x":' * depth + "1" + "}" * (depth + 1))
    | st.integers(1, 3000).map(
        lambda depth: '{"t":"call","id":1,"method":"m","args":' + "[" * depth + "]" * depth + "}"
    )
)


def outcome(message: str | bytes) -> Frame | CodecError:
    """Anything else that is raised fails the test."""
    try:
        return decode(message)
    except CodecError as error:
        return error


@BOUNDED
@given(ANYTHING)
def test_anything_is_a_frame_or_an_error(message: str | bytes) -> None:
    found = outcome(message)
    if isinstance(found, CodecError):
        assert 0 < len(str(found)) < 500  # it goes into the log
    elif not isinstance(found, codec.Unknown):
        with contextlib.suppress(CodecError):  # deeper than what we would say ourselves
            assert isinstance(decode(encode(found)), type(found))


class Scripted:
    """A connection on which the other end says what the test wants, then hangs up."""

    proof = b""  # there is no TLS below it

    def __init__(self, messages: list[str | bytes]) -> None:
        self.heard_at = asyncio.get_running_loop().time()
        self._messages = deque(messages)
        self.aborted = False
        self.sent_bytes = 0

    async def recv(self) -> str | bytes:
        await asyncio.sleep(0)
        if not self._messages:
            raise ConnectionClosedError(None, None)
        return self._messages.popleft()

    async def send(self, message: str | bytes) -> None:
        self.sent_bytes += len(message)
        await asyncio.sleep(0)

    async def close(self) -> None:
        self.aborted = True

    def abort(self) -> None:
        self.aborted = True


async def serve(method: str, args: list[Any], on_progress: Any) -> Any:
    if on_progress is not None:
        on_progress({"percent": 1})
    return args


async def apply(image: bytes) -> None:
    pass


async def _one_life(messages: list[str | bytes]) -> Scripted:
    side = PeerLink(PATIENT, "A", cast(Any, object()))
    side.serve_call, side.serve_snapshot = serve, apply
    connection = Scripted([encode(Hello("B")), *messages])
    await side._run(connection)
    assert not side.connected
    return connection


@SESSIONS
@given(st.lists(ANYTHING | st.sampled_from(FRAMES).map(encode), max_size=12))
def test_a_session_survives_anything(messages: list[str | bytes]) -> None:
    """Whatever is said after the hello ends in one line of the log, and never in an internal error."""
    lines: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = lines.append  # type: ignore[method-assign]  # a list is handler enough
    loggers = [logging.getLogger(name) for name in ("middlewared.peer", "asyncio")]
    for each in loggers:
        each.addHandler(handler)
    try:
        connection = asyncio.run(_one_life(messages))
    finally:
        for each in loggers:
            each.removeHandler(handler)
    assert connection.aborted
    assert [line.getMessage() for line in lines if line.exc_info] == []
    assert sum("lost the other controller" in line.getMessage() for line in lines) == 1
    assert not any("internal error" in line.getMessage() for line in lines)


HOSTILE = {
    "calls": lambda n: encode(codec.Call(n, "m", ["x" * 1000])),
    "begins": lambda n: encode(codec.SnapshotBegin(n, codec.SNAPSHOT_BYTES_MAX)),
    "progress": lambda n: encode(codec.Progress(n, "x" * 1000)),
    "results": lambda n: encode(codec.Result(n, "x" * 1000)),
    "facts": lambda n: encode(codec.Facts({"n": n, "x": "y" * 1000})),
    "unknown": lambda n: '{"t":"gossip","x":"' + "y" * 1000 + '"}',
}


@pytest.mark.parametrize("kind", HOSTILE)
async def test_a_flood_costs_no_more_memory_than_its_bounds(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """From one who says a lot, and takes nothing that we say."""
    caplog.set_level(logging.ERROR)
    side = PeerLink(PATIENT, "A", cast(Any, object()))
    held = asyncio.Event()

    async def never(method: str, args: list[Any], on_progress: Any) -> None:
        await held.wait()

    side.serve_call = never
    peak: list[int] = []

    class Flood(Scripted):
        async def recv(self) -> str | bytes:
            if not self._messages:
                peak.append(tracemalloc.get_traced_memory()[1])
            return await super().recv()

        async def send(self, message: str | bytes) -> None:
            await held.wait()

    messages = [HOSTILE[kind](number) for number in range(1, 3000)]
    tracemalloc.start()
    try:
        await side._run(Flood([encode(Hello("B")), *messages]))
    finally:
        tracemalloc.stop()
    assert peak[0] < 8 << 20, f"{peak[0]} bytes"
    assert caplog.records == []
    assert link.CALLS_MAX < 3000  # the flood of calls is beyond the bound
