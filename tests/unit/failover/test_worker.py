"""Services around a takeover: their order, their share of the time, and what their failure is worth."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from middlewared.alerts import Alerts
from middlewared.bus import Bus
from middlewared.plugins.failover import worker
from middlewared.plugins.failover.events import Done
from middlewared.plugins.failover.state import Phase
from middlewared.plugins.failover.unfinished import UnfinishedFile
from middlewared.plugins.failover.worker import Worker
from middlewared.ports import NotYet, Pool, PortError
from middlewared.store.database import Store

TANK = Pool("tank", "17", True, "ONLINE")
SERVICES = [  # name, enabled, start_order, critical
    ("smb", 1, 20, 1),
    ("nfs", 1, 10, 1),
    ("iscsi", 1, 10, 1),
    ("ftp", 0, 10, 1),
    ("mail", 1, 20, 0),
    ("index", 1, 10, 0),
]


class Machine:
    """Services and firewall. `log`: what began, and what ended."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.running: dict[str, bool] = {}
        self.broken: set[str] = set()
        self.hanging: set[str] = set()
        self.said = asyncio.Event()
        self.keeper: list[bool | None] = []  # its next answers about the reservations; None: there is none

    def say(self, what: str) -> None:
        self.log.append(what)
        self.said.set()

    def states(self) -> Mapping[str, bool]:
        return self.running

    async def start(self, name: str) -> None:
        await self._act("start", name, running=True)

    async def stop(self, name: str) -> None:
        await self._act("stop", name, running=False)

    async def _act(self, verb: str, name: str, *, running: bool) -> None:
        self.say(f"{verb} {name}")
        await asyncio.sleep(0)
        if name in self.hanging:
            await asyncio.Event().wait()
        if name in self.broken:
            raise PortError(f"{name}.service failed")
        self.running[name] = running
        self.say(f"{name} {'runs' if running else 'rests'}")

    async def allow(self) -> None:
        self.say("open")

    async def held(self) -> bool:
        answer = self.keeper.pop(0) if self.keeper else True
        if answer is None:
            raise PortError("the keeper is being restarted")
        return answer

    async def until(self, what: str) -> None:
        async with asyncio.timeout(20):
            while what not in self.log:
                self.said.clear()
                await self.said.wait()


class Site:
    def __init__(self, store: Store, services_ms: int = 60_000, note: Path | None = None) -> None:
        self.machine = Machine()
        self.alerts = Alerts(Bus(), store)
        ports = cast(Any, type("Ports", (), dict.fromkeys(("services", "firewall", "fencing"), self.machine)))
        unfinished = UnfinishedFile(note or Path(os.devnull, "nowhere"))
        self.worker = Worker("A", ports, store, cast(Any, None), self.alerts, services_ms, unfinished)

    async def perform(self, phase: Phase) -> Done:
        return await self.worker.perform(1, phase, forced=False)

    def alert_levels(self) -> dict[str, str]:
        return {alert["key"]: alert["level"] for alert in self.alerts.list()}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await Store.open(tmp_path / "store.db")
    for row in SERVICES:
        await store.write(
            lambda t, row=row: t.execute(  # type: ignore[misc]  # a default binds the loop's variable
                "INSERT INTO service_config (name, enabled, start_order, critical) VALUES (?, ?, ?, ?)", row
            )
        )
    yield store
    await store.close()


async def test_critical_ones_in_their_order_then_traffic_then_the_rest(store: Store) -> None:
    site = Site(store)
    assert (await site.perform(Phase.STARTING)).ok
    log = ["start iscsi", "start nfs", "iscsi runs", "nfs runs", "start smb", "smb runs"]
    assert site.machine.log == log
    assert (await site.perform(Phase.OPENING)).ok
    await site.machine.until("mail runs")
    assert site.machine.log == [*log, "open", "start index", "index runs", "start mail", "mail runs"]
    await site.worker.stop()


