"""Results as text: table, csv and json (PROTOCOL 10.3, 10.4)."""

import re
from typing import Any

CELL_CHARACTERS_MAX = 64
_MISSING = object()
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def render(result: Any, mode: str, *, whole: bool = False) -> str:
    """The whole output, line ends included.

    `whole`, in a table: long lines are wrapped, not cut, and rows inside a record or a cell are shown. It is for
    results that are read by humans first; their schemas say `x-cli-whole`.
    """
    if mode == "json":
        return as_json(result) + "\n"
    return _csv(result) if mode == "csv" else _whole_table(result) if whole else _table(result)


def as_json(result: Any, indent: int | None = 2) -> str:
    """JSON for programs; dates and sets as on the wire."""
    from middlewared.client import extended_json

    return extended_json.dumps(result, indent)


def _table(result: Any) -> str:
    if isinstance(result, list | set | tuple):
        rows = list(result)
        if not rows:
            return "(empty list)\n"
        if all(isinstance(row, dict) for row in rows):
            columns = _columns(rows)
            cells = [[_cell(row.get(column, _MISSING)) for column in columns] for row in rows]
            return _grid([columns, *cells], header=True)
        return "".join(_scalar(row) + "\n" for row in rows)
    if isinstance(result, dict):
        if not result:
            return "(empty object)\n"
        return _grid([[key, _cell(value)] for key, value in result.items()], header=False)
    return "\n" if result is None else _scalar(result) + "\n"


def _whole_table(result: Any) -> str:
    """As `_table`, but nothing is left out; rows inside a record come below it, under their name."""
    if not isinstance(result, dict):
        return _table([_opened(row) for row in result] if isinstance(result, list) else result)
    below = {key: value for key, value in result.items() if _is_rows(value)}
    text = _table(_opened({key: value for key, value in result.items() if key not in below}))
    return text + "".join(f"\n{printable(key)}\n{_whole_table(rows)}" for key, rows in below.items())


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and value != [] and all(isinstance(item, dict) for item in value)


def _opened(value: Any) -> Any:
    """The record with texts wrapped to a cell's width, and rows inside it as lines of what they hold."""
    import textwrap

    if isinstance(value, dict):
        return {key: _opened(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_opened(" ".join(_words(item)) if isinstance(item, dict) else item) for item in value]
    if isinstance(value, str):
        return "\n".join(textwrap.fill(line, CELL_CHARACTERS_MAX) for line in value.split("\n"))
    return value


def _words(row: dict[str, Any]) -> list[str]:
    """What a row says, without its keys, but with the unit that a key ends in."""
    return [
        _scalar(value) + (" ms" if key.endswith("_ms") else "") for key, value in row.items() if value not in (None, "")
    ]


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return printable(value)
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    return as_json(value, indent=None)


def _cell(value: Any) -> str:
    if value is _MISSING:
        return "<undefined>"
    if value is None:
        return "<null>"
    if isinstance(value, dict):
        return "<dict>"
    if isinstance(value, list | set | tuple):
        items = list(value)
        if not items:
            return "<empty list>"
        if any(isinstance(item, dict | list) for item in items):
            return "<list>"
        return "\n".join(_cell(item) for item in items)
    return "\n".join(_cut(line) for line in _scalar(value).split("\n"))


def _cut(line: str) -> str:
    return line if len(line) <= CELL_CHARACTERS_MAX else line[: CELL_CHARACTERS_MAX - 3] + "..."


def printable(text: str) -> str:
    """What a server sends does not command the terminal: control characters are shown, not sent."""
    return _CONTROL.sub(lambda match: match.group().encode("unicode_escape").decode(), text)


def _columns(rows: list[dict[str, Any]]) -> list[str]:
    """The union of all keys; one that shows up late goes right after the key before it in its row."""
    columns: list[str] = []
    for row in rows:
        place = 0
        for key in row:
            if key in columns:
                place = columns.index(key) + 1
            else:
                columns.insert(place, key)
                place += 1
    return columns


def _grid(rows: list[list[str]], *, header: bool) -> str:
    """Rows of cells in a frame. Without header the first column holds the names, right-aligned."""
    lines = [[cell.split("\n") for cell in row] for row in rows]
    widths = [max(_width(line) for row in lines for line in row[column]) for column in range(len(rows[0]))]
    frame = "+" + "+".join("-" * (width + 2) for width in widths) + "+\n"
    text = frame
    for number, row in enumerate(lines):
        for height in range(max(len(cell) for cell in row)):
            text += "|"
            for column, cell in enumerate(row):
                line = cell[height] if height < len(cell) else ""
                space = " " * (widths[column] - _width(line))
                text += f" {space}{line} |" if column == 0 and not header else f" {line}{space} |"
            text += "\n"
        if header and number == 0:
            text += frame
    return text + frame


def _width(line: str) -> int:
    """Columns on the terminal: CJK characters take two, combining marks none."""
    if line.isascii():
        return len(line)
    import unicodedata

    wide = sum(unicodedata.east_asian_width(each) in "WF" for each in line)
    return len(line) + wide - sum(unicodedata.combining(each) > 0 for each in line)


def _csv(result: Any) -> str:
    """Lines end in CRLF (RFC 4180); records have a header; an empty result is no line at all."""
    import csv
    import io

    rows = [result] if isinstance(result, dict) else list(result) if isinstance(result, list | set | tuple) else None
    if rows is None:
        return "" if result is None else _csv([result])
    text = io.StringIO()
    writer = csv.writer(text)
    if rows and all(isinstance(row, dict) for row in rows):
        columns = _columns(rows)
        if columns:
            writer.writerow(columns)
            writer.writerows([_field(row.get(column, "")) for column in columns] for row in rows)
    else:
        writer.writerows([_field(row)] for row in rows)
    return text.getvalue()


def _field(value: Any) -> str:
    if isinstance(value, str):
        return value
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    return as_json(value, indent=None)
