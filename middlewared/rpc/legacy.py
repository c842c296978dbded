"""The older dialect of `/websocket` (PROTOCOL 14): the same calls, other frames. Pure."""

import errno
import logging
from typing import Any

from middlewared.bus import NO_ID, Event
from middlewared.errors import CallError, ValidationErrors, errname
from middlewared.rpc import extjson
from middlewared.rpc.protocol import describe, error_data

log = logging.getLogger(__name__)

VERSION = "1"


def connected(session_id: str) -> bytes:
    return extjson.dumps({"msg": "connected", "session": session_id})


def refused() -> bytes:
    """The client wants a version of this dialect that does not exist."""
    return extjson.dumps({"msg": "failed", "version": VERSION})


def ready(subscription_id: str) -> bytes:
    return extjson.dumps({"msg": "ready", "subs": [subscription_id]})


def pong(ping_id: Any) -> bytes:
    return extjson.dumps({"msg": "pong"} if ping_id is None else {"msg": "pong", "id": ping_id})


def encode_result(request_id: Any, result: Any) -> bytes:
    try:
        return extjson.dumps({"id": request_id, "msg": "result", "result": result})
    except TypeError as error:
        log.error("a result could not be encoded: %s", error)
        return encode_error(request_id, CallError(f"The result could not be encoded: {error}"))


def _legacy_data(error: BaseException) -> dict[str, Any]:
    """Several validation errors are EAGAIN together, a single one keeps its own errno."""
    data = error_data(error)
    if isinstance(error, ValidationErrors):
        data["error"] = error.errors[0][2] if len(error.errors) == 1 else errno.EAGAIN
        data["errname"] = errname(data["error"])
    return {**data, "type": "VALIDATION" if isinstance(error, ValidationErrors) else None}


def encode_error(request_id: Any, error: BaseException) -> bytes:
    data = _legacy_data(describe(error))
    try:
        return extjson.dumps({"msg": "result", "id": request_id, "error": data})
    except TypeError:  # an `extra` that JSON cannot hold: the rest still tells the story
        return extjson.dumps({"msg": "result", "id": request_id, "error": {**data, "extra": None}})


def encode_event(event: Event, collection: str) -> bytes:
    message: dict[str, Any] = {"msg": event.msg, "collection": collection}
    if event.id is not NO_ID:
        message["id"] = event.id
    if event.fields is not None:
        message["fields"] = event.fields
    return extjson.dumps(message)


def encode_unsubscribed(collection: str, error: BaseException | None) -> bytes:
    message: dict[str, Any] = {"msg": "nosub", "collection": collection}
    if error is not None:
        message["error"] = _legacy_data(describe(error))
    return extjson.dumps(message)
