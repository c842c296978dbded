"""The frames of the peer link and their two encodings. Pure.

A text message is one JSON object whose member `t` names the frame:

    {"t": "call", "id": 7, "method": "system.info", "args": []}

A binary message is a snapshot chunk or changes: such an object, a newline, then the raw bytes. Frames of unknown type
and unknown members are tolerated, because the other controller may run a newer release; a known frame with a missing or
wrong member is a CodecError, and the link drops the connection over it.
"""

from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from typing import Any

import orjson

from middlewared.errors import EREMOTENODEERROR, CallError, MatchNotFound, ValidationErrors
from middlewared.extjson import encode_special
from middlewared.peer.extended import revive

PROTOCOL = 2  # what we speak
PROTOCOL_CHANGES = 2  # the first with a changes frame
PROTOCOL_MIN = 1  # the oldest that we still understand
_OPTIONS = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_NON_STR_KEYS
FRAME_BYTES_MAX = 1 << 20
CHUNK_BYTES_MAX = 256 << 10
SNAPSHOT_BYTES_MAX = 256 << 20
CHANGES_BYTES_MAX = FRAME_BYTES_MAX - 1024  # the header needs less
ID_MAX = 1 << 53
TEXT_CHARS_MAX = 64 << 10


class CodecError(Exception):
    """The message is not a frame of this protocol, or the frame cannot be encoded; the message says why."""


@dataclass(frozen=True, slots=True)
class Hello:
    """The first frame of each side. Who speaks, and which protocols: [protocol_min, protocol]."""

    node: str
    protocol: int = PROTOCOL
    protocol_min: int = PROTOCOL_MIN


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A sign of life."""


@dataclass(frozen=True, slots=True)
class Facts:
    """The whole snapshot of the sender's facts; replaces the one before."""

    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """Run a method. Answered by Progress (any number), then Result or Failure, unless a Cancel comes first."""

    id: int
    method: str
    args: list[Any]
    job_id_only: bool = False  # of a job its number is the answer, at once; a release before this one waits for it


@dataclass(frozen=True, slots=True)
class Result:
    id: int
    result: Any


@dataclass(frozen=True, slots=True)
class Failure:
    """A call's error. `kind` is call, not_found or validation; an unknown kind counts as call."""

    id: int
    kind: str
    message: str
    errno: int = EREMOTENODEERROR
    extra: Any = None
    errors: list[list[Any]] | None = None  # kind validation: [attribute or null, text, errno] each


@dataclass(frozen=True, slots=True)
class Progress:
    id: int
    progress: Any


@dataclass(frozen=True, slots=True)
class Cancel:
    """The sender no longer waits for the answer to its call or snapshot; there will be none."""

    id: int


@dataclass(frozen=True, slots=True)
class Changes:
    """Changes of the configuration, to be applied durably. Answered by Result (null) or Failure. Since protocol 2."""

    id: int
    data: bytes  # what is in it is the store's affair


@dataclass(frozen=True, slots=True)
class SnapshotBegin:
    id: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class SnapshotChunk:
    """`data` starts at `offset_bytes` of the image; chunks come in order and without gaps."""

    id: int
    offset_bytes: int
    data: bytes | memoryview


@dataclass(frozen=True, slots=True)
class SnapshotEnd:
    id: int
    sha256: str  # of the whole image, lower-case hex


@dataclass(frozen=True, slots=True)
class SnapshotOk:
    """The image arrived whole and is applied."""

    id: int


@dataclass(frozen=True, slots=True)
class SnapshotFailure:
    id: int
    message: str
    errno: int = EREMOTENODEERROR


@dataclass(frozen=True, slots=True)
class Unknown:
    """A frame of a later protocol, to be ignored."""

    t: str


Frame = (
    Hello
    | Heartbeat
    | Facts
    | Call
    | Result
    | Failure
    | Progress
    | Cancel
    | Changes
    | SnapshotBegin
    | SnapshotChunk
    | SnapshotEnd
    | SnapshotOk
    | SnapshotFailure
    | Unknown
)

Check = Callable[[Any], bool]


def _whole(minimum: int, maximum: int) -> Check:
    return lambda value: type(value) is int and minimum <= value <= maximum


def _anything(_value: Any) -> bool:
    return True


def _text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= TEXT_CHARS_MAX


def _digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


def _truth(value: Any) -> bool:
    return isinstance(value, bool)


def _object(value: Any) -> bool:
    return isinstance(value, dict)


def _array(value: Any) -> bool:
    return isinstance(value, list)


def _validation_errors(value: Any) -> bool:
    return value is None or (
        isinstance(value, list)
        and all(
            isinstance(row, list)
            and len(row) == 3
            and (row[0] is None or isinstance(row[0], str))
            and isinstance(row[1], str)
            and _errno(row[2])
            for row in value
        )
    )


_id = _whole(1, ID_MAX)
_errno = _whole(0, 1 << 31)
_protocol = _whole(1, 1 << 31)

