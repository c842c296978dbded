"""Taking and giving back, against the simulated target in memory."""

import pytest

from middlewared.lab.direct import DirectSource, DirectTransport
from middlewared.lab.shelf import STANDARD, TGT, QueuedWrite, Shelf, ShelfDisk, Target
from middlewared.plugins.fencing import scsi, scsi_pr
from middlewared.plugins.fencing.logic import OURS_KIND, Reading
from middlewared.plugins.fencing.scsi import Reply
from middlewared.plugins.fencing.scsi_pr import Kind, Out, Reservation, make_key, parked_key
from middlewared.plugins.fencing.takeover import Taken, _park, _rivals, read_all, release_all, take_all
from middlewared.plugins.fencing.transport import Disk
from middlewared.ports import FenceCode

US, THEM = 0xA000_0001, 0xB000_0001
MINE, THEIRS = make_key(US, 8), make_key(THEM, 3)
PARKED = parked_key(US)
TIMEOUT_MS = 200
BLOCK = bytes(512)


def shelf_of(count: int, target: Target = STANDARD) -> Shelf:
    return Shelf([ShelfDisk(lun, f"S{lun:03}", 1 << 20) for lun in range(count)], target=target)


async def take(source: DirectSource, key: int = MINE) -> Taken:
    disks = list(source.disks().values())
    readings, unread = await read_all(disks, TIMEOUT_MS)
    return await take_all(disks, readings, unread, key, TIMEOUT_MS)


def owners(shelf: Shelf) -> set[tuple[int, tuple[int, ...]]]:
    """(holder's key, registered keys), over all disks."""
    found = (shelf.reservations(disk.lun) for disk in shelf.disks)
    return {(one.holder_key, tuple(one.keys.values())) for one in found}


@pytest.mark.parametrize("target", [STANDARD, TGT])
async def test_free_disks_are_taken(target: Target) -> None:
    shelf = shelf_of(24, target)
    taken = await take(DirectSource(shelf, "a"))
    assert (taken.result.code, len(taken.held), taken.failed) == (FenceCode.OK, 24, {})
    assert owners(shelf) == {(MINE, (MINE,))}
    assert all(shelf.reservations(lun).held.kind is Kind.WRITE_EXCLUSIVE_REGISTRANTS for lun in range(24))


@pytest.mark.parametrize("target", [STANDARD, TGT])
async def test_the_other_is_thrown_out_with_its_queue(target: Target) -> None:
    shelf = shelf_of(4, target)
    await take(DirectSource(shelf, "b"), THEIRS)
    queued = shelf.submit("b", 2, scsi.write_10(0, 1), BLOCK)
    assert isinstance(queued, QueuedWrite)
    taken = await take(DirectSource(shelf, "a"))
    assert taken.result.code is FenceCode.OK
    assert owners(shelf) == {(MINE, (MINE,))}
    assert shelf.complete(queued) is None, "a queued write of the old holder landed"
    attentions = [shelf.execute("b", 2, scsi.write_10(0, 1), BLOCK)[0] for _ in range(3)]
    assert attentions[-1] == scsi.Status.RESERVATION_CONFLICT


class Recorded(DirectTransport):
    """Remembers the service actions of PERSISTENT RESERVE OUT, and resets of the unit as "reset"."""

    def __init__(self, source: DirectSource, *, aborts: bool) -> None:
        super().__init__(source, 0, "S000", "a", aborts)
        self.orders: list[Out | str] = []

    async def execute(self, cdb: bytes, data: bytes, timeout_ms: int) -> Reply:
        if cdb[0] == scsi.Opcode.PERSISTENT_RESERVE_OUT:
            self.orders.append(Out(cdb[1] & 0x1F))
        return await super().execute(cdb, data, timeout_ms)

    async def lun_reset(self, timeout_ms: int) -> None:
        self.orders.append("reset")
        await super().lun_reset(timeout_ms)


@pytest.mark.parametrize(
    ("target", "aborts", "orders"),
    [
        (STANDARD, True, [Out.REGISTER_AND_IGNORE, Out.PREEMPT_AND_ABORT]),
        (TGT, True, [Out.REGISTER_AND_IGNORE, Out.PREEMPT_AND_ABORT, Out.PREEMPT, "reset"]),
        (TGT, False, [Out.REGISTER_AND_IGNORE, Out.PREEMPT, "reset"]),
    ],
)
async def test_a_disk_that_said_it_cannot_abort_is_reset_without_trying(
    target: Target, aborts: bool, orders: list[Out | str]
) -> None:
    shelf = shelf_of(1, target)
    await take(DirectSource(shelf, "b"), THEIRS)
    path = Recorded(DirectSource(shelf, "a"), aborts=aborts)
    disk = Disk("S000", (path,))
    readings, unread = await read_all([disk], TIMEOUT_MS)
    taken = await take_all([disk], readings, unread, MINE, TIMEOUT_MS)
    assert taken.result.code is FenceCode.OK
    assert path.orders == orders


