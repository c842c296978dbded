"""Filters and options of query methods (PROTOCOL 8), over rows in memory. Pure."""

import functools
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import jsonschema_rs

from middlewared.errors import MatchNotFound, invalid
from middlewared.rpc.limits import PATTERN_BYTES_MAX, QUERY_DEPTH_MAX, QUERY_ROWS_MAX

Row = Mapping[str, Any]
Test = Callable[[Row], bool]

MISSING: Any = object()

FILTERS_SCHEMA: dict[str, Any] = {
    "type": "array",
    "default": [],
    "items": {"type": "array"},
    "description": 'Conditions that must all hold: [field, operator, value], or ["OR"|"AND", [...]], ["NOT", ...].',
}

OPTIONS_SCHEMA: dict[str, Any] = {
    "type": "object",
    "default": {},
    "additionalProperties": False,
    "description": "What to return of the matches, and in which order.",
    "properties": {
        "select": {
            "type": "array",
            "default": [],
            "description": "Fields to return, or [field, new name] pairs; empty: all.",
            "items": {
                "anyOf": [
                    {"type": "string"},
                    {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 2},
                ]
            },
        },
        "order_by": {
            "type": "array",
            "default": [],
            "items": {"type": "string"},
            "description": "Fields to sort by; `-` sorts downwards, `nulls_first:` or `nulls_last:` comes before it.",
        },
        "limit": {
            "type": "integer",
            "default": 0,
            "minimum": 0,
            "maximum": QUERY_ROWS_MAX,
            "description": "At most so many matches; 0: all.",
        },
        "offset": {"type": "integer", "default": 0, "minimum": 0, "description": "Skip so many matches."},
        "count": {"type": "boolean", "default": False, "description": "Return the number of matches alone."},
        "get": {"type": "boolean", "default": False, "description": "Return the first match itself; none is an error."},
        "extra": {
            "type": "object",
            "default": {},
            "additionalProperties": True,
            "description": "Options of the method itself.",
        },
    },
}


def apply(rows: Iterable[Row], filters: list[Any], options: Mapping[str, Any]) -> Any:
    """Rows that match, a count, or one row (`get`). Raises ValidationErrors, MatchNotFound."""
    test = _all(filters, 0)
    matches = [row for row in rows if test(row)]
    if options.get("count"):
        return len(matches)
    for order in reversed(options.get("order_by") or []):
        matches = _sorted(matches, order)
    matches = matches[options.get("offset") or 0 :]
    if options.get("limit"):
        matches = matches[: options["limit"]]
    if options.get("select"):
        matches = [_selected(row, options["select"]) for row in matches]
    if not options.get("get"):
        return matches
    if not matches:
        raise MatchNotFound
    return matches[0]


# ------------------------------------------------------------------------------------------------ fields


@functools.lru_cache(maxsize=1024)
def _parts(field: str) -> tuple[str, ...]:
    """`a.b` -> a, b; a dot after a backslash belongs to the name."""
    return tuple(part.replace("\\.", ".") for part in re.split(r"(?<!\\)\.", field))


def _values(value: Any, parts: tuple[str, ...]) -> Iterator[Any]:
    """Every value the path leads to: several after `*`, none where there is nothing."""
    if not parts:
        yield value
        return
    head, rest = parts[0], parts[1:]
    if isinstance(value, Mapping):
        if head in value:
            yield from _values(value[head], rest)
    elif isinstance(value, list | tuple):
        if head == "*":
            for item in value:
                yield from _values(item, rest)
        elif head.isdecimal() and int(head) < len(value):
            yield from _values(value[int(head)], rest)


def _value(row: Row, field: str) -> Any:
    return next(_values(row, _parts(field)), None)


# ----------------------------------------------------------------------------------------------- filters


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    """A comparison that things without a common order fail."""

    def test(x: Any, y: Any) -> bool:
        try:
            return bool(compare(x, y))
        except TypeError:
            return False

    return test


def _contained(x: Any, y: Any) -> bool:
    return x in y


_TESTS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    ">": _ordered(operator.gt),
    ">=": _ordered(operator.ge),
    "<": _ordered(operator.lt),
    "<=": _ordered(operator.le),
    "in": _ordered(_contained),
    "nin": lambda x, y: not _ordered(_contained)(x, y),
    "rin": _ordered(lambda x, y: x is not None and y in x),
    "rnin": _ordered(lambda x, y: x is not None and y not in x),
    "^": lambda x, y: isinstance(x, str) and x.startswith(y),
    "!^": lambda x, y: isinstance(x, str) and not x.startswith(y),
    "$": lambda x, y: isinstance(x, str) and x.endswith(y),
    "!$": lambda x, y: isinstance(x, str) and not x.endswith(y),
}
_COMPARISONS = {"=", "!=", ">", ">=", "<", "<="}


def _fold(value: Any) -> Any:
    if isinstance(value, str):
        return value.casefold()
    if isinstance(value, list | tuple):
        return [_fold(item) for item in value]
    return value


