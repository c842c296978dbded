"""What two stores have to agree on: everything that is in them."""

import itertools

import apsw

Dump = dict[str, list[tuple[object, ...]]]


def dump(connection: apsw.Connection) -> Dump:
    """Every row of every table, SQLite's own among them, sorted: by table name."""
    tables = [str(row[0]) for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    return {name: sorted(connection.execute(f'SELECT * FROM "{name}"'), key=repr) for name in tables}


def differences(one: Dump, other: Dump) -> dict[str, list[tuple[object, ...]]]:
    """By table, the rows that only one of them has."""
    found = {
        name: sorted(set(one.get(name, ())) ^ set(other.get(name, ())), key=repr) for name in one.keys() | other.keys()
    }
    return {name: rows for name, rows in found.items() if rows}


def check_log(rows: Dump) -> None:
    """Each entry of the log leads on from the one before, once, and the last one to where the store is."""
    meta = {str(key): value for key, value in rows["meta"]}
    entries = sorted(rows["log"])  # by seq, their first column
    for (seq, epoch, *_), (next_seq, _, epoch_before, *_) in itertools.pairwise(entries):
        assert (next_seq, epoch_before) == (seq + 1, epoch), f"a gap after change {seq} of epoch {epoch}"
    if entries:
        assert entries[-1][:2] == (meta["seq"], meta["epoch"]), (
            f"the log ends at {entries[-1][:2]}, the store is at {meta}"
        )
