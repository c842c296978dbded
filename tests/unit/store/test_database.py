"""The store: durable, serialised, atomic, private."""

import asyncio
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import pytest
from support.stores import check_log, dump

from middlewared.errors import CallError
from middlewared.store.database import Store, Transaction
from middlewared.store.errors import StoreError
from middlewared.store.image import Image
from middlewared.store.lineage import Position
from middlewared.store.migrations import MIGRATIONS, SCHEMA_VERSION


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
    assert told == [frozenset({"service_config"}), frozenset({"service_config"}), frozenset({"epoch"})]


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

    async def replicate(position: Position) -> None:
        seen.append((position, names(store)))

    store.replicate = replicate
    await store.write(put("nfs"))
    assert seen == [(Position(0, 1), ["nfs"])]


async def test_a_cancelled_caller_does_not_tear_a_write_apart(store: Store) -> None:
    started, go, replicated = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def replicate(_: Position) -> None:
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


@pytest.mark.parametrize("in_memory_bytes_max", [0, 1 << 30], ids=["large", "small"])
async def test_large_images_lie_in_files_that_go_away(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory_bytes_max: int
) -> None:
    monkeypatch.setattr("middlewared.store.image.IN_MEMORY_BYTES_MAX", in_memory_bytes_max)
    other = await Store.open(tmp_path / "other" / "store.db")
    await other.begin_epoch(11, "B")
    await other.write(put("only-there"))
    await store.write(lambda t: [put(f"new{n:04}")(t) for n in range(2000)])
    kept: list[Image] = []
    await other.restore((await store.snapshot()).data, kept.append)
    assert len(names(other)) == 2000
    assert bytes(kept[0].data[:15]) == b"SQLite format 3"
    await store.restore(bytearray(kept[0].data))
    assert names(store) == ["only-there"]
    for folder in (store.path.parent, other.path.parent):
        assert {path.name for path in folder.iterdir()} <= {"store.db", "store.db-wal", "store.db-shm"}
    await other.close()


async def test_what_a_killed_program_left_of_an_image_goes_at_the_next_start(store: Store) -> None:
    draft = store.path.parent / "image-abc.new"
    draft.write_bytes(b"half")
    await (await Store.open(store.path)).close()
    assert not draft.exists()


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


# ---------------------------------------------------------------------------------------------- epochs


def epochs(store: Store) -> list[tuple[int, int, str | None]]:
    return [(row["epoch"], row["base_seq"], row["node"]) for row in store.query("SELECT * FROM epoch ORDER BY epoch")]


async def test_epochs_are_recorded_with_where_they_began(store: Store) -> None:
    await store.write(put("nfs"))
    await store.begin_epoch()
    assert store.leader is None
    await store.write(put("smb"))
    await store.begin_epoch(100, "A")
    assert epochs(store) == [(1, 1, None), (100, 3, "A")]
    assert (store.position, store.leader) == (Position(100, 4), "A")
    reopened = await Store.open(store.path)
    assert (reopened.position, reopened.leader) == (Position(100, 4), "A")
    await reopened.close()


@pytest.mark.parametrize(("wanted", "begun"), [(101, 101), (100, 102), (99, 101), (98, 102), (2, 102), (-5, 101)])
async def test_a_number_that_is_too_small_is_raised_and_stays_even_or_odd(
    store: Store, wanted: int, begun: int
) -> None:
    await store.begin_epoch(100, "A")
    await store.begin_epoch(wanted, "B")
    assert store.position.epoch == begun


