"""The keeper's life in virtual time: two of them, one shelf, and everything that can happen between."""

import asyncio

import pytest
from support.keepers import BLOCK, HOSTS, SETTINGS, Room, virtual

from middlewared.lab.shelf import STANDARD, TGT, Target
from middlewared.plugins.fencing import scsi, scsi_pr
from middlewared.plugins.fencing.scsi_pr import make_key
from middlewared.ports import FenceCode


@virtual
async def test_first_boot_takes_free_disks_at_once(room: Room) -> None:
    a = await room.boot("a")
    result = await a.guard.acquire(force=False)
    assert result.code is FenceCode.OK
    state = a.guard.state()
    assert (state.held, state.disks_held, state.disks_total, state.disks_failed) == (True, 12, 12, ())
    assert room.writes("a")
    assert not room.writes("b")
    assert (await a.guard.acquire(force=False)).code is FenceCode.OK, "a second time changes nothing"


@virtual
async def test_the_holder_moves_and_the_standby_sees_it(room: Room) -> None:
    a, b = await room.pair()
    before = room.generations()
    await room.pass_ms(500)
    assert room.generations()[0] - before[0] in (9, 10, 11)
    assert b.guard.state().peer_moving
    assert not a.guard.state().peer_moving
    assert not b.guard.state().held
    assert (a.resets, b.resets) == ([], [])


@virtual
async def test_state_is_published_when_it_changes_and_not_on_each_beat(room: Room) -> None:
    a, b = await room.pair()
    await room.pass_ms(3000)
    assert [(state.held, state.disks_held) for state in a.said] == [(False, 0), (True, 12)]
    assert [state.peer_moving for state in b.said] == [False, True]


@virtual
async def test_an_idle_standby_is_not_registered(room: Room) -> None:
    await room.pair()
    assert all(len(room.shelf.reservations(lun).keys) == 1 for lun in range(12))


@virtual
async def test_a_live_peer_is_not_robbed(room: Room) -> None:
    a, b = await room.pair()
    result = await b.guard.acquire(force=False)
    assert result.code is FenceCode.PEER_ALIVE
    await room.pass_ms(500)
    assert a.guard.state().held
    assert a.resets == []


@virtual
async def test_unless_by_force(room: Room) -> None:
    a, b = await room.pair()
    assert (await b.guard.acquire(force=True)).code is FenceCode.OK
    assert not room.writes("a"), "the old holder writes after it was thrown out"
    await room.pass_ms(100)
    assert len(a.resets) == 1
    assert not a.guard.state().held
    assert a.said[-1].held is False
    await room.pass_ms(2000)
    assert b.resets == []
    assert b.guard.state().disks_held == 12


@virtual
async def test_a_dead_peer_is_followed_at_once(room: Room) -> None:
    """The standby watched all the time, so that it loses none when it is asked."""
    a, b = await room.pair()
    a.source.cut = True
    await room.pass_ms(250)
    assert not b.guard.state().peer_moving
    before = room.loop.time()
    assert (await b.guard.acquire(force=False)).code is FenceCode.OK
    assert room.loop.time() - before < 0.01


@virtual
async def test_a_standby_that_just_came_looks_first(room: Room) -> None:
    a = await room.boot("a")
    await a.guard.acquire(force=False)
    b = await room.boot("b")
    assert (await b.guard.acquire(force=False)).code is FenceCode.PEER_ALIVE
    a.source.cut = True
    late = await room.boot("b", 2)
    before = room.loop.time()
    assert (await late.guard.acquire(force=False)).code is FenceCode.OK
    assert room.loop.time() - before >= SETTINGS.alive_ms / 1000, "it cannot have seen that the key stands still"


@virtual
async def test_life_on_other_disks_than_the_first_is_seen(room: Room) -> None:
    """The holder has lost sight of the disks that both would choose, and shows life elsewhere."""
    a, b = await room.pair()
    a.source.hung = {0, 1, 2, 3}
    await room.pass_ms(1500)
    assert a.resets == [], "four of twelve disks hang"
    assert not b.guard.state().peer_moving, "the standby alone would think that nobody is there"
    assert (await b.guard.acquire(force=False)).code is FenceCode.PEER_ALIVE
    await room.pass_ms(500)
    assert b.guard.state().peer_moving, "and from now on it knows better"


