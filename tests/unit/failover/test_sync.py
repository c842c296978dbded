"""Who may change the configuration, and what becomes of a change (DESIGN S6)."""

import asyncio
import errno
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from unit.failover.conftest import facts

from middlewared.alerts import Alerts
from middlewared.bus import Bus
from middlewared.errors import EHAUNAVAILABLE, CallError
from middlewared.peer.link import PeerLink
from middlewared.plugins.failover.facts import Facts
from middlewared.plugins.failover.state import Role
from middlewared.plugins.failover.sync import ConfigSync
from middlewared.store import changelog
from middlewared.store.database import Store, Transaction
from middlewared.store.lineage import Position


def put(name: str) -> Callable[[Transaction], Any]:
    return lambda tx: tx.execute("INSERT INTO service_config (name, enabled) VALUES (?, 1)", (name,))


def names(store: Store) -> list[str]:
    return [row["name"] for row in store.query("SELECT name FROM service_config ORDER BY name")]


class Link:
    """The peer link, as far as the configuration needs it: it leads straight to the other side."""

    def __init__(self) -> None:
        self.connected = True
        self.paired = True
        self.takes_changes = True
        self.timeout_s = 20.0  # only ever reached by a failure
        self.to: Side | None = None
        self.sent = 0  # whole copies
        self.groups: list[int] = []  # messages with changes, by how many
        self.open = asyncio.Event()
        self.open.set()
        self.began = asyncio.Event()  # a snapshot is on its way

    async def send_snapshot(self, image: bytes, *, timeout_s: float) -> None:
        self.sent += 1
        await (await self._reach()).sync.receive(image)

    async def send_changes(self, data: bytes, *, timeout_s: float) -> None:
        self.groups.append(len(changelog.decode(data)))
        await (await self._reach()).sync.receive_changes(data)

    async def _reach(self) -> "Side":
        self.began.set()
        await self.open.wait()
        if not self.connected:
            raise CallError("The link is lost", errno.ECONNRESET)
        assert self.to is not None
        return self.to


class Side:
    """One controller's store and what keeps it in step. `facts` is what it says of itself."""

    def __init__(self, store: Store, node: str, folder: Path) -> None:
        self.store = store
        self.facts = facts(node)
        self.other: Facts | None = None
        self.link = Link()
        self.alerts = Alerts(Bus(), store)
        self.sync = ConfigSync(
            store, cast(PeerLink, self.link), self.alerts, self.mine, lambda: self.other, folder / node / "kept"
        )

    def mine(self) -> Facts:
        position = self.store.position
        return replace(self.facts, epoch=position.epoch, position=position.seq)

    def be(self, role: Role, **changes: Any) -> None:
        self.facts = replace(self.facts, role=role, **changes)

    def keys(self) -> list[str]:
        return [alert["key"] for alert in self.alerts.list()]

    def text(self, key: str) -> str:
        return next(alert["text"] for alert in self.alerts.list() if alert["key"] == key)


class Pair:
    def __init__(self, a: Side, b: Side) -> None:
        self.a, self.b = a, b
        a.link.to, b.link.to = b, a

    def see(self, *, reachable: bool = True) -> None:
        """Both hear of each other, as the facts are now."""
        for one, other in ((self.a, self.b), (self.b, self.a)):
            one.other = other.mine() if reachable else None
            one.link.connected = reachable
        for one in (self.a, self.b):
            one.sync.reconcile()

    async def settle(self) -> None:
        """The background work is done."""
        for side in (self.a, self.b):
            await side.sync.replicator.idle()


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    stores = {node: await Store.open(tmp_path / node / "store.db") for node in "AB"}
    pair = Pair(*(Side(stores[node], node, tmp_path) for node in "AB"))
    await stores["A"].begin_epoch(10, "A")
    pair.see()
    await pair.settle()
    pair.see()
    yield pair
    for side in (pair.a, pair.b):
        side.link.open.set()  # also where a test failed halfway
        await side.sync.stop()
        await side.alerts.close()
        await side.store.close()


# ---------------------------------------------------------------------------------------------- who may change it

BACKUP, MASTER = Role.BACKUP, Role.MASTER

