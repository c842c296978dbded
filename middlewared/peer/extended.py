"""Values that JSON lacks, in the form of PROTOCOL section 4, so that they cross the link unchanged. Pure."""

import ipaddress
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def plain(value: Any) -> Any:
    """The JSON form of one value that JSON does not know. Raises TypeError when there is none."""
    match value:
        case datetime():
            moment = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
            return {"$date": (moment - EPOCH) // timedelta(milliseconds=1)}
        case date():
            return {"$type": "date", "$value": value.isoformat()}
        case time():
            return {"$time": value.isoformat()}
        case set() | frozenset():
            return {"$set": list(value)}
        case ipaddress.IPv4Interface():
            return {"$ipv4_interface": str(value)}
        case ipaddress.IPv6Interface():
            return {"$ipv6_interface": str(value)}
    raise TypeError(f"{type(value).__name__} has no JSON form")


# Key -> type of the content, and the way back.
_REVIVERS: dict[str, tuple[type[Any], Callable[[Any], Any]]] = {
    "$date": (int, lambda value: EPOCH + timedelta(milliseconds=value)),
    "$time": (str, time.fromisoformat),
    "$set": (list, set),
    "$ipv4_interface": (str, ipaddress.IPv4Interface),
    "$ipv6_interface": (str, ipaddress.IPv6Interface),
}


def revive(root: Any) -> Any:
    """Undo `plain` at any depth, in place. What only looks like a special object is left as it is: it is data.

    Containers are listed parents first and treated in reverse, so depth costs no stack.
    """
    holder = [root]
    containers: list[Any] = [holder]
    for container in containers:  # grows while we walk
        children = container.values() if isinstance(container, dict) else container
        containers.extend(child for child in children if isinstance(child, dict | list))
    for container in reversed(containers):
        for key, child in container.items() if isinstance(container, dict) else enumerate(container):
            if isinstance(child, dict) and 1 <= len(child) <= 2:
                container[key] = _special(child)
    return holder[0]


def _special(value: dict[str, Any]) -> Any:
    try:
        if value.keys() == {"$type", "$value"} and value["$type"] == "date":
            return date.fromisoformat(value["$value"])
        if len(value) == 1:
            [(key, content)] = value.items()
            kind, restore = _REVIVERS.get(key, (None, None))
            if restore is not None and type(content) is kind:
                return restore(content)
    except (ValueError, TypeError, OverflowError):
        pass  # somebody's own object with a name like ours
    return value