# Frame name -> class and the check of each member. A member whose field has a default may be missing.
_FRAMES: dict[str, tuple[type[Any], dict[str, Check]]] = {
    "hello": (Hello, {"node": _text, "protocol": _protocol, "protocol_min": _protocol}),
    "heartbeat": (Heartbeat, {}),
    "facts": (Facts, {"facts": _object}),
    "call": (Call, {"id": _id, "method": _text, "args": _array, "job_id_only": _truth}),
    "result": (Result, {"id": _id, "result": _anything}),
    "error": (
        Failure,
        {
            "id": _id,
            "kind": _text,
            "message": _text,
            "errno": _errno,
            "extra": _anything,
            "errors": _validation_errors,
        },
    ),
    "progress": (Progress, {"id": _id, "progress": _anything}),
    "cancel": (Cancel, {"id": _id}),
    "snapshot_begin": (SnapshotBegin, {"id": _id, "size_bytes": _whole(0, ID_MAX)}),
    "snapshot_end": (SnapshotEnd, {"id": _id, "sha256": _digest}),
    "snapshot_ok": (SnapshotOk, {"id": _id}),
    "snapshot_error": (SnapshotFailure, {"id": _id, "message": _text, "errno": _errno}),
}
# Binary frames: what precedes `data`, and how long that may be.
_BINARY: dict[str, tuple[type[Any], dict[str, Check], int]] = {
    "snapshot_chunk": (SnapshotChunk, {"id": _id, "offset_bytes": _whole(0, SNAPSHOT_BYTES_MAX)}, CHUNK_BYTES_MAX),
    "changes": (Changes, {"id": _id}, CHANGES_BYTES_MAX),
}
_NAMES = {kind: name for name, (kind, *_) in (*_FRAMES.items(), *_BINARY.items())}
_EXTENDED = {"facts", "call", "result", "error", "progress"}  # the frames that carry values of the API


def encode(frame: Frame) -> str | bytes:
    """One websocket message: str travels as text, bytes as binary. Raises CodecError (too large, no JSON form)."""
    name = _NAMES.get(type(frame))
    if name is None:
        raise CodecError(f"{type(frame).__name__} is not a frame to send")
    if isinstance(frame, SnapshotChunk | Changes):
        return _encode_binary(name, frame)
    checks = _FRAMES[name][1]
    values = {member: getattr(frame, member) for member in checks}
    for member, check in checks.items():
        if not check(values[member]):  # the other side would drop the connection over it
            raise CodecError(f"a {name} frame with a wrong {member}")
    members = {"t": name, **values}
    try:
        body = orjson.dumps(
            members, default=encode_special, option=orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_NON_STR_KEYS
        )
    except (TypeError, RecursionError) as error:
        raise CodecError(f"a {name} frame has no JSON form: {error}") from error
    if len(body) > FRAME_BYTES_MAX:
        raise CodecError(f"a {name} frame of {len(body)} bytes; at most {FRAME_BYTES_MAX}")
    return body.decode()


def _encode_binary(name: str, frame: SnapshotChunk | Changes) -> bytes:
    _, checks, bytes_max = _BINARY[name]
    if len(frame.data) > bytes_max:
        raise CodecError(f"a {name} frame with {len(frame.data)} bytes; at most {bytes_max}")
    header = {"t": name} | {member: getattr(frame, member) for member in checks}
    return b"\n".join((orjson.dumps(header), frame.data))


def decode(message: str | bytes) -> Frame:
    """The frame of one websocket message. Raises CodecError and nothing else."""
    if len(message) > FRAME_BYTES_MAX:
        raise CodecError(f"a frame of {len(message)} bytes; at most {FRAME_BYTES_MAX}")
    if isinstance(message, bytes):
        return _decode_binary(message)
    members = _parse(message)
    name = members["t"]
    if name not in _FRAMES:
        return Unknown(name)
    kind, checks = _FRAMES[name]
    frame: Frame = kind(**_members(name, kind, checks, revive(members) if name in _EXTENDED else members))
    return frame


def _decode_binary(message: bytes) -> Frame:
    header, newline, data = message.partition(b"\n")
    if not newline:
        raise CodecError("a binary frame without a header")
    members = _parse(header)
    name = members["t"]
    if name not in _BINARY:
        return Unknown(name)
    kind, checks, bytes_max = _BINARY[name]
    if len(data) > bytes_max:
        raise CodecError(f"a {name} frame with {len(data)} bytes; at most {bytes_max}")
    frame: Frame = kind(**_members(name, kind, checks, members), data=data)
    return frame


def _parse(text: str | bytes) -> dict[str, Any]:
    try:
        members = orjson.loads(text)
    except ValueError as error:
        raise CodecError(f"not JSON: {error}") from error
    if not isinstance(members, dict) or not _text(members.get("t")):
        raise CodecError("not an object with a member t")
    return members


def _members(name: str, kind: type[Any], checks: dict[str, Check], members: dict[str, Any]) -> dict[str, Any]:
    optional = {field.name for field in fields(kind) if field.default is not MISSING}
    values: dict[str, Any] = {}
    for member, check in checks.items():
        if member not in members:
            if member in optional:
                continue
            raise CodecError(f"a {name} frame without {member}")
        if not check(members[member]):
            raise CodecError(f"a {name} frame with a wrong {member}")
        values[member] = members[member]
    return values


def failure_of(number: int, error: CallError | ValidationErrors) -> Failure:
    """The frame that carries an error which callers may see."""
    if isinstance(error, ValidationErrors):
        return Failure(number, "validation", str(error)[:TEXT_CHARS_MAX], errors=[list(row) for row in error.errors])
    kind = "not_found" if isinstance(error, MatchNotFound) else "call"
    return Failure(number, kind, error.message[:TEXT_CHARS_MAX], error.errno, error.extra)


def error_of(failure: Failure) -> CallError | ValidationErrors:
    """The error that the other controller raised."""
    if failure.kind == "validation" and failure.errors is not None:
        return ValidationErrors((attribute, text, number) for attribute, text, number in failure.errors)
    if failure.kind == "not_found":
        return MatchNotFound(failure.message)
    return CallError(failure.message, failure.errno, failure.extra)