GUARD = {
    "the MASTER": ("A", MASTER, BACKUP, ""),
    "a MASTER that reaches nobody": ("B", MASTER, None, ""),
    "a MASTER beside one that starts": ("A", MASTER, Role.BOOTING, ""),
    "the standby": ("B", BACKUP, MASTER, "make the change on controller A .controller-a., or through .*192.0.2.10"),
    "the standby, after a failed takeover": ("B", Role.ERROR, MASTER, "make the change on controller A"),
    "during our takeover": ("B", Role.TAKING, BACKUP, "try again shortly"),
    "during our way down": ("B", Role.YIELDING, None, "try again shortly"),
    "during the other's takeover": ("A", BACKUP, Role.TAKING, "try again shortly"),
    "while we start": ("A", Role.BOOTING, BACKUP, "try again shortly"),
    "while the other starts": ("A", BACKUP, Role.BOOTING, "try again shortly"),
    "nobody leads, on A": ("A", BACKUP, BACKUP, ""),
    "nobody leads after errors, on A": ("A", Role.ERROR, Role.ERROR, ""),
    "nobody leads, on B": ("B", BACKUP, Role.ERROR, "make the change on controller A"),
    "nobody is reached": ("A", BACKUP, None, "cannot reach the other.*virtual IP .192.0.2.10.*force_master"),
    "nobody is reached, after an error": ("B", Role.ERROR, None, "cannot reach the other"),
}


@pytest.mark.parametrize(("node", "mine", "other", "refusal"), GUARD.values(), ids=GUARD)
async def test_guard(pair: Pair, node: str, mine: Role, other: Role | None, refusal: str) -> None:
    here, there = (pair.a, pair.b) if node == "A" else (pair.b, pair.a)
    here.be(mine)
    there.be(other or BACKUP)
    here.other = there.mine() if other is not None else None
    if not refusal:
        here.sync.guard()
        return
    with pytest.raises(CallError, match=refusal) as refused:
        here.sync.guard()
    assert refused.value.errno == EHAUNAVAILABLE


async def test_without_a_leader_a_changes_only_what_both_have(pair: Pair) -> None:
    pair.a.be(BACKUP)
    pair.see()
    await pair.a.store.write(put("nfs"))
    await pair.a.store.write(put("smb"))  # B has acknowledged the first, though its facts are not yet here
    assert names(pair.b.store) == ["nfs", "smb"]
    pair.a.link.connected = False
    await pair.a.store.write(put("ftp"))
    assert pair.a.keys() == ["failover.sync"]
    pair.see()
    with pytest.raises(CallError, match="configurations differ"):
        pair.a.sync.guard()


async def test_a_controller_without_another_is_not_guarded(pair: Pair) -> None:
    pair.b.be(BACKUP, licensed=False)
    pair.b.other = None
    pair.b.link.paired = False
    pair.b.sync.guard()


@pytest.mark.parametrize("changes", [{"licensed": False}, {"interfaces": ()}])
async def test_without_licence_or_address_the_other_still_leads(pair: Pair, changes: dict[str, Any]) -> None:
    pair.b.be(BACKUP, **changes)
    with pytest.raises(CallError, match=r"standby|cannot reach"):
        pair.b.sync.guard()


async def test_while_nobody_leads_the_newer_configuration_wins(pair: Pair) -> None:
    pair.a.link.connected = False
    await pair.a.store.write(put("nfs"))
    pair.a.link.connected = True
    pair.a.be(BACKUP)
    pair.b.be(BACKUP)
    pair.see()
    pair.b.sync.reconcile()  # the older one keeps quiet
    pair.a.sync.reconcile()
    await pair.settle()
    assert names(pair.b.store) == ["nfs"]


# ---------------------------------------------------------------------------------------------- to the other


async def test_a_change_is_on_both_when_it_is_acknowledged(pair: Pair) -> None:
    await pair.a.store.write(put("nfs"))
    assert names(pair.b.store) == ["nfs"]
    assert pair.a.sync.replicator.is_current
    pair.a.sync.reconcile()  # B's facts are those of before
    await pair.settle()
    assert (pair.a.link.sent, pair.a.link.groups) == (0, [1, 1]), "the beginning of the epoch, and the change"