async def test_old_epochs_are_forgotten(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("middlewared.store.database.EPOCHS_KEPT", 3)
    for _ in range(5):
        await store.begin_epoch()
    assert [row[0] for row in epochs(store)] == [3, 4, 5]


async def test_no_write_is_faster_than_the_epoch_that_was_asked_for(store: Store) -> None:
    begun = store.begin_epoch(10, "A")
    await store.write(put("nfs"))
    assert (epochs(store), store.position) == ([(10, 0, "A")], Position(10, 2))
    await begun
    assert (epochs(store), store.position) == ([(10, 0, "A")], Position(10, 2))


async def test_an_epoch_that_could_not_begin_begins_with_the_next_write(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StoreError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr("middlewared.store.database._begin_epoch", full)
        with pytest.raises(StoreError, match="no space"):
            await store.begin_epoch(10, "A")
        with pytest.raises(StoreError, match="no space"):
            await store.write(put("nfs"))
    assert (names(store), store.position) == ([], Position(0, 0))
    await store.write(put("nfs"))
    assert store.position == Position(10, 2)


async def test_a_store_of_version_1_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    connection = apsw.Connection(str(path))
    connection.execute(MIGRATIONS[0] + "UPDATE meta SET value = 7; PRAGMA user_version = 1")
    connection.close()
    store = await Store.open(path)
    assert (store.position, store.leader, epochs(store)) == (Position(7, 7), None, [])
    fresh = await Store.open(tmp_path / "fresh.db")
    await fresh.restore((await store.snapshot()).data)
    assert fresh.position == Position(7, 7)
    await fresh.close()
    await store.close()


# ---------------------------------------------------------------------------------------------- what restore replaces


@pytest.fixture
async def other(tmp_path: Path) -> AsyncIterator[Store]:
    other = await Store.open(tmp_path / "other" / "store.db")
    yield other
    await other.close()


async def test_what_the_image_contains_is_not_kept(store: Store, other: Store) -> None:
    kept: list[Image] = []
    await store.begin_epoch(10, "A")
    await store.write(put("nfs"))
    await other.restore((await store.snapshot()).data, kept.append)
    await store.begin_epoch(12, "A")
    await store.write(put("smb"))
    await other.restore((await store.snapshot()).data, kept.append)
    assert (kept, names(other)) == ([], ["nfs", "smb"])


async def test_what_the_image_lacks_is_kept_first(store: Store, other: Store, tmp_path: Path) -> None:
    kept: list[Image] = []
    await store.begin_epoch(10, "A")
    await other.restore((await store.snapshot()).data, kept.append)
    await other.begin_epoch(11, "B")
    await store.write(put("only on the former master"))
    await other.write(put("nfs"))
    await store.restore((await other.snapshot()).data, kept.append)
    [image] = kept
    assert (image.position, names(store)) == (Position(10, 2), ["nfs"])
    (tmp_path / "kept.db").write_bytes(image.data)
    found = apsw.Connection(str(tmp_path / "kept.db")).execute("SELECT name FROM service_config")
    assert list(found) == [("only on the former master",)]


async def test_no_write_slips_in_between_keeping_and_replacing(store: Store, other: Store) -> None:
    kept: list[list[str]] = []
    await other.begin_epoch(11, "B")
    image = (await other.snapshot()).data
    await store.begin_epoch(10, "A")

    def keep(copy: Image) -> None:
        kept.append(sorted(name for name in "abcdefghij" if f"change {name}".encode() in copy.data))
        time.sleep(0.02)

    writes = [asyncio.create_task(store.write(put(f"change {name}"))) for name in "abcde"]
    await asyncio.sleep(0)
    restoring = asyncio.create_task(store.restore(image, keep))
    await asyncio.sleep(0)
    writes += [asyncio.create_task(store.write(put(f"change {name}"))) for name in "fghij"]
    await asyncio.gather(restoring, *writes)
    assert sorted([*kept[0], *(name.removeprefix("change ") for name in names(store))]) == list("abcdefghij")


async def test_what_cannot_be_kept_is_not_replaced(store: Store, other: Store) -> None:
    def full(_: Image) -> None:
        raise OSError(28, "No space left on device")

    await store.write(put("nfs"))
    await other.begin_epoch(11, "B")
    with pytest.raises(StoreError, match="No space left"):
        await store.restore((await other.snapshot()).data, full)
    assert (names(store), store.position) == (["nfs"], Position(0, 1))


async def test_an_epoch_that_began_since_stops_a_restore(store: Store, other: Store) -> None:
    """The takeover ended between the decision to accept the image and the turn of the store's thread."""
    await other.begin_epoch(11, "B")
    image = (await other.snapshot()).data
    restoring = store.restore(image)
    task = asyncio.create_task(restoring)
    await asyncio.sleep(0)  # it is asked for, and waits for its turn
    begun = store.begin_epoch(12, "A")
    with pytest.raises(StoreError, match="begun to lead"):
        await task
    await begun
    assert store.position == Position(12, 1)


async def test_listeners_hear_of_a_restore_whose_caller_is_gone(store: Store) -> None:
    image = (await store.snapshot()).data
    told = asyncio.Event()
    store.on_commit(lambda tables: told.set())
    task = asyncio.create_task(store.restore(image))
    await asyncio.sleep(0)
    task.cancel()
    async with asyncio.timeout(5):
        await told.wait()


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
        connection = apsw.Connection(str(path))
        check_log(dump(connection))
        connection.close()