@virtual
async def test_release(room: Room) -> None:
    a, b = await room.pair()
    assert (await a.guard.release()).code is FenceCode.OK
    keys = {key for lun in range(12) for key in room.shelf.reservations(lun).keys.values()}
    assert keys == {scsi_pr.parked_key(HOSTS["a"])}
    assert not a.guard.state().held
    before_s = room.loop.time()
    assert (await b.guard.acquire(force=False)).code is FenceCode.OK
    assert room.loop.time() - before_s < SETTINGS.alive_ms / 1000, "a parked key is nobody to wait for"
    await room.pass_ms(1000)
    assert (a.resets, b.resets) == ([], [])


@virtual
async def test_what_was_given_back_is_not_adopted(room: Room) -> None:
    a, _ = await room.pair()
    await a.guard.release()
    await a.guard.stop()
    again = await room.boot("a")
    await again.guard.ready()
    assert not again.guard.state().held
    assert again.resets == []


@virtual
async def test_release_that_cannot_reach_the_disks_says_so(room: Room) -> None:
    a, _ = await room.pair()
    a.source.cut = True
    assert (await a.guard.release()).code is FenceCode.NONE_REGISTERED


@pytest.mark.parametrize("target", [STANDARD, TGT])
@virtual
async def test_a_target_that_restarts_is_reserved_again(room: Room, target: Target) -> None:
    room.new_shelf(12, target)
    a, b = await room.pair()
    room.shelf.restart()
    await room.pass_ms(1200)
    assert a.resets == []
    assert room.writes("a")
    assert not any(room.writes("b", lun) for lun in range(12))
    assert b.guard.state().peer_moving


@virtual
async def test_taken_and_given_back_between_two_looks_is_a_loss(room: Room) -> None:
    """Nothing is on the disks, as after a restart; but the target's count says that somebody was here."""
    a, _ = await room.pair()
    for lun in range(12):
        room.shelf.execute("b", lun, *scsi_pr.register_and_ignore(0xB0B))
        victim = next(iter(room.shelf.reservations(lun).keys.values()))
        room.shelf.execute("b", lun, *scsi_pr.preempt(0xB0B, victim, abort=True))
        room.shelf.execute("b", lun, *scsi_pr.register(0xB0B, 0))
    await room.pass_ms(100)
    assert len(a.resets) == 1


@virtual
async def test_one_disk_in_other_hands_is_enough(room: Room) -> None:
    a, _ = await room.pair()
    lun = 9  # not a sentinel
    victim = next(iter(room.shelf.reservations(lun).keys.values()))
    room.shelf.execute("b", lun, *scsi_pr.register_and_ignore(0xB0B))
    room.shelf.execute("b", lun, *scsi_pr.preempt(0xB0B, victim, abort=True))
    await room.pass_ms(SETTINGS.lost_ms)
    assert len(a.resets) == 1
    assert "S009" in a.resets[0]


@virtual
async def test_a_dead_cable_resets_the_holder_after_lost_ms(room: Room) -> None:
    a, _ = await room.pair()
    a.source.cut = True
    cut_at = room.loop.time()
    while not a.resets and room.loop.time() - cut_at < 5:
        await room.pass_ms(10)
    silence_ms = (room.loop.time() - cut_at) * 1000
    assert SETTINGS.lost_ms <= silence_ms <= 1.4 * SETTINGS.lost_ms


@virtual
async def test_a_short_silence_is_survived(room: Room) -> None:
    a, b = await room.pair()
    a.source.cut = True
    await room.pass_ms(400)
    a.source.cut = False
    await room.pass_ms(2000)
    assert a.resets == []
    assert a.guard.state().disks_held == 12
    assert b.guard.state().peer_moving


@virtual
async def test_frozen_and_robbed_finds_out_before_it_answers(room: Room) -> None:
    a, b = await room.pair()
    _take_and_leave_no_trace(room)
    room.loop.freeze(10_000)
    await a.guard.ready()
    assert len(a.resets) == 1
    assert (await a.guard.acquire(force=True)).code is FenceCode.UNEXPECTED
    assert b.resets == []


def _take_and_leave_no_trace(room: Room) -> None:
    """While A stands still, another host takes the disks and gives them back: nothing of it is left to see."""
    for lun in range(12):
        room.shelf.execute("b", lun, *scsi_pr.register_and_ignore(0xB0B))
        victim = next(iter(room.shelf.reservations(lun).keys.values()))
        room.shelf.execute("b", lun, *scsi_pr.preempt(0xB0B, victim, abort=True))
    room.shelf.restart()  # even the count is back at 0


@virtual
async def test_frozen_but_not_robbed_goes_on(room: Room) -> None:
    a, _ = await room.pair()
    room.loop.freeze(10_000)
    await a.guard.ready()
    assert a.resets == []
    await room.pass_ms(500)
    assert a.guard.state().disks_held == 12
    assert a.guard.run_info()["lapses"] == 1