async def test_writers_share_round_trips_and_each_waits_for_its_own_change(pair: Pair) -> None:
    pair.a.link.groups.clear()
    pair.a.link.open.clear()
    pair.a.link.began.clear()
    first = asyncio.create_task(pair.a.store.write(put("first")))
    await pair.a.link.began.wait()
    committed = asyncio.Event()
    pair.a.store.on_commit(lambda tables: committed.set() if len(names(pair.a.store)) == 51 else None)
    others = [asyncio.create_task(pair.a.store.write(put(str(number)))) for number in range(50)]
    await committed.wait()
    assert not first.done()
    assert not any(task.done() for task in others)
    pair.a.link.open.set()
    await asyncio.gather(first, *others)
    assert pair.a.link.groups == [1, 50]
    assert names(pair.b.store) == names(pair.a.store)


async def test_who_was_away_follows_by_the_log(pair: Pair) -> None:
    pair.see(reachable=False)
    for number in range(5):
        await pair.a.store.write(put(str(number)))
    await pair.a.store.begin_epoch(12, "A")
    pair.see()
    await pair.settle()
    assert (pair.a.link.sent, pair.a.link.groups[-1]) == (0, 6)
    assert pair.b.store.position == pair.a.store.position
    assert pair.a.keys() == []


async def test_who_was_away_too_long_gets_a_full_copy(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changelog, "ROWS_MAX", 2)
    pair.see(reachable=False)
    for number in range(3):
        await pair.a.store.write(put(str(number)))
    pair.see()
    await pair.settle()
    assert (pair.a.link.sent, names(pair.b.store), pair.a.keys()) == (1, ["0", "1", "2"], [])


async def test_an_older_release_gets_full_copies(pair: Pair) -> None:
    pair.a.link.groups.clear()
    pair.a.link.takes_changes = False
    await pair.a.store.write(put("nfs"))
    assert (pair.a.link.sent, pair.a.link.groups, names(pair.b.store)) == (1, [], ["nfs"])


async def test_a_standby_whose_rows_differ_gets_a_full_copy(pair: Pair) -> None:
    await pair.a.store.write(put("nfs"))
    pair.b.store._writer.execute("DELETE FROM service_config")  # behind the store's back
    await pair.a.store.write(lambda tx: tx.execute("UPDATE service_config SET enabled = 0"))
    assert (pair.a.link.sent, pair.a.keys()) == (1, [])
    assert pair.b.store.query("SELECT name, enabled FROM service_config") == [{"name": "nfs", "enabled": 0}]


async def test_a_change_that_is_too_large_for_the_log_goes_by_a_full_copy(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changelog, "ENTRY_BYTES_MAX", 1000)
    await pair.a.store.write(put("x" * 2000))
    await pair.a.store.write(put("nfs"))
    assert (pair.a.link.sent, pair.a.link.groups[-1]) == (1, 1)
    assert names(pair.b.store) == names(pair.a.store)


async def test_a_hanging_standby_holds_a_writer_no_longer_than_a_silent_one_lives(pair: Pair) -> None:
    pair.a.link.open.clear()
    pair.a.link.timeout_s = 0.05
    await pair.a.store.write(put("nfs"))
    assert "did not follow in time" in pair.a.text("failover.sync")
    pair.a.link.timeout_s = 20.0
    async with asyncio.timeout(15):
        await pair.a.store.write(put("smb"))  # at once: it is known to be behind
    pair.a.link.open.set()
    await pair.settle()
    assert (names(pair.b.store), pair.a.keys()) == (["nfs", "smb"], [])
    pair.a.link.open.clear()
    waiting = asyncio.create_task(pair.a.store.write(put("ftp")))
    pair.a.link.began.clear()
    await pair.a.link.began.wait()
    assert not waiting.done(), "it has caught up: to wait makes sense again"
    pair.a.link.open.set()
    await waiting


