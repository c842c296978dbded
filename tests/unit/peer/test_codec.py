import contextlib
import math
from datetime import UTC, date, datetime, time
from ipaddress import IPv4Interface, IPv6Interface
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from middlewared.errors import CallError, MatchNotFound, ValidationErrors
from middlewared.peer import codec
from middlewared.peer.codec import CodecError, decode, encode

FRAMES = [
    codec.Hello("A"),
    codec.Hello("B", 2, 1),
    codec.Heartbeat(),
    codec.Facts({"node": "A", "pools": []}),
    codec.Call(1, "system.info", [1, {"x": None}]),
    codec.Call(1, "system.reboot", [], job_id_only=True),
    codec.Result(1, None),
    codec.Failure(1, "call", "no", 22, {"why": 1}),
    codec.Failure(1, "validation", "", errors=[["a.b", "attribute required", 22], [None, "gone", 2]]),
    codec.Progress(1, {"percent": 50}),
    codec.Cancel(codec.ID_MAX),
    codec.Changes(3, b"\n[]\x00\xff"),
    codec.SnapshotBegin(3, 0),
    codec.SnapshotChunk(3, 10, b"\n{}\x00\xff"),
    codec.SnapshotChunk(3, 10, b""),
    codec.SnapshotEnd(3, "0" * 64),
    codec.SnapshotOk(3),
    codec.SnapshotFailure(3, "no", 27),
]


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: type(frame).__name__)
def test_every_frame_survives_the_link(frame: codec.Frame) -> None:
    assert decode(encode(frame)) == frame


def test_what_a_newer_release_may_add_is_tolerated() -> None:
    assert decode('{"t":"cancel","id":1,"reason":"new"}') == codec.Cancel(1)
    assert decode('{"t":"call","id":1,"method":"m","args":[]}') == codec.Call(1, "m", [])  # of an older one
    assert decode('{"t":"gossip","x":1}') == codec.Unknown("gossip")
    assert decode(b'{"t":"parcel"}\nbytes') == codec.Unknown("parcel")
    assert decode('{"t":"hello","node":"B","protocol":9,"protocol_min":1}') == codec.Hello("B", 9, 1)
    strange = decode('{"t":"error","id":1,"kind":"novel","message":"m","errno":250}')
    assert isinstance(strange, codec.Failure)
    error = codec.error_of(strange)
    assert isinstance(error, CallError)
    assert (error.message, error.errno) == ("m", 250)


@pytest.mark.parametrize(
    "message",
    [
        "",
        "[]",
        "{}",
        '{"t":1}',
        '{"t":"call"}',
        '{"t":"call","id":0,"method":"m","args":[]}',
        '{"t":"call","id":true,"method":"m","args":[]}',
        '{"t":"call","id":1,"method":"m","args":{}}',
        '{"t":"facts","facts":[]}',
        '{"t":"error","id":1,"kind":"validation","message":"","errors":[["a","b"]]}',
        '{"t":"snapshot_begin","id":1,"size_bytes":-1}',
        '{"t":"snapshot_end","id":1,"sha256":"short"}',
        "[" * 2000,
        b"",
        b'{"t":"snapshot_chunk","id":1,"offset_bytes":0}',
        b'{"t":"snapshot_chunk","id":1}\nx',
        b'{"t":"snapshot_chunk","id":1,"offset_bytes":0}\n' + b"x" * (codec.CHUNK_BYTES_MAX + 1),
        b"\xff\n",
        " " * (codec.FRAME_BYTES_MAX + 1),
    ],
    ids=lambda message: repr(message[:50]),
)
def test_a_wrong_frame_is_refused(message: str | bytes) -> None:
    with pytest.raises(CodecError):
        decode(message)


