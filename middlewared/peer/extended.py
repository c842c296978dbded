"""Values that JSON lacks, in the form of PROTOCOL section 4, so that they cross the link unchanged. Pure."""

from typing import Any

from middlewared.extjson import decode_object


def revive(root: Any) -> Any:
    """Undo `encode_special` at any depth, in place. What only looks like a special object is left as it is: it is data.

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
        return decode_object(value)
    except ValueError:
        return value  # somebody's own object with a name like ours
