"""JSON-RPC 2.0 as the stock clients speak it (PROTOCOL 2): frames in and out, and errors in wire form. Pure."""

import errno
import logging
import secrets
from dataclasses import dataclass
from typing import Any

from middlewared.bus import NO_ID, Event
from middlewared.errors import ENOMETHOD, CallError, MatchNotFound, ValidationErrors, errname
from middlewared.ports import PortError
from middlewared.rpc import extjson

log = logging.getLogger(__name__)

INVALID_JSON = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
TOO_MANY_CONCURRENT_CALLS = -32000
CALL_ERROR = -32001

NO_REQUEST_ID: Any = object()  # a request without the member `id`: run it, answer nothing


class RequestError(Exception):
    """The frame is not a request: a code of PROTOCOL 2.4, a text, and the id to answer with."""

    def __init__(self, code: int, message: str, request_id: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.request_id = request_id


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    params: list[Any]
    id: Any


def parse_request(text: str) -> Request:
    """One frame. Raises RequestError; its `request_id` may be NO_REQUEST_ID, which asks for silence."""
    try:
        message = extjson.loads(text)
    except ValueError as error:
        raise RequestError(INVALID_JSON, str(error)) from error
    if not isinstance(message, dict):
        raise RequestError(INVALID_JSON, "a request is one JSON object; batches are not supported")
    request_id = message.get("id", NO_REQUEST_ID)
    if request_id is not NO_REQUEST_ID and (
        isinstance(request_id, bool) or not isinstance(request_id, str | int | None)
    ):
        raise RequestError(INVALID_REQUEST, "id must be a string, an integer or null", request_id)
    method, params = message.get("method"), message.get("params", [])
    if message.get("jsonrpc") != "2.0":
        raise RequestError(INVALID_REQUEST, 'jsonrpc must be "2.0"', request_id)
    if not isinstance(method, str) or not method:
        raise RequestError(INVALID_REQUEST, "method must be a string", request_id)
    if not isinstance(params, list):
        raise RequestError(INVALID_REQUEST, "params must be an array", request_id)
    return Request(method, params, request_id)


# ------------------------------------------------------------------------------------------------ errors


def describe(error: BaseException) -> BaseException:
    """Make an error fit to be shown: what is not meant for callers goes to the log, and a reference takes its place."""
    if isinstance(error, CallError | ValidationErrors | InternalError):
        return error
    if isinstance(error, PortError):  # a sentence for a human, by its contract
        return CallError(str(error))
    reference = secrets.token_hex(4)
    log.error("internal error, reference %s", reference, exc_info=error)
    return InternalError(type(error).__name__, reference)


class InternalError(Exception):
    """An unexpected exception, as callers see it: its class, and where to find the rest."""

    def __init__(self, kind: str, reference: str) -> None:
        super().__init__(f"Internal error (reference {reference}); the log has the details")
        self.kind = kind


def triples(error: ValidationErrors) -> list[list[Any]]:
    return [[attribute, message, number] for attribute, message, number in error.errors]


def kind_of(error: BaseException) -> str:
    """The class name on the wire. Subclasses of CallError are CallError: clients know no other (PROTOCOL 0.8)."""
    match error:
        case MatchNotFound():
            return "MatchNotFound"
        case CallError():
            return "CallError"
        case InternalError():
            return error.kind
    return type(error).__name__


def repr_of(error: BaseException) -> str:
    match error:
        case MatchNotFound():
            return f"MatchNotFound({error.message!r})"
        case CallError():
            return f"CallError({error.message!r}, {error.errno}, {error.extra!r})"
        case ValidationErrors():
            return f"ValidationErrors({triples(error)!r})"
    return str(error)


def reason_of(error: BaseException) -> str:
    return repr_of(error) if isinstance(error, MatchNotFound) else str(error)


def formatted(error: BaseException) -> str:
    """What stands for a traceback: the error, and nothing of our code."""
    return f"{kind_of(error)}: {error}\n"


def error_data(error: BaseException) -> dict[str, Any]:
    """The `data` of an error (PROTOCOL 2.4), from an error that `describe` let through."""
    number = error.errno if isinstance(error, CallError) else errno.EINVAL
    return {
        "error": number,
        "errname": errname(number),
        "reason": reason_of(error),
        "trace": {"class": kind_of(error), "formatted": formatted(error), "repr": repr_of(error)},
        "extra": triples(error) if isinstance(error, ValidationErrors) else getattr(error, "extra", None),
    }


class MethodNotFound(CallError):
    """No such method: -32601 on JSON-RPC, errno 201 elsewhere."""

    def __init__(self) -> None:
        super().__init__("Method does not exist", ENOMETHOD)


class TooManyCalls(CallError):
    """The connection has as many calls outstanding as it may."""

    def __init__(self) -> None:
        super().__init__("Too many concurrent calls on this connection; wait for some to end", errno.ETOOMANYREFS)


# ------------------------------------------------------------------------------------------------ frames


def encode_result(request_id: Any, result: Any) -> bytes:
    """Answer a call. A result that JSON cannot hold becomes -32603."""
    try:
        return extjson.dumps({"jsonrpc": "2.0", "result": result, "id": request_id})
    except TypeError as error:
        log.error("a result could not be encoded: %s", error)
        message = f"The result could not be encoded: {error}"
        return _encode_error(request_id, INTERNAL_ERROR, message, error_data(CallError(message)))


def encode_error(request_id: Any, error: BaseException) -> bytes:
    """Answer a call that failed."""
    if isinstance(error, RequestError):
        return _encode_error(request_id, error.code, error.message, None)
    if isinstance(error, MethodNotFound):
        return _encode_error(request_id, METHOD_NOT_FOUND, error.message, None)
    if isinstance(error, TooManyCalls):
        return _encode_error(request_id, TOO_MANY_CONCURRENT_CALLS, error.message, None)
    shown = describe(error)
    if isinstance(shown, ValidationErrors):
        return _encode_error(request_id, INVALID_PARAMS, "Invalid params", error_data(shown))
    return _encode_error(request_id, CALL_ERROR, "Method call error", error_data(shown))


def _encode_error(request_id: Any, code: int, message: str, data: dict[str, Any] | None) -> bytes:
    body: dict[str, Any] = {"code": code, "message": message}
    if data is not None:
        body["data"] = data
    try:
        return extjson.dumps({"jsonrpc": "2.0", "error": body, "id": request_id})
    except TypeError:  # an `extra` that JSON cannot hold: the rest still tells the story
        body["data"] = {**body["data"], "extra": None}
        return extjson.dumps({"jsonrpc": "2.0", "error": body, "id": request_id})


def encode_event(event: Event, collection: str) -> bytes:
    """`collection_update` (PROTOCOL 6.2), under the name it was subscribed by."""
    params: dict[str, Any] = {"msg": event.msg, "collection": collection}
    if event.id is not NO_ID:
        params["id"] = event.id
    if event.fields is not None:
        params["fields"] = event.fields
    return extjson.dumps({"jsonrpc": "2.0", "method": "collection_update", "params": params})


def encode_unsubscribed(collection: str, error: BaseException | None) -> bytes:
    """`notify_unsubscribed` (PROTOCOL 6.3)."""
    data = None if error is None else error_data(describe(error))
    params = {"collection": collection, "error": data}
    return extjson.dumps({"jsonrpc": "2.0", "method": "notify_unsubscribed", "params": params})