@pytest.mark.parametrize(
    "frame",
    [
        codec.Result(1, "x" * codec.FRAME_BYTES_MAX),
        codec.Result(1, object()),
        codec.Result(1, 1 << 80),
        codec.Result(1, "\ud800"),
        codec.Call(0, "m", []),
        codec.Unknown("x"),
        codec.SnapshotChunk(1, 0, bytes(codec.CHUNK_BYTES_MAX + 1)),
    ],
    ids=lambda frame: repr(frame)[:50],
)
def test_what_the_other_side_would_refuse_is_not_sent(frame: codec.Frame) -> None:
    with pytest.raises(CodecError):
        encode(frame)


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(CodecError):
        encode(codec.Result(1, loop))


def test_extended_values_cross_unchanged() -> None:
    value = {
        "at": datetime(2026, 7, 1, 12, 30, 15, 250_000, tzinfo=UTC),
        "before": datetime(1969, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC),
        "deep": [{"set": {datetime(2026, 1, 1, tzinfo=UTC), 3}}],
        "day": date(2026, 7, 1),
        "time": time(10, 20),
        "four": IPv4Interface("10.0.0.1/24"),
        "six": IPv6Interface("fe80::1/64"),
    }
    assert decode(encode(codec.Result(1, value))) == codec.Result(1, value)
    assert '{"$date":1782909015250}' in encode(codec.Result(1, value))


def test_data_that_only_resembles_an_extended_value_is_left_alone() -> None:
    value = [{"$date": 1, "x": 2}, {"$date": "soon"}, {"$date": 1 << 60}, {"$time": "25:00"}, {"$set": [[]]},
             {"$type": "date", "$value": "never"}, {"$ipv4_interface": 5}, {"$date": True}]  # fmt: skip
    assert decode(encode(codec.Result(1, value))) == codec.Result(1, value)


def test_deep_nesting_costs_no_stack() -> None:
    text = '{"t":"result","id":1,"result":' + "[" * 1000 + "]" * 1000 + "}"
    assert isinstance(decode(text), codec.Result)


def test_errors_are_carried_whole() -> None:
    call = codec.error_of(codec.failure_of(1, CallError("no", 16, {"left": 3})))
    assert isinstance(call, CallError)
    assert (call.message, call.errno, call.extra) == ("no", 16, {"left": 3})
    wrong = codec.error_of(codec.failure_of(1, ValidationErrors([("a.b", "bad", 22), (None, "gone", 2)])))
    assert isinstance(wrong, ValidationErrors)
    assert wrong.errors == [("a.b", "bad", 22), (None, "gone", 2)]
    assert isinstance(codec.error_of(codec.failure_of(1, MatchNotFound())), MatchNotFound)


def only_codec_errors(message: str | bytes) -> None:
    with contextlib.suppress(CodecError):
        decode(message)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["$date", "$set", "$type", "$value", "$time", "$ipv4_interface", "id", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
MEMBERS = ["id", "node", "protocol", "protocol_min", "facts", "method", "args", "result", "kind", "message",
           "errno", "extra", "errors", "progress", "size_bytes", "offset_bytes", "sha256"]  # fmt: skip
NAMES = ["hello", "heartbeat", "facts", "call", "result", "error", "progress", "cancel", "snapshot_begin",
         "changes", "snapshot_chunk", "snapshot_end", "snapshot_ok", "snapshot_error", "later"]  # fmt: skip


@given(st.text() | st.binary())
def test_random_messages_raise_nothing_else(message: str | bytes) -> None:
    only_codec_errors(message)


@given(st.sampled_from(NAMES), st.dictionaries(st.sampled_from(MEMBERS), JSON | st.integers(1, 9)), st.binary())
def test_random_frames_raise_nothing_else(name: str, members: dict[str, Any], tail: bytes) -> None:
    try:
        body = orjson.dumps({"t": name, **members})
    except TypeError:
        return  # beyond 64 bit
    only_codec_errors(body.decode())
    only_codec_errors(body + b"\n" + tail)


@given(JSON)
def test_random_results_arrive_or_are_refused(value: Any) -> None:
    try:
        message = encode(codec.Result(1, value))
    except CodecError:
        return
    frame = decode(message)
    assert isinstance(frame, codec.Result)
    if isinstance(value, str | int | None) or (isinstance(value, float) and math.isfinite(value)):
        assert frame.result == value
