"""Extended JSON (PROTOCOL 4): dates, times, sets and IP interfaces inside ordinary JSON.

Requests are parsed plain, so that schemas see what was sent; `decode` then turns the marked objects into Python's.
"""

from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from ipaddress import IPv4Interface, IPv6Interface
from typing import Any

import orjson

from middlewared.rpc.limits import JSON_DEPTH_MAX

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_OPTIONS = orjson.OPT_PASSTHROUGH_DATETIME


def _milliseconds(moment: datetime) -> int:
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return (aware - _EPOCH) // timedelta(milliseconds=1)


def _encode_special(value: Any) -> Any:
    match value:
        case datetime():  # before date, whose subclass it is
            return {"$date": _milliseconds(value)}
        case date():
            return {"$type": "date", "$value": value.isoformat()}
        case time():
            return {"$time": value.isoformat()}
        case set() | frozenset():
            return {"$set": sorted(value, key=str)}
        case IPv4Interface():
            return {"$ipv4_interface": str(value)}
        case IPv6Interface():
            return {"$ipv6_interface": str(value)}
        case tuple():
            return list(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def dumps(value: Any) -> bytes:
    """Encode. Raises TypeError for what JSON cannot hold (64-bit integers are the limit)."""
    return orjson.dumps(value, _encode_special, _OPTIONS)


def plain(value: Any) -> Any:
    """The same value with every special object in its JSON form."""
    return orjson.loads(dumps(value))


def loads(text: str) -> Any:
    """Parse plain JSON. Raises ValueError, also for what is nested deeper than JSON_DEPTH_MAX."""
    value = orjson.loads(text)
    if text.count("[") + text.count("{") > JSON_DEPTH_MAX:  # rare, and cheaper to count than to walk
        _check_depth(value)
    return value


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(JSON_DEPTH_MAX + 1):
        containers = [item for item in level if isinstance(item, dict | list)]
        if not containers:
            return
        level = [inner for item in containers for inner in (item.values() if isinstance(item, dict) else item)]
    raise ValueError(f"nested deeper than {JSON_DEPTH_MAX} levels")


def _decode_date(milliseconds: Any) -> datetime:
    if type(milliseconds) is not int:
        raise ValueError("$date must be an integer of milliseconds")
    return _EPOCH + timedelta(milliseconds=milliseconds)


def _decode_set(items: Any) -> set[Any]:
    if not isinstance(items, list):
        raise ValueError("$set must be a list")
    return set(items)


_DECODERS: dict[str, Callable[[Any], Any]] = {
    "$date": _decode_date,
    "$time": lambda text: time.fromisoformat(text),
    "$set": _decode_set,
    "$ipv4_interface": IPv4Interface,
    "$ipv6_interface": IPv6Interface,
}


def decode(value: Any) -> Any:
    """Replace the marked objects, at any depth. An object with any further key is left alone. Raises ValueError."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((key, inner),) = value.items()
        if key in _DECODERS:
            try:
                return _DECODERS[key](decode(inner))
            except (TypeError, OverflowError) as error:
                raise ValueError(f"{key}: {error}") from error
    elif len(value) == 2 and value.get("$type") == "date" and isinstance(value.get("$value"), str):
        return date.fromisoformat(value["$value"])
    return {key: decode(item) for key, item in value.items()}
