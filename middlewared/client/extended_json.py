"""Extended JSON by the standard library, whose import costs a one-shot command less than orjson's."""

import json
from datetime import datetime
from typing import Any

from middlewared.extjson import decode_object, encode_special


def loads(text: str | bytes) -> Any:
    """Decode. Raises ValueError, also for a special object with a malformed value."""
    return json.loads(text, object_hook=decode_object)


def dumps(value: Any, indent: int | None = None) -> str:
    """Encode; times keep milliseconds. Raises TypeError for what has no place on the wire."""
    separators = (",", ":") if indent is None else None
    return json.dumps(value, default=_encode, separators=separators, indent=indent, ensure_ascii=False)


def _encode(value: Any) -> Any:
    if isinstance(value, datetime) and value.tzinfo is None:
        raise TypeError("a datetime needs a time zone")  # the caller's own is not the server's
    return encode_special(value)