@virtual
async def test_frozen_with_a_dead_cable_answers_nobody(room: Room) -> None:
    a, _ = await room.pair()
    a.source.cut = True
    room.loop.freeze(500)
    asked = asyncio.create_task(a.guard.ready())
    await room.pass_ms(SETTINGS.lost_ms - 100)
    assert not asked.done(), "it answered without knowing whether it still holds the disks"
    await asked
    assert len(a.resets) == 1


@virtual
async def test_a_frozen_standby_looks_anew(room: Room) -> None:
    _, b = await room.pair()
    room.loop.freeze(10_000)
    result = await b.guard.acquire(force=False)
    assert result.code is FenceCode.PEER_ALIVE


@virtual
async def test_a_new_process_adopts_what_the_last_one_held(room: Room) -> None:
    a, b = await room.pair()
    await a.guard.stop()
    a.resets.append("gone")
    again = await room.boot("a")
    await again.guard.ready()
    assert again.guard.state().held
    await room.pass_ms(500)
    assert again.resets == []
    assert b.guard.state().peer_moving
    assert again.guard.state().disks_held == 12


@virtual
async def test_a_new_process_that_finds_them_taken_resets(room: Room) -> None:
    a, b = await room.pair()
    await a.guard.stop()
    await room.pass_ms(300)
    assert (await b.guard.acquire(force=False)).code is FenceCode.OK
    again = await room.boot("a")
    await again.guard.ready()
    assert len(again.resets) == 1


@virtual
async def test_after_a_reboot_an_old_key_is_nothing(room: Room) -> None:
    """Nothing in run_dir: whatever our key on the disks says, it is from an earlier life."""
    a, _ = await room.pair()
    await a.guard.stop()
    reborn = await room.boot("a", 2)
    await room.pass_ms(500)
    assert not reborn.guard.state().held
    old = room.generations()[0]
    assert (await reborn.guard.acquire(force=False)).code is FenceCode.OK
    assert room.generations()[0] > old


@virtual
async def test_disks_come_and_go(room: Room) -> None:
    room.new_shelf(24)
    a = await room.boot("a")
    a.source.pulled = {5}
    assert (await a.guard.acquire(force=False)).code is FenceCode.OK
    assert a.guard.state().disks_total == 23
    a.source.push(5)
    await room.pass_ms(100)
    state = a.guard.state()
    assert (state.disks_total, state.disks_held) == (24, 24)
    assert not room.writes("b", 5)
    a.source.pull(7)
    await room.pass_ms(3000)
    state = a.guard.state()
    assert (state.disks_held, state.disks_failed, a.resets) == (23, ("S007",), [])
    a.source.push(7)
    await room.pass_ms(1500)
    assert a.guard.state().disks_failed == ()


@virtual
async def test_vanished_disks_count_as_refused(room: Room) -> None:
    b = await room.boot("b")
    await room.pass_ms(100)
    for lun in (1, 2):
        b.source.pull(lun)
    result = await b.guard.acquire(force=True)
    assert result.code is FenceCode.TOO_MANY_REFUSED
    assert b.guard.state().disks_failed == ("S001", "S002")


@virtual
async def test_a_disk_that_failed_is_taken_later_with_its_queue_emptied(room: Room) -> None:
    room.new_shelf(12, blank=True)
    a = await room.boot("a")
    a.source.hung = {11}
    assert (await a.guard.acquire(force=True)).code is FenceCode.OK
    assert a.guard.state().disks_failed == ("S011",)
    a.source.hung = set()
    stale = room.shelf.submit("b", 11, scsi.write_10(0, 1), BLOCK)
    await room.pass_ms(3000)
    assert a.guard.state().disks_held == 12
    assert room.shelf.complete(stale) is None


@virtual
async def test_a_half_dead_intruder_is_evicted(room: Room) -> None:
    """It registered, and died before it took over: registered, it could write."""
    a, _ = await room.pair()
    room.shelf.execute("b", 0, *scsi_pr.register_and_ignore(make_key(HOSTS["b"], 1)))
    assert room.writes("b"), "that is why"
    await room.pass_ms(3 * SETTINGS.lost_ms)
    assert not room.writes("b")
    assert a.resets == []


@virtual
async def test_a_failing_disk_among_the_sentinels_is_replaced(room: Room) -> None:
    a, b = await room.pair()
    for lun in range(4):
        room.shelf.fail(lun)
    await room.pass_ms(1000)
    assert a.resets == []
    assert b.guard.state().peer_moving
    assert a.guard.state().disks_failed == tuple(f"S00{lun}" for lun in range(4))


