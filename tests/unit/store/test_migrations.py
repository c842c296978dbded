"""Every step up: a store as each version left it, with data in it, is brought to the next one and to today's."""

from pathlib import Path
from typing import Any

import apsw
import pytest

from middlewared.store.database import Store, Transaction
from middlewared.store.migrations import MIGRATIONS, SCHEMA_VERSION
from middlewared.store.rows import read_schema

_USER = "INSERT INTO user (id, username, password_hash, groups) VALUES (7, 'alice', 'hash', '[\"wheel\"]');"
_KEY = """
INSERT INTO api_key (id, name, username, salt, iterations, stored_key, server_key, created_at_ms)
    VALUES (9, 'backup', 'alice', 's', 4096, 'k', 'v', 1700000000000);
"""
_OTHERS = """
UPDATE failover_config SET disabled = 1, master_node = 'B', timeout_s = 5;
INSERT INTO service_config (name, enabled) VALUES ('nfs', 1), ('smb', 0);
INSERT INTO privilege (name, roles) VALUES ('Auditors', '["AUDIT_READ"]');
INSERT INTO alert_dismissed VALUES ('7e1f', 1700000000000);
"""
_INTERFACE_1 = """
INSERT INTO interface_config (name, critical, failover_group, aliases, virtual_aliases)
    VALUES ('eth0', 1, 2, '["192.0.2.3/24"]', '["192.0.2.10/24"]');
"""
_INTERFACE_3 = """
INSERT INTO interface_config (name, critical, failover_group, own_aliases, virtual_aliases)
    VALUES ('eth0', 1, 2, '{"A": ["192.0.2.3/24"]}', '["192.0.2.10/24"]');
INSERT INTO interface_links VALUES ('STAGED', '[]', NULL);
"""
_EPOCHS = "INSERT INTO epoch VALUES (10, 3, 'A'), (13, 5, 'B');"
_POSITION = "UPDATE meta SET value = 13 WHERE key = 'epoch'; UPDATE meta SET value = 6 WHERE key = 'seq';"
_SERVICE_4 = "UPDATE service_config SET unit = 'nfs-server.service', start_order = 10, critical = 0 WHERE name = 'nfs';"
_COMMON = _USER + _KEY + _OTHERS + _POSITION

# What an administrator had in a store of each version, in that version's own columns.
DATA = {
    1: _COMMON + _INTERFACE_1,
    2: _COMMON + _INTERFACE_1 + _EPOCHS,
    3: _COMMON + _INTERFACE_3 + _EPOCHS,
    4: _COMMON + _INTERFACE_3 + _EPOCHS + _SERVICE_4,
}
# What later versions took away: `aliases` was never asked for before own_aliases took its place.
DROPPED = {3: {"interface_config": {"aliases"}}}


def store_of(version: int, path: Path) -> apsw.Connection:
    """Made by the scripts of that time, with data."""
    connection = apsw.Connection(str(path))
    for number, script in enumerate(MIGRATIONS[:version]):
        connection.execute(f"BEGIN; {script}; PRAGMA user_version = {number + 1}; COMMIT")
    connection.pragma("foreign_keys", True)
    connection.execute(DATA.get(version, ""))
    return connection


def content(connection: apsw.Connection) -> dict[str, list[dict[str, Any]]]:
    """By table, its rows."""
    tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    found: dict[str, list[dict[str, Any]]] = {}
    for table in tables:
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        found[table] = [
            dict(zip(columns, row, strict=True)) for row in connection.execute(f"SELECT * FROM {table} ORDER BY 1")
        ]
    return found


def without(rows: list[dict[str, Any]], columns: set[str]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in columns} for row in rows]


def test_every_version_before_todays_is_tried() -> None:
    assert set(DATA) == set(range(1, SCHEMA_VERSION))


@pytest.mark.parametrize("version", DATA)
def test_one_step_keeps_what_was_there(tmp_path: Path, version: int) -> None:
    connection = store_of(version, tmp_path / "store.db")
    before = content(connection)
    connection.execute(f"BEGIN; {MIGRATIONS[version]}; COMMIT")
    after = content(connection)
    assert connection.pragma("integrity_check") == "ok"
    assert list(connection.execute("PRAGMA foreign_key_check")) == []
    for table, rows in before.items():
        dropped = DROPPED.get(version + 1, {}).get(table, set())
        new = set(after[table][0]) - set(rows[0]) if rows else set()
        assert without(after[table], new) == without(rows, dropped), table


@pytest.mark.parametrize("version", DATA)
async def test_a_store_of_each_version_works_today(tmp_path: Path, version: int) -> None:
    path = tmp_path / "store.db"
    connection = store_of(version, path)
    before = content(connection)
    connection.close()
    store, fresh = await Store.open(path), await Store.open(tmp_path / "fresh.db")
    assert read_schema(store._writer) == read_schema(fresh._writer), "else no copy would be taken over"
    assert store.position == (13, 6)
    assert store.query("SELECT username, name FROM api_key") == [{"username": "alice", "name": "backup"}]
    assert store.query("SELECT virtual_aliases FROM interface_config")[0]["virtual_aliases"] == '["192.0.2.10/24"]'
    assert [row["name"] for row in store.query("SELECT name FROM service_config ORDER BY name")] == ["nfs", "smb"]
    assert len(store.query("SELECT * FROM privilege")) == len(before["privilege"]) == 3

    def rename(transaction: Transaction) -> None:
        transaction.execute("UPDATE user SET username = 'bob' WHERE id = 7")

    await fresh.restore((await store.snapshot()).data)
    await store.write(rename)
    entries = store.entries_after(fresh.position)
    assert entries is not None
    await fresh.apply(entries)
    assert fresh.query("SELECT username FROM api_key") == [{"username": "bob"}]
    await store.close()
    await fresh.close()


@pytest.mark.parametrize("version", DATA)
async def test_a_step_that_fails_leaves_the_store_as_it_was(
    tmp_path: Path, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store.db"
    connection = store_of(version, path)
    before = content(connection)
    broken = list(MIGRATIONS)
    broken[version] += "; INSERT INTO no_such_table VALUES (1)"
    monkeypatch.setattr("middlewared.store.database.MIGRATIONS", broken)
    with pytest.raises(Exception, match="no_such_table"):
        await Store.open(path)
    assert (connection.pragma("user_version"), content(connection)) == (version, before)
    connection.close()