@pytest.mark.parametrize("kind", list(Kind))
async def test_whatever_was_reserved_before(kind: Kind) -> None:
    shelf = shelf_of(1)
    for node, key in (("b", THEIRS), ("c", 0x77)):
        shelf.execute(node, 0, *scsi_pr.register_and_ignore(key))
    shelf.execute("b", 0, *scsi_pr.reserve(THEIRS, kind))
    assert (await take(DirectSource(shelf, "a"))).result.code is FenceCode.OK
    assert owners(shelf) == {(MINE, (MINE,))}


@pytest.mark.parametrize("kind", list(Kind))
async def test_our_own_key_of_an_earlier_life_is_replaced(kind: Kind) -> None:
    shelf = shelf_of(1)
    old = make_key(US, 2)
    shelf.execute("a", 0, *scsi_pr.register_and_ignore(old))
    shelf.execute("a", 0, *scsi_pr.reserve(old, kind))
    assert (await take(DirectSource(shelf, "a"))).result.code is FenceCode.OK
    assert owners(shelf) == {(MINE, (MINE,))}


async def test_our_own_key_on_a_dead_session_is_evicted() -> None:
    """After an iSCSI relogin the old entry stays, and is not replaced by registering (shared/LAB.md, section 3)."""
    shelf = shelf_of(1)
    old = make_key(US, 2)
    shelf.execute("a-before", 0, *scsi_pr.register_and_ignore(old))
    shelf.execute("a-before", 0, *scsi_pr.reserve(old))
    assert (await take(DirectSource(shelf, "a"))).result.code is FenceCode.OK
    assert owners(shelf) == {(MINE, (MINE,))}


async def test_a_registrant_without_reservation_is_evicted() -> None:
    shelf = shelf_of(1)
    shelf.execute("b", 0, *scsi_pr.register_and_ignore(THEIRS))
    assert (await take(DirectSource(shelf, "a"))).result.code is FenceCode.OK
    assert owners(shelf) == {(MINE, (MINE,))}


async def test_every_path_is_registered() -> None:
    shelf = shelf_of(2)
    one, two = DirectSource(shelf, "a"), DirectSource(shelf, "a-path2")
    disks = [Disk(serial, (*disk.paths, *two.disks()[serial].paths)) for serial, disk in one.disks().items()]
    readings, unread = await read_all(disks, TIMEOUT_MS)
    taken = await take_all(disks, readings, unread, MINE, TIMEOUT_MS)
    assert taken.result.code is FenceCode.OK
    assert owners(shelf) == {(MINE, (MINE, MINE))}
    one.cut = True
    assert await release_all(disks, US, TIMEOUT_MS) == {}
    assert owners(shelf) == {(PARKED, (PARKED,))}, "nothing of the dead path stays"
    two.cut = True
    assert await release_all(disks, US, TIMEOUT_MS) != {}


async def test_unit_attentions_do_not_disturb() -> None:
    shelf = shelf_of(3)
    shelf.restart()
    for lun in range(3):
        shelf.lun_reset("b", lun)
    assert (await take(DirectSource(shelf, "a"))).result.code is FenceCode.OK


@pytest.mark.parametrize(
    ("disks", "broken", "code"),
    [
        (24, 2, FenceCode.OK),
        (24, 3, FenceCode.TOO_MANY_REFUSED),
        (5, 1, FenceCode.TOO_MANY_REFUSED),
        (4, 4, FenceCode.NONE_REGISTERED),
        (0, 0, FenceCode.ALL_EXCLUDED),
    ],
)
async def test_thresholds(disks: int, broken: int, code: FenceCode) -> None:
    shelf = shelf_of(disks)
    for lun in range(broken):
        shelf.fail(lun)
    taken = await take(DirectSource(shelf, "a"))
    assert (taken.result.code, len(taken.failed)) == (code, broken)
    if code is not FenceCode.OK:
        assert taken.held == frozenset()
        assert owners(shelf) <= {(0, ())}, "something was kept after a refusal"


class Stubborn(DirectSource):
    """From the `after`th command on, disks 0 to 2 do not answer any more."""

    after = 0

    def cut_now(self) -> None:
        self.hung = {0, 1, 2}


async def test_failures_in_the_second_wave_undo_the_rest() -> None:
    shelf = shelf_of(10)
    source = Stubborn(shelf, "a")
    disks = list(source.disks().values())
    readings, unread = await read_all(disks, TIMEOUT_MS)
    source.cut_now()
    taken = await take_all(disks, readings, unread, MINE, TIMEOUT_MS)
    assert taken.result.code is FenceCode.TOO_MANY_REFUSED
    assert "3 of 10" in taken.result.message
    source.hung = set()
    assert owners(shelf) == {(0, ()), (PARKED, (PARKED,))}, "what was taken is given up again"


async def test_a_dead_cable_ends_within_the_deadline() -> None:
    source = DirectSource(shelf_of(4), "a", cut=True)
    assert (await take(source)).result.code is FenceCode.NONE_REGISTERED