@virtual
async def test_run_info_tells_an_administrator(room: Room) -> None:
    a, b = await room.pair()
    info = a.guard.run_info()
    assert (info["host_id"], info["held"], len(info["disks"])) == ("0xa0000001", True, 12)
    assert info["disks"][0]["verified_ms_ago"] < SETTINGS.lost_ms
    standby = b.guard.run_info()
    assert (standby["peer"], standby["held"]) == ("MOVING", False)
    assert standby["peer_keys"][0].startswith("0xa0000001")


def _admitted(room: Room, nexus: str) -> bool:
    """On all disks: the nexus may write, and is the only one that is registered."""
    found = (room.shelf.reservations(disk.lun) for disk in room.shelf.disks)
    return all(one.may(nexus, write=True) and list(one.keys) == [nexus] for one in found)


@virtual
async def test_a_session_made_anew_is_registered_and_its_ghost_evicted(room: Room) -> None:
    """The target takes it for another nexus: what is written by it is refused until we have registered it."""
    a, b = await room.pair()
    a.source.renew("a again")
    assert not room.writes("a again")
    await room.pass_ms(4 * SETTINGS.heartbeat_ms)
    assert _admitted(room, "a again")
    assert (a.resets, a.guard.state().disks_failed) == ([], ())
    await room.pass_ms(500)
    assert b.guard.state().peer_moving


@virtual
async def test_who_lost_the_disks_does_not_get_back_in_by_a_new_session(room: Room) -> None:
    a, b = await room.pair()
    assert (await b.guard.acquire(force=True)).code is FenceCode.OK
    a.source.renew("a again")
    await room.pass_ms(SETTINGS.lost_ms)
    assert len(a.resets) == 1
    assert _admitted(room, "b")


@virtual
async def test_a_new_process_whose_session_is_new_is_admitted(room: Room) -> None:
    a, _ = await room.pair()
    await a.guard.stop()
    again = await room.boot("a", nexus="a again")
    await again.guard.ready()
    await room.pass_ms(4 * SETTINGS.heartbeat_ms)
    assert _admitted(room, "a again")
    assert again.resets == []


@virtual
async def test_a_path_that_is_plugged_in_later_may_write(room: Room) -> None:
    a, _ = await room.pair()
    a.source.add_path("a by port 2")
    await room.pass_ms(4 * SETTINGS.heartbeat_ms)
    assert room.writes("a")
    assert room.writes("a by port 2")
    assert not room.writes("b")
    await room.pass_ms(2 * SETTINGS.lost_ms)
    assert {len(room.shelf.reservations(lun).keys) for lun in range(12)} == {2}
    assert a.resets == []


@virtual
async def test_reservations_outlive_the_shelf_but_not_where_life_is_shown(room: Room) -> None:
    """Where the disks can: on the sentinels each heartbeat would be written to the disks' own memory."""
    room.new_shelf(12, Target(aptpl=True))
    a = await room.boot("a")
    assert (await a.guard.acquire(force=False)).code is FenceCode.OK
    assert all(room.shelf.reservations(lun).kept for lun in range(12))
    await room.pass_ms(2 * SETTINGS.lost_ms)
    assert [room.shelf.reservations(lun).kept for lun in range(12)] == [False] * 4 + [True] * 8
    room.shelf.restart()
    assert not any(room.writes("b", lun) for lun in range(4, 12))
    await room.pass_ms(500)
    assert not any(room.writes("b", lun) for lun in range(12))
    assert a.resets == []


@virtual
async def test_the_watchdog_is_told_the_truth(room: Room) -> None:
    a, b = await room.pair()
    assert a.guard.trustworthy()
    assert b.guard.trustworthy(), "who holds nothing may live"
    a.source.cut = True
    await room.pass_ms(SETTINGS.lost_ms // 2)
    assert a.guard.trustworthy(), "a short silence"
    await room.pass_ms(SETTINGS.lost_ms)
    assert a.resets
    assert not a.guard.trustworthy()


@virtual
async def test_never_two_writers(room: Room) -> None:
    """Cables cut and healed, freezes, forced takeovers in a row: at no point are both accepted on one disk."""
    a, b = await room.pair()
    for step in range(40):
        a.source.cut = step % 7 == 3 and not a.resets
        if step % 5 == 4:
            room.loop.freeze(400)
        if step in (10, 25):
            await b.guard.acquire(force=step == 25)
        await room.pass_ms(37)
        for lun in range(12):
            accepted = [name for name in ("a", "b") if room.writes(name, lun)]
            assert len(accepted) <= 1, f"step {step}, disk {lun}: both may write"
    assert b.guard.state().held