async def test_traffic_is_not_let_in_where_the_disks_were_lost_meanwhile(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A keeper that is being restarted is asked again."""
    monkeypatch.setattr(worker, "_ASK_AGAIN_S", 0)
    site = Site(store)
    site.machine.keeper = [None, False]
    done = await site.perform(Phase.OPENING)
    assert (done.ok, done.detail) == (False, "the reservations on the disks were lost meanwhile")
    assert "open" not in site.machine.log
    site.machine.keeper = [None, True]
    assert (await site.perform(Phase.OPENING)).ok
    await site.worker.stop()


async def test_they_stop_in_the_reverse_order(store: Store) -> None:
    site = Site(store)
    site.machine.running = {"nfs": True, "smb": True, "iscsi": True, "mail": True, "index": False, "own": True}
    assert (await site.perform(Phase.STOPPING)).ok
    begun = [line for line in site.machine.log if line.startswith("stop")]
    assert begun == ["stop smb", "stop mail", "stop nfs", "stop iscsi", "stop own"]
    assert site.machine.log.index("mail rests") < site.machine.log.index("stop nfs")


async def test_what_a_failure_is_worth(store: Store) -> None:
    site = Site(store)
    site.machine.broken = {"nfs", "mail"}
    done = await site.perform(Phase.STARTING)
    assert (done.ok, done.detail) == (False, "nfs: nfs.service failed")
    assert "smb runs" in site.machine.log, "the next group starts all the same"
    await site.perform(Phase.OPENING)
    await site.machine.until("start mail")
    async with asyncio.timeout(20):
        while len(site.alert_levels()) < 2:
            await asyncio.sleep(0)
    assert site.alert_levels() == {"failover.service.nfs": "CRITICAL", "failover.service.mail": "WARNING"}
    site.machine.broken = set()
    await site.perform(Phase.STARTING)
    assert site.alert_levels() == {}
    await site.worker.stop()


async def test_one_that_hangs_takes_only_its_groups_share(store: Store) -> None:
    site = Site(store, services_ms=40)
    site.machine.hanging = {"nfs", "iscsi"}
    done = await site.perform(Phase.STARTING)
    why = "no answer within 20 ms; it may yet end"
    assert done.detail == f"iscsi: {why}; nfs: {why}"
    assert "smb runs" in site.machine.log


async def test_nothing_is_started_any_more_while_they_stop(store: Store) -> None:
    site = Site(store)
    site.machine.hanging = {"index"}
    await site.perform(Phase.OPENING)
    await site.machine.until("start index")
    assert (await site.perform(Phase.STOPPING)).ok
    assert site.machine.log == ["open", "start index"]


async def test_a_daemon_that_is_restarted_starts_what_the_former_one_had_yet_to_start(
    store: Store, tmp_path: Path
) -> None:
    note = tmp_path / "unfinished"
    first = Site(store, note=note)
    first.machine.hanging = {"index"}
    await first.perform(Phase.OPENING)
    await first.machine.until("start index")
    await first.worker.stop()  # as an upgrade does; a kill leaves the same behind
    second = Site(store, note=note)
    second.worker.go_on()
    await second.machine.until("mail runs")
    async with asyncio.timeout(20):
        while note.exists():
            await asyncio.sleep(0)
    third = Site(store, note=note)
    third.worker.go_on()
    await asyncio.sleep(0)
    assert third.machine.log == [], "what an administrator stops meanwhile stays so"
    await second.worker.stop()


async def test_what_is_given_up_is_not_gone_on_with(store: Store, tmp_path: Path) -> None:
    site = Site(store, note=tmp_path / "unfinished")
    site.machine.hanging = {"index"}
    await site.perform(Phase.OPENING)
    await site.machine.until("start index")
    await site.perform(Phase.STOPPING)
    site.worker.go_on()
    await asyncio.sleep(0)
    assert site.machine.log == ["open", "start index"]


async def test_one_that_does_not_stop_does_not_keep_the_others_running(store: Store) -> None:
    site = Site(store)
    site.machine.running = {"nfs": True, "smb": True}
    site.machine.broken = {"smb"}
    done = await site.perform(Phase.STOPPING)
    assert (done.ok, done.detail) == (False, "smb: smb.service failed")
    assert site.machine.running["nfs"] is False


class Kernel:
    """Its lists of imported pools, one after the other; NotYet: an import is under way."""

    def __init__(self, *lists: list[Pool] | PortError) -> None:
        self.lists = list(lists)
        self.exported: list[str] = []

    async def imported(self) -> Sequence[Pool]:
        seen = self.lists.pop(0)
        if isinstance(seen, PortError):
            raise seen
        return seen

    pools = imported

    async def export_pool(self, guid: str) -> None:
        self.exported.append(guid)


@pytest.mark.parametrize(
    ("lists", "exported", "trouble"),
    [
        ([NotYet("an import is under way"), [TANK], []], ["17"], ""),
        ([[TANK], NotYet("an import is under way"), [TANK]], ["17"], "still imported: tank"),
        ([NotYet("an import is under way"), [], []], [], ""),
        ([PortError("ZFS is not loaded"), []], [], "ZFS is not loaded"),
    ],
)
async def test_an_import_under_way_is_waited_for_and_exported(
    store: Store, monkeypatch: pytest.MonkeyPatch, lists: list[Any], exported: list[str], trouble: str
) -> None:
    """A network link that flapped during an import must not cost a reset."""
    monkeypatch.setattr(worker, "_ASK_AGAIN_S", 0)
    site, kernel = Site(store), Kernel(*lists)
    monkeypatch.setattr(site.worker._ports, "pools", kernel, raising=False)
    found = [await site.perform(phase) for phase in (Phase.EXPORTING, Phase.VERIFYING)]
    assert [done.detail for done in found if not done.ok] == ([trouble] if trouble else [])
    assert kernel.exported == exported


async def test_a_takeover_waits_for_an_import_under_way(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a former daemon: to give everything back for it would cost the pool minutes."""
    monkeypatch.setattr(worker, "_ASK_AGAIN_S", 0)
    site = Site(store)
    monkeypatch.setattr(site.worker._ports, "pools", Kernel(NotYet("an import is under way"), [TANK]), raising=False)
    assert (await site.perform(Phase.IMPORTING)).ok