async def test_a_link_that_is_replaced_at_once_costs_no_time(pair: Pair) -> None:
    """The change goes over the new one, without the pause after a refusal, and nobody hears of it."""
    pair.a.link.open.clear()
    pair.a.link.began.clear()
    writing = asyncio.create_task(pair.a.store.write(put("nfs")))
    await pair.a.link.began.wait()
    pair.a.other, pair.a.link.connected = None, False
    pair.a.sync.reconcile()
    pair.a.link.open.set()
    pair.a.link.connected = True
    for _ in range(3):  # the answer that never came is seen
        await asyncio.sleep(0)
    pair.see()
    async with asyncio.timeout(0.9):
        await writing
    assert (names(pair.b.store), pair.a.keys()) == (["nfs"], [])


async def test_a_link_that_is_lost_lets_writers_go_and_says_so(pair: Pair) -> None:
    pair.a.link.open.clear()
    pair.a.link.began.clear()
    writing = asyncio.create_task(pair.a.store.write(put("nfs")))
    await pair.a.link.began.wait()
    pair.see(reachable=False)
    await writing
    assert "cannot be reached" in pair.a.text("failover.sync")


async def test_what_a_client_was_told_of_stays_owed_while_newer_changes_are_sent(pair: Pair) -> None:
    """An acknowledgement of something older does not end the alert."""
    pair.a.link.timeout_s = 0.05
    pair.a.link.open.clear()
    await pair.a.store.write(put("nfs"))
    newest = pair.a.store.position
    pair.a.sync.replicator._acknowledge(newest._replace(seq=newest.seq - 1), newest)
    assert pair.a.keys() == ["failover.sync"]
    pair.a.link.open.set()
    await pair.settle()
    assert pair.a.keys() == []


async def test_a_write_during_a_push_leads_to_another_push(pair: Pair) -> None:
    pair.a.link.open.clear()
    pair.a.link.began.clear()
    pushing = asyncio.create_task(pair.a.sync.push())
    await pair.a.link.began.wait()
    written = asyncio.Event()
    pair.a.store.on_commit(lambda tables: written.set())
    writing = asyncio.create_task(pair.a.store.write(put("nfs")))
    await written.wait()
    assert not pair.a.sync.replicator.is_current
    pair.a.link.open.set()
    await pushing
    await writing
    assert names(pair.b.store) == ["nfs"]
    assert pair.a.sync.replicator.is_current


