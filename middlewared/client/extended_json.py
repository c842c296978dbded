"""JSON with dates, times, sets and interface addresses (PROTOCOL section 4)."""

import json
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def loads(text: str | bytes) -> Any:
    """Decode. Raises ValueError, also for a special object with a malformed value."""
    return json.loads(text, object_hook=_decode)


def dumps(value: Any, indent: int | None = None) -> str:
    """Encode; times keep milliseconds. Raises TypeError for what has no place on the wire."""
    separators = (",", ":") if indent is None else None
    return json.dumps(value, default=_encode, separators=separators, indent=indent, ensure_ascii=False)


def _decode(value: dict[str, Any]) -> Any:
    if len(value) > 2:
        return value
    keys = set(value)
    try:
        if keys == {"$date"}:
            return _EPOCH + timedelta(milliseconds=value["$date"])
        if keys == {"$time"}:
            return time.fromisoformat(value["$time"])
        if keys == {"$set"}:
            return set(value["$set"])
        if keys == {"$type", "$value"} and value["$type"] == "date":
            return date.fromisoformat(value["$value"])
        if keys == {"$ipv4_interface"} or keys == {"$ipv6_interface"}:
            import ipaddress  # rare, and slow to import

            return ipaddress.ip_interface(*value.values())
    except (TypeError, OverflowError) as error:
        raise ValueError(f"malformed {value}: {error}") from error
    return value


def _encode(value: Any) -> Any:
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise TypeError("a datetime needs a time zone")
        return {"$date": (value - _EPOCH) // timedelta(milliseconds=1)}
    if isinstance(value, date):
        return {"$type": "date", "$value": value.isoformat()}
    if isinstance(value, time):
        return {"$time": value.isoformat()}
    if isinstance(value, set | frozenset):
        return {"$set": list(value)}
    if type(value).__name__ in ("IPv4Interface", "IPv6Interface"):
        return {f"$ipv{value.version}_interface": str(value)}
    raise TypeError(f"{type(value).__name__} cannot be sent")
