"""Disks that nobody reserved: new ones, and those of a target that restarted while a slow holder registers again."""

from support.keepers import HOSTS, SETTINGS, Room, virtual

from middlewared.lab.shelf import Shelf
from middlewared.plugins.fencing.logic import BlankWatch
from middlewared.plugins.fencing.scsi_pr import host_of
from middlewared.ports import FenceCode

SETTLE_MS = SETTINGS.lost_ms + SETTINGS.alive_ms


def test_a_disk_settles_when_it_was_blank_for_long_enough() -> None:
    watch = BlankWatch(settle_ms=1000)
    watch.observe("S1", (), 0)
    watch.observe("S2", (7,), 0)
    assert watch.unsettled(999) == ["S1"]
    watch.observe("S1", (), 999)
    assert watch.unsettled(1000) == []


def test_a_registration_begins_the_wait_anew() -> None:
    watch = BlankWatch(settle_ms=1000)
    watch.observe("S1", (), 0)
    watch.observe("S1", (7,), 500)
    watch.observe("S1", (), 600)
    assert watch.unsettled(1500) == ["S1"]
    watch.forget()
    assert watch.unsettled(1500) == []


@virtual
async def test_new_disks_are_taken_when_nobody_registered_for_a_while(room: Room) -> None:
    room.new_shelf(12, blank=True)
    a = await room.boot("a")
    assert (await a.guard.acquire(force=False)).code is FenceCode.PEER_ALIVE
    await room.pass_ms(SETTLE_MS - 100)
    assert (await a.guard.acquire(force=False)).code is FenceCode.PEER_ALIVE
    await room.pass_ms(200)
    assert (await a.guard.acquire(force=False)).code is FenceCode.OK


@virtual
async def test_new_disks_are_taken_at_once_when_the_operator_says_so(room: Room) -> None:
    room.new_shelf(12, blank=True)
    a = await room.boot("a")
    assert (await a.guard.acquire(force=True)).code is FenceCode.OK


@virtual
async def test_a_holder_with_slow_disks_has_them_back_after_a_restart_of_the_target(room: Room) -> None:
    """Its registration is under way for a long time: were the disks another's by then, it could write there."""
    a, b = await room.pair()
    a.source.latency_ms = 120
    await room.pass_ms(500)
    room.shelf.restart()
    while (await b.guard.acquire(force=False)).code is FenceCode.PEER_ALIVE and not _held_by("a", room.shelf):
        await room.pass_ms(20)
    assert _held_by("a", room.shelf)
    assert (await b.guard.acquire(force=False)).code is FenceCode.PEER_ALIVE
    assert (room.writes("a"), room.writes("b")) == (True, False)
    assert a.resets == []


@virtual
async def test_after_a_restart_of_the_target_the_disks_of_a_dead_holder_are_taken(room: Room) -> None:
    a, b = await room.pair()
    a.source.cut = True
    room.shelf.restart()
    await room.pass_ms(SETTLE_MS + 200)
    assert (await b.guard.acquire(force=False)).code is FenceCode.OK
    assert _held_by("b", room.shelf)


def _held_by(name: str, shelf: Shelf) -> bool:
    return all(host_of(shelf.reservations(disk.lun).holder_key) == HOSTS[name] for disk in shelf.disks)
