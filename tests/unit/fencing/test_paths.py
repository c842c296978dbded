"""Two paths to each disk, and one of them dead: a cable that leads nowhere, before the kernel has given it up."""

import pytest
from support.keepers import HOSTS, SETTINGS, Node, Room, virtual

from middlewared.lab.shelf import STANDARD, TGT, Target
from middlewared.plugins.fencing.scsi import Status
from middlewared.plugins.fencing.scsi_pr import parked_key
from middlewared.ports import FenceCode

FIRST, SECOND = "a", "a by port 2"


async def by_two_paths(room: Room, target: Target = STANDARD) -> tuple[Node, Node]:
    """A pair that reaches the shelf by two paths each; A holds the disks."""
    room.new_shelf(12, target)
    a, b = await room.boot("a"), await room.boot("b")
    a.source.add_path(SECOND)
    b.source.add_path("b by port 2")
    assert (await a.guard.acquire(force=False)).code is FenceCode.OK
    await room.pass_ms(300)
    return a, b


@pytest.mark.parametrize("dead", [FIRST, SECOND])
@virtual
async def test_a_holder_with_a_dead_path_shows_life_all_the_time(room: Room, dead: str) -> None:
    """Or who watches its key would take it for dead, and throw it out if it is elected just now."""
    a, b = await by_two_paths(room)
    a.source.lost = {dead}
    for _ in range(3 * SETTINGS.lost_ms // SETTINGS.heartbeat_ms):
        await room.pass_ms(SETTINGS.heartbeat_ms)
        assert b.guard.state().peer_moving
    assert (await b.guard.acquire(force=False)).code is FenceCode.PEER_ALIVE
    assert a.resets == []
    assert room.writes(({FIRST, SECOND} - {dead}).pop())


@virtual
async def test_the_key_of_a_dead_path_is_not_tried_on_the_other_again_and_again(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays on the disk, and holds the reservation; each attempt would be a conflict in the kernel's log."""
    a, _ = await by_two_paths(room)
    a.source.lost = {FIRST}
    refused: list[int] = []
    execute = room.shelf.execute

    def seen(initiator: str, lun: int, cdb: bytes, data: bytes = b"") -> tuple[int, bytes, bytes]:
        answer = execute(initiator, lun, cdb, data)
        if initiator == SECOND and answer[0] == Status.RESERVATION_CONFLICT:
            refused.append(lun)
        return answer

    monkeypatch.setattr(room.shelf, "execute", seen)
    await room.pass_ms(3 * SETTINGS.lost_ms)
    assert refused == []


@pytest.mark.parametrize("dead", [FIRST, SECOND])
@virtual
async def test_a_path_that_comes_back_may_write(room: Room, dead: str) -> None:
    a, _ = await by_two_paths(room)
    a.source.lost = {dead}
    await room.pass_ms(3 * SETTINGS.lost_ms)
    a.source.lost = set()
    await room.pass_ms(2 * SETTINGS.lost_ms)
    assert room.writes(FIRST)
    assert room.writes(SECOND)
    assert not room.writes("b")
    assert all(len(room.shelf.reservations(lun).keys) == 2 for lun in range(12))
    assert a.resets == []


@virtual
async def test_both_paths_dead_are_a_loss(room: Room) -> None:
    a, _ = await by_two_paths(room)
    a.source.lost = {FIRST, SECOND}
    await room.pass_ms(2 * SETTINGS.lost_ms)
    assert len(a.resets) == 1


@pytest.mark.parametrize("dead", ["b", "b by port 2"])
@virtual
async def test_a_standby_with_a_dead_path_sees_and_takes(room: Room, dead: str) -> None:
    a, b = await by_two_paths(room)
    b.source.lost = {dead}
    for _ in range(2 * SETTINGS.lost_ms // SETTINGS.heartbeat_ms):
        await room.pass_ms(SETTINGS.heartbeat_ms)
        assert b.guard.state().peer_moving
        assert b.guard.state().disks_failed == ()
    a.source.cut = True
    await room.pass_ms(2 * SETTINGS.alive_ms)
    assert not b.guard.state().peer_moving
    assert (await b.guard.acquire(force=False)).code is FenceCode.OK
    assert not room.writes(FIRST)
    assert not room.writes(SECOND)


@pytest.mark.parametrize("target", [STANDARD, TGT])
@pytest.mark.parametrize("dead", [FIRST, SECOND])
@virtual
async def test_disks_are_given_back_by_the_path_that_is_left(room: Room, dead: str, target: Target) -> None:
    """Nothing of the dead path stays: it may come back when another has the disks."""
    a, b = await by_two_paths(room, target)
    a.source.lost = {dead}
    await room.pass_ms(100)
    assert (await a.guard.release()).code is FenceCode.OK
    for lun in range(12):
        assert set(room.shelf.reservations(lun).keys.values()) == {parked_key(HOSTS["a"])}
    assert not room.writes(dead)
    a.source.lost = set()
    assert (await b.guard.acquire(force=False)).code is FenceCode.OK
    await room.pass_ms(2 * SETTINGS.lost_ms)
    assert (a.resets, b.resets) == ([], [])
    assert not room.writes(dead)


@virtual
async def test_nothing_is_under_way_any_more_when_the_disks_are_given_back(room: Room) -> None:
    """A command on the dead path that comes back late must not register us again."""
    a, b = await by_two_paths(room)
    a.source.lost = {FIRST}
    await room.pass_ms(SETTINGS.heartbeat_ms)
    a.source.lost = set()
    assert (await a.guard.release()).code is FenceCode.OK
    assert (await b.guard.acquire(force=False)).code is FenceCode.OK
    before = [dict(room.shelf.reservations(lun).keys) for lun in range(12)]
    await room.pass_ms(SETTINGS.lost_ms)
    assert all(FIRST not in keys and SECOND not in keys for keys in before)
    assert not room.writes(FIRST)
    assert b.guard.state().disks_held == 12
