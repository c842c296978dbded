"""The log of changes: by it another store becomes the same, in order, each change once, or not at all."""

import random
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import apsw
import orjson
import pytest
from support.stores import Dump, check_log, differences, dump

from middlewared.store import changelog
from middlewared.store.database import Store, Transaction
from middlewared.store.errors import OutOfStep, StoreError
from middlewared.store.lineage import Position
from middlewared.store.migrations import SCHEMA_VERSION

Change = Callable[[Transaction], Any]


def put(name: str, enabled: int = 1) -> Change:
    return lambda t: t.execute("INSERT OR REPLACE INTO service_config (name, enabled) VALUES (?, ?)", (name, enabled))


def add_user(transaction: Transaction, name: str) -> None:
    transaction.execute("INSERT INTO user (username) VALUES (?)", (name,))


def add_key(transaction: Transaction, name: str, username: str) -> None:
    columns = "name, username, salt, iterations, stored_key, server_key, created_at_ms"
    transaction.execute(f"INSERT INTO api_key ({columns}) VALUES (?, ?, '', 1, '', '', 0)", (name, username))


def content(store: Store) -> Dump:
    connection = apsw.Connection(str(store.path))
    try:
        return dump(connection)
    finally:
        connection.close()


def names(store: Store) -> list[str]:
    return [row["name"] for row in store.query("SELECT name FROM service_config ORDER BY name")]


async def follow(ours: Store, theirs: Store) -> int:
    """Bring one store after the other by the log alone; how many messages it took."""
    for count in range(1000):
        if ours.position == theirs.position:
            return count
        entries = theirs.entries_after(ours.position)
        assert entries is not None, "the log does not lead on"
        await ours.apply(changelog.decode(changelog.encode(entries)))
    raise AssertionError("it never ends")


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[tuple[Store, Store]]:
    """Who leads, and who follows; both as new."""
    a, b = await Store.open(tmp_path / "a.db"), await Store.open(tmp_path / "b.db")
    yield a, b
    await a.close()
    await b.close()


# ---------------------------------------------------------------------------------------------- the same store

WHAT_TO_DO: dict[str, Callable[[Transaction, random.Random], Any]] = {
    "service": lambda t, rng: put(f"service{rng.randrange(9)}", rng.randrange(2))(t),
    "services go": lambda t, rng: t.execute("DELETE FROM service_config WHERE enabled = 0"),
    "timeout": lambda t, rng: t.execute("UPDATE failover_config SET timeout_s = ?", (rng.randrange(3),)),
    "user": lambda t, rng: add_user(t, f"user{rng.randrange(1 << 30)}"),
    "user with keys": lambda t, rng: (
        add_user(t, "keyed"),
        [add_key(t, f"key{rng.randrange(1 << 30)}", "keyed") for _ in range(3)],
    ),
    "another name": lambda t, rng: t.execute("UPDATE user SET username = username || 'x' WHERE username LIKE 'keyed%'"),
    "users go": lambda t, rng: t.execute("DELETE FROM user"),  # and their keys with them
    "came and went": lambda t, rng: (add_user(t, "nobody"), t.execute("DELETE FROM user WHERE username = 'nobody'")),
    "other primary key": lambda t, rng: t.execute(
        "UPDATE user SET id = id + 1000 WHERE id = (SELECT max(id) FROM user)"
    ),
}


@pytest.mark.parametrize("seed", range(8))
async def test_random_changes_make_the_same_store(stores: tuple[Store, Store], seed: int) -> None:
    a, b = stores
    rng = random.Random(seed)

    def change(transaction: Transaction) -> None:
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            WHAT_TO_DO[rng.choice(list(WHAT_TO_DO))](transaction, rng)

    for _ in range(40):
        with suppress(StoreError):  # the dice gave a name twice: rolled back
            await a.write(change)
        if rng.random() < 0.1:
            await a.begin_epoch()
        if rng.random() < 0.2:
            await follow(b, a)
    await follow(b, a)
    assert a.position.seq > 20
    assert differences(content(a), content(b)) == {}
    check_log(content(b))


async def test_numbers_are_never_given_twice_on_the_other_either(stores: tuple[Store, Store]) -> None:
    a, b = stores
    await a.write(lambda t: (put("nfs")(t), add_user(t, "short"), t.execute("DELETE FROM user")))
    await follow(b, a)
    await b.write(lambda t: add_user(t, "next"))
    assert b.query("SELECT id FROM user") == [{"id": 2}]


async def test_listeners_hear_which_tables_changed_and_of_the_epoch(stores: tuple[Store, Store]) -> None:
    a, b = stores
    told: list[frozenset[str]] = []
    b.on_commit(told.append)
    await a.begin_epoch(10, "A")
    await a.write(put("nfs"))
    assert await follow(b, a) == 1
    assert told == [frozenset({"epoch", "service_config"})]
    assert (b.position, b.leader) == (Position(10, 2), "A")
    await b.begin_epoch(11, "B")
    assert b.position == Position(11, 3)


