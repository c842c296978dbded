"""The store: durable, serialised, atomic, private."""

import asyncio
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import pytest

from middlewared.errors import CallError
from middlewared.store.database import Image, Store, StoreError, Transaction
from middlewared.store.history import Position
from middlewared.store.migrations import SCHEMA_VERSION


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await Store.open(tmp_path / "state" / "store.db")
    yield store
    await store.close()


def put(name: str, enabled: int = 1):
    def change(transaction: Transaction) -> None:
        transaction.execute("INSERT OR REPLACE INTO service_config (name, enabled) VALUES (?, ?)", (name, enabled))

    return change


def names(store: Store) -> list[str]:
    return [row["name"] for row in store.query("SELECT name FROM service_config ORDER BY name")]


async def test_a_new_store_has_its_rows_and_is_private(store: Store) -> None:
    assert store.query("SELECT * FROM failover_config") == [
        {"id": 1, "disabled": 0, "master_node": None, "timeout_s": 0}
    ]
    assert [row["groups"] for row in store.query("SELECT groups FROM privilege ORDER BY id")] == [
        '["builtin_administrators"]',
        '["readonly_administrators"]',
    ]
    assert store.position == Position(0, 0)
    await store.write(put("nfs"))
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in store.path.parent.iterdir()}
    assert modes == {"store.db": 0o600, "store.db-wal": 0o600, "store.db-shm": 0o600}
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700


async def test_durability_settings(store: Store) -> None:
    assert store._writer.pragma("synchronous") == 2  # FULL
    assert store._writer.pragma("journal_mode") == "wal"
    assert store._writer.pragma("foreign_keys") == 1


async def test_write_returns_the_result_and_advances_the_position(store: Store) -> None:
    def change(transaction: Transaction) -> int:
        transaction.execute("INSERT INTO user (username) VALUES ('eve')")
        return transaction.last_insert_id

    assert await store.write(change) == 1
    assert store.position == Position(0, 1)
    await store.begin_epoch()
    assert store.position == Position(1, 2)
    reopened = await Store.open(store.path)
    assert reopened.position == Position(1, 2)
    await reopened.close()


async def test_a_failed_change_leaves_nothing(store: Store) -> None:
    def change(transaction: Transaction) -> None:
        put("nfs")(transaction)
        raise CallError("no")

    with pytest.raises(CallError, match="no"):
        await store.write(change)
    assert (names(store), store.position) == ([], Position(0, 0))
    with pytest.raises(StoreError, match="UNIQUE"):
        await store.write(lambda t: t.execute("INSERT INTO privilege (name) VALUES ('Local Administrator')"))
    await store.write(put("smb"))
    assert names(store) == ["smb"]


async def test_a_change_of_nothing_is_no_change(store: Store) -> None:
    told: list[frozenset[str]] = []
    store.on_commit(told.append)
    await store.write(lambda t: t.execute("UPDATE service_config SET enabled = 1 WHERE name = 'none'"))
    assert (told, store.position) == ([], Position(0, 0))


async def test_listeners_hear_which_tables_changed(store: Store) -> None:
    told: list[frozenset[str]] = []

    def broken(tables: frozenset[str]) -> None:
        raise ValueError("a listener's own trouble")

    store.on_commit(broken)
    store.on_commit(told.append)
    await store.write(put("nfs"))
    await store.write(lambda t: t.execute("DELETE FROM service_config"))  # SQLite truncates here: no update hook
    await store.begin_epoch()
    assert told == [frozenset({"service_config"}), frozenset({"service_config"}), frozenset({"meta", "epoch"})]


async def test_reads_cannot_write(store: Store) -> None:
    with pytest.raises(StoreError, match="could not be read"):
        store.query("DELETE FROM privilege")


async def test_the_guard_refuses_before_anything_happens(store: Store) -> None:
    def standby() -> None:
        raise CallError("Controller A is active")

    store.guard = standby
    with pytest.raises(CallError, match="Controller A"):
        await store.write(put("nfs"))
    assert names(store) == []
    await store.restore((await store.snapshot()).data)
    await store.begin_epoch()
    assert store.position == Position(1, 1)


async def test_replication_is_awaited_after_the_commit(store: Store) -> None:
    seen: list[tuple[Position, list[str]]] = []

    async def replicate() -> None:
        seen.append((store.position, names(store)))

    store.replicate = replicate
    await store.write(put("nfs"))
    assert seen == [(Position(0, 1), ["nfs"])]


async def test_a_cancelled_caller_does_not_tear_a_write_apart(store: Store) -> None:
    started, go, replicated = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def replicate() -> None:
        started.set()
        await go.wait()
        replicated.set()

    store.replicate = replicate
    caller = asyncio.create_task(store.write(put("nfs")))
    await started.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    go.set()
    await replicated.wait()
    assert names(store) == ["nfs"]


async def test_concurrent_writes_are_serialised(store: Store) -> None:
    def increment(transaction: Transaction) -> None:
        value = transaction.execute("SELECT timeout_s FROM failover_config")[0]["timeout_s"]
        transaction.execute("UPDATE failover_config SET timeout_s = ?", (value + 1,))

    await asyncio.gather(*(store.write(increment) for _ in range(50)))
    assert store.query("SELECT timeout_s FROM failover_config") == [{"timeout_s": 50}]
    assert store.position == Position(0, 50)


