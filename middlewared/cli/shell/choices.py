"""Values that exist at this moment: names of interfaces, users, services … Where they come from says the schema:
`"x-choices": {"method": "interface.query", "column": "id"}`."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from middlewared.cli.arguments import Schema, properties_of
from middlewared.cli.shell.session import Session
from middlewared.client.errors import ClientError
from middlewared.errors import CallError

FRESH_S = 5.0
ANSWER_S = 2.0  # Tab shall not hang
CHOICES_MAX = 500


class Choices(NamedTuple):
    method: str
    column: str = "id"


_known: WeakKeyDictionary[Session, dict[Choices, tuple[float, list[str]]]] = WeakKeyDictionary()


def of(schema: Schema) -> Choices | None:
    """Where the values of this argument, or of the items of its list, can be looked up."""
    for each in (schema, *(schema.get("items") or [])):
        if isinstance(each, dict) and each.get("x-choices"):
            return Choices(each["x-choices"]["method"], each["x-choices"].get("column", "id"))
    return None


def choices_of(schema: Schema, path: str = "") -> Iterator[tuple[str, Choices]]:
    """(dotted path, where to look) of everything in a parameter that has choices."""
    here = f"{path}.{schema['_name_']}".lstrip(".")
    if (found := of(schema)) is not None:
        yield here, found
    for member in properties_of(schema):
        yield from choices_of(member, here)


async def live(session: Session, wanted: Choices) -> list[str]:
    """The values as texts; none when the server does not say, or this user may not ask."""
    known = _known.setdefault(session, {})
    when, values = known.get(wanted, (float("-inf"), []))
    if time.monotonic() - when > FRESH_S:
        values = []
        with contextlib.suppress(CallError, ClientError):
            values = _texts(await session.call(wanted.method, timeout_s=ANSWER_S), wanted.column)
        known[wanted] = (time.monotonic(), values)
    return values


def _texts(result: Any, column: str) -> list[str]:
    """A list of texts, the keys of an object, or a column of rows."""
    items = list(result) if isinstance(result, list | dict) else []
    found = [item.get(column) if isinstance(item, dict) else item for item in items]
    return [str(item) for item in found if item is not None][:CHOICES_MAX]