def _matcher(pattern: str, ignore_case: bool) -> Callable[[Any], bool]:
    """A regular expression in time linear in the text: Python's own would let one pattern stop the whole daemon."""
    source = f"{'(?i)' if ignore_case else ''}^(?:{pattern})"
    options = jsonschema_rs.RegexOptions(size_limit=PATTERN_BYTES_MAX, dfa_size_limit=PATTERN_BYTES_MAX)
    try:
        validator = jsonschema_rs.validator_for({"pattern": source}, pattern_options=options)
    except (jsonschema_rs.ValidationError, ValueError) as error:
        raise invalid("filters", "Not a regular expression that is supported here (no look-around)") from error
    return lambda text: isinstance(text, str) and validator.is_valid(text)


def _all(filters: Any, depth: int) -> Test:
    if not isinstance(filters, list):
        raise invalid("filters", "Input should be a valid list of filters")
    tests = [_test(item, depth) for item in filters]
    return lambda row: all(test(row) for test in tests)


def _branch(item: Any, depth: int) -> Test:
    """One filter, or a list of filters that must all match."""
    if isinstance(item, list) and all(isinstance(inner, list) for inner in item):
        return _all(item, depth)
    return _test(item, depth)


def _test(item: Any, depth: int) -> Test:
    if not isinstance(item, list) or not item or not isinstance(item[0], str):
        raise invalid("filters", "A filter is [field, operator, value]")
    if len(item) == 2 and item[0] in ("OR", "AND", "NOT"):
        if depth >= QUERY_DEPTH_MAX:
            raise invalid("filters", f"Filters may be nested {QUERY_DEPTH_MAX} deep")
        if item[0] == "NOT":
            inner = _branch(item[1], depth + 1)
            return lambda row: not inner(row)
        if not isinstance(item[1], list):
            raise invalid("filters", f"{item[0]} takes a list of filters")
        branches = [_branch(branch, depth + 1) for branch in item[1]]
        combine = any if item[0] == "OR" else all
        return lambda row: combine(branch(row) for branch in branches)
    if len(item) != 3 or not isinstance(item[1], str):
        raise invalid("filters", "A filter is [field, operator, value]")
    return _field_test(*item)


def _field_test(field: str, operation: str, given: Any) -> Test:
    ignore_case = operation.startswith("C")
    name = operation[1:] if ignore_case else operation
    parts = _parts(field)
    if parts[-1] == "$date" and name in _COMPARISONS and isinstance(given, str):
        parts, given = parts[:-1], _moment(given)
    if name == "~":
        check = _matcher(str(given), ignore_case)
    else:
        check = _comparison(name, operation, _fold(given) if ignore_case else given, ignore_case)
    if "*" in parts:
        return lambda row: any(check(value) for value in _values(row, parts))
    return lambda row: check(next(_values(row, parts), None))


def _comparison(name: str, operation: str, given: Any, ignore_case: bool) -> Callable[[Any], bool]:
    if name not in _TESTS:
        raise invalid("filters", f"Unknown operator {operation!r}")
    if name in ("in", "nin") and not isinstance(given, list | set | str):
        raise invalid("filters", f"{operation} takes a list")
    if name in ("^", "!^", "$", "!$") and not isinstance(given, str):
        raise invalid("filters", f"{operation} takes a string")
    test = _TESTS[name]
    if ignore_case:
        return lambda value: test(_fold(value), given)
    return lambda value: test(value, given)


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise invalid("filters", "Not a time in ISO 8601 form") from error
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


# ----------------------------------------------------------------------------------------------- options


def _sort_key(value: Any) -> tuple[str, Any]:
    """Values of one kind sort among themselves, kinds sort by name: a mixed column is no error."""
    if isinstance(value, bool | int | float):
        return "", value
    if isinstance(value, str | datetime):
        return type(value).__name__, value
    return "~", str(value)


def _sorted(rows: list[Row], order: str) -> list[Row]:
    nulls, _, field = order.rpartition(":") if order.startswith("nulls_") else ("", "", order)
    if nulls not in ("", "nulls_first", "nulls_last"):
        raise invalid("options.order_by", f"Unknown prefix {nulls!r}")
    downwards = field.startswith("-")
    field = field.removeprefix("-")
    keyed = [(_value(row, field), row) for row in rows]
    empty = [row for value, row in keyed if value is None]
    full = [(value, row) for value, row in keyed if value is not None]
    full.sort(key=lambda pair: _sort_key(pair[0]), reverse=downwards)
    first = nulls == "nulls_first" or (nulls == "" and not downwards)
    ordered = [row for _, row in full]
    return empty + ordered if first else ordered + empty


def _selected(row: Row, select: list[Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for item in select:
        field, name = (item, None) if isinstance(item, str) else item
        found = next(_values(row, _parts(field)), MISSING)
        if found is MISSING:
            continue
        if name is not None:
            result[name] = found
            continue
        *outer, last = _parts(field)
        target = result
        for part in outer:
            inner = target.setdefault(part, {})
            if not isinstance(inner, dict):
                break
            target = inner
        else:
            target[last] = found
    return result