async def test_writes_are_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("middlewared.store.database.WRITES_WAITING_MAX", 2)
    results = await asyncio.gather(*(store.write(put(str(n))) for n in range(5)), return_exceptions=True)
    assert [type(result) for result in results] == [type(None)] * 2 + [StoreError] * 3


async def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "store.db")
    await store.close()
    await store.close()
    with pytest.raises(StoreError, match="closed"):
        await store.write(put("nfs"))
    with pytest.raises(StoreError):
        store.query("SELECT 1")


async def test_a_store_from_the_future_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    await (await Store.open(path)).close()
    connection = apsw.Connection(str(path))
    connection.pragma("user_version", SCHEMA_VERSION + 1)
    connection.close()
    with pytest.raises(StoreError, match="newer version"):
        await Store.open(path)


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(b"hello, I am a text file" * 100)
    with pytest.raises(StoreError, match=r"store\.db"):
        await Store.open(path)


# ---------------------------------------------------------------------------------------------- images


async def test_snapshot_and_restore_copy_everything(store: Store, tmp_path: Path) -> None:
    other = await Store.open(tmp_path / "other" / "store.db")
    told: list[frozenset[str]] = []
    other.on_commit(told.append)
    await other.write(put("only-here"))
    await store.begin_epoch()
    for number in range(300):
        await store.write(put(f"service{number:03}"))
    await other.restore((await store.snapshot()).data)
    assert names(other) == names(store)
    assert other.position == store.position == Position(1, 301)
    assert {"user", "privilege", "service_config", "failover_config", "meta"} <= told[-1]
    await other.write(put("goes on"))
    assert other.position == Position(1, 302)
    await other.close()
    reopened = await Store.open(tmp_path / "other" / "store.db")
    assert "goes on" in names(reopened)
    assert reopened._writer.pragma("journal_mode") == "wal"
    await reopened.close()


async def test_an_open_reader_keeps_its_state_while_everything_is_replaced(store: Store, tmp_path: Path) -> None:
    other = await Store.open(tmp_path / "other" / "store.db")
    await other.write(lambda t: [put(f"old{n:04}")(t) for n in range(2000)])
    await store.write(lambda t: [put(f"new{n:04}")(t) for n in range(2000)])
    image = (await store.snapshot()).data
    reader = apsw.Connection(str(other.path))
    cursor = reader.execute("SELECT name FROM service_config")
    first = [next(cursor)[0] for _ in range(10)]
    await other.restore(image)
    rest = [name for (name,) in cursor]
    assert len(first + rest) == 2000
    assert all(name.startswith("old") for name in first + rest)
    assert all(name.startswith("new") for (name,) in reader.execute("SELECT name FROM service_config"))
    reader.close()
    await other.close()


def _cut(image: bytes) -> bytes:
    return image[: len(image) // 2]


def _cut_to_pages(image: bytes) -> bytes:
    """Cut at a page's end, with a header that admits it: only the integrity check can tell."""
    pages = len(image) // 4096 - 3
    return image[:28] + pages.to_bytes(4, "big") + image[32 : pages * 4096]


def _scribble(image: bytes) -> bytes:
    return image[:4096] + os.urandom(4096 * 2) + image[4096 * 3 :]


def _other_version(image: bytes) -> bytes:
    return image[:60] + (SCHEMA_VERSION + 1).to_bytes(4, "big") + image[64:]


@pytest.mark.parametrize(
    "damage", [_cut, _cut_to_pages, _scribble, _other_version, lambda _: b"", lambda _: b"x" * 8192]
)
async def test_a_damaged_image_changes_nothing(store: Store, damage) -> None:
    await store.write(put("nfs"))
    image = (await store.snapshot()).data
    await store.write(put("smb"))
    told: list[frozenset[str]] = []
    store.on_commit(told.append)
    with pytest.raises(StoreError, match="image"):
        await store.restore(damage(image))
    assert (names(store), store.position, told) == (["nfs", "smb"], Position(0, 2), [])


async def test_an_image_of_another_schema_is_refused(store: Store) -> None:
    source = apsw.Connection(":memory:")
    source.execute("CREATE TABLE meta (key, value)")
    source.pragma("user_version", SCHEMA_VERSION)
    with pytest.raises(StoreError, match="same version"):
        await store.restore(source.serialize("main"))
    assert len(store.query("SELECT * FROM privilege")) == 2


# ---------------------------------------------------------------------------------------------- kill -9

WRITER = """
import asyncio, sys
from pathlib import Path
from middlewared.store.database import Store

async def main():
    store = await Store.open(Path(sys.argv[1]))
    last = store.query("SELECT timeout_s FROM failover_config")[0]["timeout_s"]
    for number in range(last + 1, last + 100000):
        await store.write(lambda t: t.execute("UPDATE failover_config SET timeout_s = ?", (number,)))
        print(number, flush=True)

asyncio.run(main())
"""


async def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    acknowledged = 0
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(20):
            acknowledged = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        acknowledged = int((process.stdout.read().split() or [acknowledged])[-1])
        process.wait()
        store = await Store.open(path)
        found = store.query("SELECT timeout_s FROM failover_config")[0]["timeout_s"]
        await store.close()
        assert found in (acknowledged, acknowledged + 1)  # one may be committed and not yet announced