async def test_an_acknowledgement_is_for_what_was_sent(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that lands between the snapshot and the answer is not acknowledged with it."""
    pair.a.store.replicate = None
    real = pair.a.store.snapshot

    async def snapshot_and_then_a_write() -> Any:
        image = await real()
        await pair.a.store.write(put("nfs"))
        return image

    monkeypatch.setattr(pair.a.store, "snapshot", snapshot_and_then_a_write)
    await pair.a.sync.push()
    assert names(pair.b.store) == []
    assert not pair.a.sync.replicator.is_current


async def test_who_cannot_be_reached_is_behind_and_catches_up(pair: Pair) -> None:
    pair.see(reachable=False)
    assert not pair.a.sync.replicator.is_current
    await pair.a.store.write(put("nfs"))
    assert "cannot be reached" in pair.a.text("failover.sync")
    pair.see()
    await pair.settle()
    assert (names(pair.b.store), pair.a.keys()) == (["nfs"], [])


async def test_who_comes_back_with_another_store_gets_ours(pair: Pair, tmp_path: Path) -> None:
    """An earlier acknowledgement counts for nothing after the link was lost."""
    await pair.a.store.write(put("nfs"))
    pair.see(reachable=False)
    new = await Store.open(tmp_path / "new" / "store.db")
    old, pair.b.store, pair.b.sync._store = pair.b.store, new, new
    pair.see()
    await pair.settle()
    assert names(new) == ["nfs"]
    await old.close()


# ---------------------------------------------------------------------------------------------- from the other


async def isolate(pair: Pair) -> None:
    """A accepts a change that nobody hears of; B takes over."""
    pair.see(reachable=False)
    await pair.a.store.write(put("only-on-a"))
    pair.b.be(Role.MASTER)
    await pair.b.store.begin_epoch(11, "B")
    await pair.b.store.write(put("nfs"))
    pair.a.be(Role.BACKUP)


async def test_what_an_isolated_master_accepted_is_kept_aside(pair: Pair, tmp_path: Path) -> None:
    await isolate(pair)
    lost = pair.a.store.position
    pair.see()
    await pair.settle()
    assert names(pair.a.store) == ["nfs"]
    file = tmp_path / "A" / "kept" / f"store-{lost.epoch}-{lost.seq}.db"
    copy = await Store.open(file)
    assert names(copy) == ["only-on-a"]
    await copy.close()
    assert str(file) in pair.a.text("failover.kept")
    assert "Controller A accepted configuration changes that controller B never saw" in pair.a.text("failover.kept")
    pair.see()
    assert pair.a.keys() == ["failover.kept"], "that B is behind is no longer true"
    assert pair.b.keys() == []


async def test_the_alert_is_there_again_after_a_start_and_goes_with_the_file(pair: Pair, tmp_path: Path) -> None:
    await isolate(pair)
    pair.see()
    await pair.settle()
    again = Side(pair.a.store, "A", tmp_path)
    await again.sync.start()
    assert again.keys() == ["failover.kept"]
    for file in (tmp_path / "A" / "kept").iterdir():
        file.unlink()
    again.be(Role.BACKUP)
    await again.sync.receive((await pair.b.store.snapshot()).data)
    assert again.keys() == []


async def test_a_standby_that_is_only_behind_keeps_nothing(pair: Pair) -> None:
    for name in ("nfs", "smb"):
        await pair.a.store.write(put(name))
        await pair.a.store.begin_epoch(20, "A")
    pair.see()
    await pair.settle()
    assert names(pair.b.store) == ["nfs", "smb"]
    assert pair.b.sync.kept_files() == []


async def test_what_cannot_be_kept_is_not_overwritten(pair: Pair) -> None:
    await isolate(pair)

    def full(image: bytes, position: Position) -> str:
        raise OSError(28, "No space left on device")

    pair.a.sync.keep_aside = full
    with pytest.raises(CallError, match="No space left"):
        await pair.a.sync.receive((await pair.b.store.snapshot()).data)
    assert names(pair.a.store) == ["only-on-a"]


async def test_a_lost_link_does_not_stop_what_was_begun(pair: Pair) -> None:
    await isolate(pair)
    image = (await pair.b.store.snapshot()).data
    receiving = asyncio.create_task(pair.a.sync.receive(image))
    await asyncio.sleep(0)
    receiving.cancel()
    await pair.a.sync.stop()
    assert (names(pair.a.store), pair.a.keys()) == (["nfs"], ["failover.kept", "failover.sync"])


@pytest.mark.parametrize("role", [Role.MASTER, Role.TAKING, Role.YIELDING])
async def test_who_leads_is_not_overwritten(pair: Pair, role: Role) -> None:
    image = (await pair.b.store.snapshot()).data
    pair.a.be(role)
    with pytest.raises(CallError, match="This controller leads"):
        await pair.a.sync.receive(image)
    with pytest.raises(CallError, match="This controller leads"):
        await pair.a.sync.receive_changes(changelog.encode([]))


async def test_a_former_master_that_only_led_follows_by_a_full_copy_and_keeps_nothing(pair: Pair) -> None:
    pair.see(reachable=False)
    await pair.a.store.begin_epoch(20, "A")
    pair.b.be(Role.MASTER)
    await pair.b.store.begin_epoch(21, "B")
    pair.a.be(Role.BACKUP)
    pair.see()
    await pair.settle()
    assert (pair.b.link.sent, pair.a.sync.kept_files()) == (1, [])
    assert pair.a.store.position == pair.b.store.position


async def test_a_takeover_that_ends_meanwhile_is_not_overwritten(pair: Pair) -> None:
    await pair.a.store.write(put("nfs"))
    image = (await pair.a.store.snapshot()).data
    receiving = asyncio.create_task(pair.b.sync.receive(image))
    for _ in range(2):  # the role was looked at, and the store was asked
        await asyncio.sleep(0)
    begun = pair.b.store.begin_epoch(13, "B")
    with pytest.raises(CallError, match="begun to lead"):
        await receiving
    await begun
    assert pair.b.store.position.epoch == 13
