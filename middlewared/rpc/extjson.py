"""Extended JSON (PROTOCOL 4): dates, times, sets and IP interfaces inside ordinary JSON.

Requests are parsed plain, so that schemas see what was sent; `decode` then turns the marked objects into Python's.
"""

from typing import Any

import orjson

from middlewared.extjson import decode_object, encode_special
from middlewared.rpc.limits import JSON_DEPTH_MAX

_OPTIONS = orjson.OPT_PASSTHROUGH_DATETIME


def _encode(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else encode_special(value)  # orjson leaves named tuples to us


def dumps(value: Any) -> bytes:
    """Encode. Raises TypeError for what JSON cannot hold (64-bit integers are the limit)."""
    return orjson.dumps(value, _encode, _OPTIONS)


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


def decode(value: Any) -> Any:
    """Replace the marked objects, at any depth. An object with any further key is left alone. Raises ValueError."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    return decode_object({key: decode(item) for key, item in value.items()})
