"""Extended JSON (PROTOCOL 4): dates, times, sets and IP interfaces inside ordinary JSON, one value at a time.

{"$date": milliseconds since the epoch, UTC}     {"$type": "date", "$value": "2026-11-23"}     {"$time": "23:59:59"}
{"$set": […]}     {"$ipv4_interface": "192.0.2.1/24"}     {"$ipv6_interface": "2001:db8::1/64"}
"""

from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def encode_special(value: Any) -> Any:
    """The JSON form of a value that JSON lacks; a datetime without zone counts as UTC. TypeError if it has none."""
    match value:
        case datetime():  # before date, whose subclass it is
            moment = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
            return {"$date": (moment - _EPOCH) // timedelta(milliseconds=1)}
        case date():
            return {"$type": "date", "$value": value.isoformat()}
        case time():
            return {"$time": value.isoformat()}
        case set() | frozenset():
            return {"$set": sorted(value, key=str)}
    if type(value).__name__ in ("IPv4Interface", "IPv6Interface"):  # by name: ipaddress is slow to import
        return {f"$ipv{value.version}_interface": str(value)}
    raise TypeError(f"{type(value).__name__} has no JSON form")


def decode_object(value: dict[str, Any]) -> Any:
    """The value that a marked object stands for; any other object as it is. ValueError when the content is wrong."""
    if len(value) == 1:
        ((key, content),) = value.items()
        if key not in _DECODERS:
            return value
        kind, restore = _DECODERS[key]
        if type(content) is not kind:
            raise ValueError(f"{key} takes {_KINDS[kind]}")
        try:
            return restore(content)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{key}: {error}") from error
    if len(value) == 2 and value.get("$type") == "date" and isinstance(value.get("$value"), str):
        return date.fromisoformat(value["$value"])
    return value


def _ipv4_interface(text: str) -> Any:
    from ipaddress import IPv4Interface  # rare, and slow to import

    return IPv4Interface(text)


def _ipv6_interface(text: str) -> Any:
    from ipaddress import IPv6Interface

    return IPv6Interface(text)


_DECODERS: dict[str, tuple[type[Any], Callable[[Any], Any]]] = {
    "$date": (int, lambda milliseconds: _EPOCH + timedelta(milliseconds=milliseconds)),
    "$time": (str, time.fromisoformat),
    "$set": (list, set),
    "$ipv4_interface": (str, _ipv4_interface),
    "$ipv6_interface": (str, _ipv6_interface),
}
_KINDS = {int: "an integer of milliseconds", str: "a text", list: "a list"}