@pytest.mark.parametrize("target", [STANDARD, TGT])
async def test_released_disks_are_closed_until_somebody_takes_them(target: Target) -> None:
    shelf = shelf_of(24, target)
    source = DirectSource(shelf, "a")
    await take(source)
    assert await release_all(list(source.disks().values()), US, TIMEOUT_MS) == {}
    assert owners(shelf) == {(PARKED, (PARKED,))}
    assert await release_all(list(source.disks().values()), US, TIMEOUT_MS) == {}, "once more changes nothing"
    await take(DirectSource(shelf, "b"), THEIRS)
    assert owners(shelf) == {(THEIRS, (THEIRS,))}
    assert shelf.execute("b", 0, scsi.write_10(0, 1), BLOCK)[0] == scsi.Status.GOOD
    assert written(shelf, "a") == scsi.Status.RESERVATION_CONFLICT


def written(shelf: Shelf, initiator: str) -> int:
    """The answer to a write, after the unit attentions that precede it."""
    return [shelf.execute(initiator, 0, scsi.write_10(0, 1), BLOCK)[0] for _ in range(4)][-1]


async def test_who_was_thrown_out_cannot_write_after_its_successor_has_given_up() -> None:
    """A former MASTER that was frozen all the time: the simulator found it writing to disks that nobody held."""
    shelf = shelf_of(2)
    await take(DirectSource(shelf, "b"), THEIRS)
    source = DirectSource(shelf, "a")
    await take(source)
    await release_all(list(source.disks().values()), US, TIMEOUT_MS)
    assert written(shelf, "b") == scsi.Status.RESERVATION_CONFLICT


async def test_release_parks_every_path_and_evicts_what_no_path_has() -> None:
    shelf = shelf_of(1)
    one, two = DirectSource(shelf, "a"), DirectSource(shelf, "a-path2")
    disks = [Disk(serial, (*disk.paths, *two.disks()[serial].paths)) for serial, disk in one.disks().items()]
    readings, unread = await read_all(disks, TIMEOUT_MS)
    await take_all(disks, readings, unread, MINE, TIMEOUT_MS)
    shelf.execute("a-before", 0, *scsi_pr.register_and_ignore(make_key(US, 2)))
    assert await release_all(disks, US, TIMEOUT_MS) == {}
    assert owners(shelf) == {(PARKED, (PARKED, PARKED))}


async def test_release_after_being_thrown_out_leaves_nothing_of_ours() -> None:
    shelf = shelf_of(1)
    source = DirectSource(shelf, "a")
    await take(source)
    [disk] = source.disks().values()
    seen = (await read_all([disk], TIMEOUT_MS))[0][disk.serial]
    await take(DirectSource(shelf, "b"), THEIRS)
    await _park(disk, seen, US, TIMEOUT_MS)  # with what was true a moment ago
    assert owners(shelf) == {(THEIRS, (THEIRS,))}


async def test_who_came_first_is_left_alone_by_one_of_higher_rank() -> None:
    """Both found a blank disk; the other holds it by the time that we look again, and perhaps serves already."""
    before, now = Reading(1, (), None), Reading(3, (MINE, THEIRS), Reservation(THEIRS, OURS_KIND))
    assert _rivals(before, now, MINE) == {THEIRS}
    assert _rivals(before, Reading(3, (MINE, THEIRS), None), MINE) == frozenset(), (
        "it gives way, if nobody holds it yet"
    )


async def test_two_that_were_parked_see_one_another_as_rivals() -> None:
    before = Reading(1, (parked_key(THEM),), Reservation(parked_key(THEM), OURS_KIND))
    now = Reading(2, (THEIRS, make_key(THEM + 1, 1)), Reservation(THEIRS, OURS_KIND))
    assert _rivals(before, now, make_key(THEM + 1, 1)) == {THEIRS}


async def test_release_leaves_the_other_alone() -> None:
    shelf = shelf_of(2)
    await take(DirectSource(shelf, "b"), THEIRS)
    source = DirectSource(shelf, "a")
    assert await release_all(list(source.disks().values()), US, TIMEOUT_MS) == {}
    assert owners(shelf) == {(THEIRS, (THEIRS,))}


async def test_release_says_what_it_could_not_reach() -> None:
    shelf = shelf_of(2)
    source = DirectSource(shelf, "a")
    await take(source)
    source.hung = {1}
    failed = await release_all(list(source.disks().values()), US, TIMEOUT_MS)
    assert list(failed) == ["S001"]


async def test_two_waves_not_one_round_trip_a_disk() -> None:
    """All disks at once: with 24 disks as many commands are under way together as the deepest disk needs in a row."""
    shelf = shelf_of(24)
    await take(DirectSource(shelf, "b"), THEIRS)
    source = DirectSource(shelf, "a")
    await take(source)
    # The first answer tells of the other's reset; keys and reservation; register, preempt; keys and reservation.
    assert source.commands == 24 * 7


@pytest.mark.parametrize("target", [STANDARD, TGT])
async def test_what_is_queued_on_an_unreserved_disk_never_lands_after_it_was_taken(target: Target) -> None:
    """As of a MASTER without a keeper, on a target that has forgotten everything."""
    shelf = shelf_of(1, target=target)
    write = shelf.submit("b", 0, scsi.write_10(7, 1), bytes(512))
    assert isinstance(write, QueuedWrite)
    await take(DirectSource(shelf, "a"))
    assert shelf.complete(write) is None