async def test_what_changes_nothing_in_the_end_leaves_no_trace(stores: tuple[Store, Store]) -> None:
    a, _ = stores
    await a.write(put("nfs"))
    before = content(a)
    assert (
        await a.write(lambda t: (add_user(t, "short"), t.execute("DELETE FROM user"), "the result")[-1]) == "the result"
    )
    await a.write(put("nfs"))
    assert differences(before, content(a)) == {}


# ---------------------------------------------------------------------------------------------- in order, once, or not


async def entries_of(store: Store, *changes: Change) -> list[changelog.Entry]:
    since = store.position
    for change in changes:
        await store.write(change)
    entries = store.entries_after(since)
    assert entries is not None
    return entries


async def test_what_comes_twice_is_applied_once(stores: tuple[Store, Store]) -> None:
    a, b = stores
    told: list[frozenset[str]] = []
    b.on_commit(told.append)
    entries = await entries_of(a, put("nfs"), put("smb"), put("ftp"))
    await b.apply(entries[:2])
    await b.apply(entries)
    await b.apply(entries[:1])
    assert (b.position, names(b)) == (Position(0, 3), ["ftp", "nfs", "smb"])
    assert len(told) == 2


async def test_a_gap_is_refused(stores: tuple[Store, Store]) -> None:
    a, b = stores
    entries = await entries_of(a, put("nfs"), put("smb"))
    with pytest.raises(OutOfStep, match="leads from change 1 of epoch 0, and this store is at change 0"):
        await b.apply(entries[1:])
    assert (b.position, names(b)) == (Position(0, 0), [])


async def test_the_same_number_in_another_epoch_is_refused(stores: tuple[Store, Store]) -> None:
    a, b = stores
    await b.begin_epoch(12, "B")
    await a.begin_epoch(11, "A")
    entries = await entries_of(a, put("nfs"))
    with pytest.raises(OutOfStep):
        await b.apply(entries)
    assert a.entries_after(b.position) is None


SPOILT: dict[str, tuple[str, str]] = {
    "another value": ("UPDATE service_config SET enabled = 7", "a row of service_config has other values"),
    "it is gone": ("DELETE FROM service_config", "a row of service_config is missing"),
    "it is there": ("INSERT INTO service_config (name) VALUES ('smb')", "a row of service_config is there already"),
    "a name twice": ("INSERT INTO user (id, username) VALUES (77, 'taken')", "a row of user breaks a constraint"),
}


@pytest.mark.parametrize(("spoil", "why"), SPOILT.values(), ids=SPOILT)
async def test_other_values_than_expected_change_nothing(stores: tuple[Store, Store], spoil: str, why: str) -> None:
    a, b = stores
    await a.write(put("nfs", 0))
    await follow(b, a)
    b._writer.execute(spoil)  # behind the store's back
    before = content(b)
    entries = await entries_of(a, put("ok"), lambda t: (put("nfs", 1)(t), put("smb")(t), add_user(t, "taken")))
    with pytest.raises(OutOfStep, match=why):
        await b.apply(entries)
    assert differences(before, content(b)) == {}, "not even the first of the two"
    assert b.position == Position(0, 1)


async def test_dangling_references_are_refused(stores: tuple[Store, Store]) -> None:
    a, b = stores
    await a.write(lambda t: add_user(t, "root"))
    await follow(b, a)
    b._writer.pragma("foreign_keys", False)
    b._writer.execute("DELETE FROM user")
    b._writer.pragma("foreign_keys", True)
    entries = await entries_of(a, lambda t: add_key(t, "key", "root"))
    with pytest.raises(OutOfStep, match="dangling references"):
        await b.apply(entries)


async def test_another_schema_is_refused(stores: tuple[Store, Store]) -> None:
    a, b = stores
    (entry,) = await entries_of(a, put("nfs"))
    with pytest.raises(OutOfStep, match=f"schema version {SCHEMA_VERSION + 1}, and this store of {SCHEMA_VERSION}"):
        await b.apply([entry._replace(schema_version=SCHEMA_VERSION + 1)])


async def test_an_entry_that_leads_elsewhere_is_refused(stores: tuple[Store, Store]) -> None:
    a, b = stores
    (entry,) = await entries_of(a, put("nfs"))
    with pytest.raises(OutOfStep, match="leads elsewhere"):
        await b.apply([entry._replace(after=Position(7, 1))])
    assert names(b) == []


async def test_who_began_to_lead_meanwhile_applies_nothing(stores: tuple[Store, Store]) -> None:
    a, b = stores
    applying = b.apply(await entries_of(a, put("nfs")))
    begun = b.begin_epoch(11, "B")
    await begun
    with pytest.raises(OutOfStep):  # the call came after
        await applying
    entries = await entries_of(a, put("smb"))
    late = b._enqueue(b._apply_and_tell(entries, 0))
    with pytest.raises(StoreError, match="begun to lead"):
        await late


# ---------------------------------------------------------------------------------------------- what is kept


