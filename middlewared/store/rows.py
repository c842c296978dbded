"""Rows as dicts, whatever connection they come from."""

from typing import Any

import apsw

from middlewared.store.lineage import Epoch, Line, Position

Row = dict[str, Any]


def prepare(connection: apsw.Connection) -> apsw.Connection:
    """What every connection of the store needs, wherever it leads."""
    connection.pragma("foreign_keys", True)
    connection.pragma("secure_delete", True)  # a secret that was plain is not left in the free space of the file
    connection.row_trace = _row
    return connection


def rows(connection: apsw.Connection, sql: str, params: tuple[Any, ...] = ()) -> list[Row]:
    """The rows of a prepared connection. Raises apsw.Error."""
    found: list[Row] = list(connection.execute(sql, params))  # the row trace makes them dicts
    return found


def _row(cursor: apsw.Cursor, values: tuple[Any, ...]) -> Row:
    return {column[0]: value for column, value in zip(cursor.get_description(), values, strict=True)}


# ---------------------------------------------------------------------------------------------- what each store says


def read_position(connection: apsw.Connection) -> Position:
    """Raises KeyError where it has none."""
    meta = {row["key"]: row["value"] for row in rows(connection, "SELECT key, value FROM meta")}
    return Position(meta["epoch"], meta["seq"])


def read_line(connection: apsw.Connection) -> Line:
    found = rows(connection, "SELECT epoch, base_seq FROM epoch ORDER BY epoch")
    return Line(read_position(connection), tuple(Epoch(row["epoch"], row["base_seq"]) for row in found))


def read_leader(connection: apsw.Connection) -> str | None:
    found = rows(connection, "SELECT node FROM epoch ORDER BY epoch DESC LIMIT 1")
    return found[0]["node"] if found else None


def read_schema(connection: apsw.Connection) -> list[tuple[str, str, str]]:
    """(type, name, sql) of everything in it, sorted."""
    found = rows(connection, "SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY 1, 2")
    return [(row["type"], row["name"], row["sql"]) for row in found]