async def test_the_oldest_are_forgotten_by_number(stores: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changelog, "ROWS_MAX", 3)
    a, b = stores
    for number in range(3):
        await a.write(put(str(number)))
    await follow(b, a)
    for number in range(3, 6):
        await a.write(put(str(number)))
    assert [row["seq"] for row in a.query("SELECT seq FROM log")] == [4, 5, 6]
    assert a.entries_after(Position(0, 2)) is None
    await follow(b, a)
    assert differences(content(a), content(b)) == {}


async def test_the_oldest_are_forgotten_by_size(stores: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changelog, "BYTES_MAX", 5000)
    a, b = stores
    for number in range(20):
        await a.write(put(f"{number}{'x' * 1000}"))
        await follow(b, a)
    assert 2 <= len(a.query("SELECT seq FROM log")) <= 4
    assert a.query("SELECT sum(length(changes)) AS bytes FROM log")[0]["bytes"] <= 5000
    assert differences(content(a), content(b)) == {}


async def test_one_that_is_too_large_is_not_logged_and_nothing_leads_over_it(
    stores: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changelog, "ENTRY_BYTES_MAX", 2000)
    a, b = stores
    await a.write(put("small"))
    await a.write(put("x" * 3000))
    await a.write(put("smaller"))
    assert [row["seq"] for row in a.query("SELECT seq FROM log")] == [3]
    assert [a.entries_after(Position(0, seq)) for seq in (0, 1)] == [None, None]
    await b.restore((await a.snapshot()).data)
    await a.write(put("goes on"))
    await follow(b, a)
    assert differences(content(a), content(b)) == {}


async def test_a_change_may_forget_what_was_before(stores: tuple[Store, Store]) -> None:
    a, b = stores
    await a.write(put("nfs"))
    await a.write(lambda t: (t.forget_history(), put("smb")(t)))
    assert a.query("SELECT seq FROM log") == []
    assert a.entries_after(Position(0, 1)) is None
    await b.restore((await a.snapshot()).data)
    await a.write(put("goes on"))
    await follow(b, a)
    assert differences(content(a), content(b)) == {}


async def test_messages_are_bounded(stores: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changelog, "GROUP_BYTES_MAX", 3000)
    a, b = stores
    for number in range(10):
        await a.write(put(f"{number}{'x' * 1000}"))
    assert await follow(b, a) == 5
    monkeypatch.setattr(changelog, "GROUP_ENTRIES_MAX", 1)
    await a.write(put("1"))
    await a.write(put("2"))
    assert await follow(b, a) == 2


def test_the_largest_message_fits_a_frame_of_the_link() -> None:
    from middlewared.peer.codec import CHANGES_BYTES_MAX

    position = Position(1 << 53, 1 << 53)
    sequences = orjson.dumps(dict.fromkeys(("api_key", "privilege", "user"), 1 << 53)).decode()
    entry = changelog.Entry(position, position, SCHEMA_VERSION, sequences, b"x" * changelog.ENTRY_BYTES_MAX)
    assert changelog.ENTRY_BYTES_MAX <= changelog.GROUP_BYTES_MAX
    small = [entry._replace(changes=b"")] * (changelog.GROUP_ENTRIES_MAX - 1)
    assert len(changelog.encode([entry, *small])) <= CHANGES_BYTES_MAX


# ---------------------------------------------------------------------------------------------- what came over the link


async def test_entries_survive_the_link(stores: tuple[Store, Store]) -> None:
    entries = await entries_of(stores[0], put("nfs"), put("smb"))
    assert changelog.decode(changelog.encode(entries)) == entries


HEAD = [0, 0, 0, 1, SCHEMA_VERSION, "{}", 3]


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"abc",
        b"7\n",
        b"[7]\n",
        b"[[]]\nabc",
        orjson.dumps([HEAD]) + b"\nab",
        orjson.dumps([HEAD]) + b"\nabcd",
        orjson.dumps([[*HEAD[:6], -1]]) + b"\n",
        orjson.dumps([[0, 0, 0, 2, *HEAD[4:]]]) + b"\nabc",
        orjson.dumps([[0.0, *HEAD[1:]]]) + b"\nabc",
        orjson.dumps([[*HEAD[:5], "[1]", 3]]) + b"\nabc",
        orjson.dumps([[*HEAD[:5], '{"user": "x"}', 3]]) + b"\nabc",
        orjson.dumps([[*HEAD[:5], 9, 3]]) + b"\nabc",
    ],
)
def test_what_cannot_be_read_is_refused(message: bytes) -> None:
    with pytest.raises(OutOfStep, match="changes of the other controller"):
        changelog.decode(message)


async def test_a_changeset_of_garbage_changes_nothing(stores: tuple[Store, Store]) -> None:
    _, b = stores
    with pytest.raises(OutOfStep):
        await b.apply(changelog.decode(orjson.dumps([HEAD]) + b"\nabc"))
    assert b.position == Position(0, 0)
