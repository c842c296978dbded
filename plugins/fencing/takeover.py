"""Taking the disks and giving them back: all disks and paths at once, every command with a deadline.

The order on each disk is what keeps data safe (DESIGN, Fencing): register; preempt and abort whoever else is there, so
that not even their queued writes land; reserve; then read back, and believe only that.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from middlewared.plugins.fencing import scsi, scsi_pr
from middlewared.plugins.fencing.logic import OURS_KIND, Reading, settled, too_many
from middlewared.plugins.fencing.scsi import Reply, Status
from middlewared.plugins.fencing.scsi_pr import Kind, host_of, parked_key
from middlewared.plugins.fencing.transport import Disk, DiskRefused, Transport, TransportError, command, read
from middlewared.ports import FenceCode, FenceResult

PARALLEL_MAX = 256  # disks worked on at a time
ROUNDS_MAX = 8  # of evicting on one disk: a live victim may change its key meanwhile

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Taken:
    """How taking went: the answer, the disks that are ours, and why the others are not."""

    result: FenceResult
    held: frozenset[str] = frozenset()
    failed: Mapping[str, str] = field(default_factory=dict)
    rivals: frozenset[int] = frozenset()  # host ids that were taking the disks at the same moment


_CONTESTED = FenceResult(FenceCode.PEER_ALIVE, "the other controller is taking the disks at the same moment")


class Contested(DiskRefused):
    """Another host is taking the disk at the same moment."""

    def __init__(self, serial: str, rivals: frozenset[int]) -> None:
        super().__init__(f"{serial}: another host is taking it at the same moment")
        self.rivals = frozenset(host_of(key) for key in rivals)


async def each(disks: Sequence[Disk], work: Callable[[Disk], Awaitable[T]]) -> tuple[dict[str, T], dict[str, str]]:
    """Do `work` on all disks at once: results and, for those that failed, the reasons; both by serial."""
    done: dict[str, T] = {}
    failed: dict[str, str] = {}
    slots = asyncio.Semaphore(PARALLEL_MAX)

    async def one(disk: Disk) -> None:
        async with slots:
            try:
                done[disk.serial] = await work(disk)
            except (TransportError, DiskRefused) as error:
                failed[disk.serial] = str(error)

    await asyncio.gather(*(one(disk) for disk in disks))
    return done, failed


async def read_all(disks: Sequence[Disk], timeout_ms: int) -> tuple[dict[str, Reading], dict[str, str]]:
    """The first wave: what is on the disks, and why some could not be read."""
    return await each(disks, lambda disk: read(disk, timeout_ms))


async def take_all(
    disks: Sequence[Disk], readings: Mapping[str, Reading], unread: Mapping[str, str], key: int, timeout_ms: int
) -> Taken:
    """The second wave: make `key` the only one, and the holder, on all disks that were read.

    `unread` are the disks that should be there and could not be read. If more than a tenth of all fail, what was taken
    is given back.
    """
    total = len(readings) + len(unread)
    refused = refusal(unread, total)
    if refused is not None:
        return Taken(refused, failed=unread)
    readable = [disk for disk in disks if disk.serial in readings]
    rivals: set[int] = set()

    async def work(disk: Disk) -> Reading:
        try:
            before = readings[disk.serial]
            # A disk that nobody had reserved let in whatever came, perhaps from a MASTER whose keeper is dead.
            return await take(disk, before, key, timeout_ms, purge=before.reservation is None)
        except Contested as contested:
            rivals.update(contested.rivals)
            raise

    done, failed = await each(readable, work)
    failed.update(unread)
    if rivals:  # two that evict each other end with nothing: both let go, and the one that ranks higher tries again
        await release_all(readable, host_of(key), timeout_ms)
        return Taken(_CONTESTED, failed=failed, rivals=frozenset(rivals))
    refused = refusal(failed, total)
    if refused is not None:
        await release_all(readable, host_of(key), timeout_ms)
        return Taken(refused, failed=failed)
    return Taken(FenceResult(FenceCode.OK, f"{len(done)} of {total} disks are held"), frozenset(done), failed)


def refusal(failed: Mapping[str, str], total: int, what: str = "taken") -> FenceResult | None:
    """The answer when these disks, of so many, failed; None if that is tolerable."""
    if total == 0:
        return FenceResult(FenceCode.ALL_EXCLUDED, "no shared disk is visible from here: check the cables to the shelf")
    example = f"; for example {next(iter(failed.values()))}" if failed else ""
    if len(failed) == total:
        return FenceResult(FenceCode.NONE_REGISTERED, f"none of {total} disks could be {what}{example}")
    if too_many(len(failed), total):
        return FenceResult(FenceCode.TOO_MANY_REFUSED, f"{len(failed)} of {total} disks could not be {what}{example}")
    return None


async def take(disk: Disk, before: Reading, key: int, timeout_ms: int, *, purge: bool = False) -> Reading:
    """Make `key` the only registrant and the holder of one disk; the reading that proves it.

    `purge` resets the unit too: where foreign writes may be queued that no preempting of ours has ended. Raises
    TransportError or DiskRefused; then the disk may be half taken.
    """
    path = await _register(disk, key, timeout_ms)
    # Keys of our own, from an earlier life or an earlier path, mostly went with the registration; what is left of them
    # shows when we read, and is evicted in the next round.
    now = Reading(before.generation, tuple(before.strangers(host_of(key))), before.reservation)
    for _ in range(ROUNDS_MAX):
        await _evict(path, now, key, timeout_ms)
        if purge:
            await path.lun_reset(timeout_ms)
            purge = False
        now = await read(disk, timeout_ms)
        if settled(now, key):
            return now
        rivals = _rivals(before, now, key)
        if rivals:
            raise Contested(disk.serial, rivals)
    raise DiskRefused(f"{disk.serial}: another host's registration or reservation stays")


def _rivals(before: Reading, now: Reading, key: int) -> frozenset[int]:
    """Keys of those who take the disk while we do: they threw us out, or came after we looked, and hold it by now or
    rank higher.

    A host that was there before is no rival but the victim, whose key may move until it is thrown out.
    """
    own = host_of(key)
    if key not in now.keys and now.strangers(own):
        return now.strangers(own)
    victims = {host_of(one) for one in before.claims(own)}
    held = now.reservation.key if now.reservation is not None else None
    came = [one for one in now.claims(own) if host_of(one) not in victims]
    return frozenset(one for one in came if one == held or host_of(one) < own)


async def _register(disk: Disk, key: int, timeout_ms: int) -> Transport:
    """Register on every path, as each is a nexus of its own; the first one that took it does the rest."""
    ignoring, aptpl = scsi_pr.register_and_ignore, disk.persists
    answers = await asyncio.gather(
        *(register(path, ignoring, key, aptpl=aptpl, timeout_ms=timeout_ms) for path in disk.paths),
        return_exceptions=True,
    )
    why = f"{disk.serial}: no path"
    usable: list[Transport] = []
    for path, answer in zip(disk.paths, answers, strict=True):
        if isinstance(answer, Reply) and answer.status == Status.GOOD:
            usable.append(path)
        elif isinstance(answer, Reply):
            why = f"{disk.serial}: REGISTER: {scsi.explain(answer)}"
        elif isinstance(answer, TransportError):
            why = str(answer)
        else:
            raise answer
    if not usable:
        raise DiskRefused(why)
    return usable[0]


async def register(
    path: Transport, form: Callable[..., scsi_pr.Command], *keys: int, aptpl: bool, timeout_ms: int
) -> Reply:
    """One of the forms of REGISTER. A target that refuses APTPL, whatever it announced, is asked without it."""
    reply = await command(path, *form(*keys, aptpl=aptpl), timeout_ms=timeout_ms)
    if aptpl and _unsupported(reply):
        reply = await command(path, *form(*keys), timeout_ms=timeout_ms)
    return reply


def _unsupported(reply: Reply) -> bool:
    sense = scsi.parse_sense(reply.sense)
    return reply.status == Status.CHECK_CONDITION and sense is not None and sense.unsupported


async def _evict(path: Transport, now: Reading, key: int, timeout_ms: int) -> None:
    """One round: throw out every other key, and have the reservation. What came of it is read afterwards."""
    held = now.reservation
    victims = {other for other in now.keys if other != key}
    if held is not None and held.kind in (Kind.WRITE_EXCLUSIVE_ALL, Kind.EXCLUSIVE_ACCESS_ALL):
        await _preempt(path, key, 0, timeout_ms)  # of all registrants at once, SPC-4 6.16.2
        return
    for victim in sorted(victims):
        await _preempt(path, key, victim, timeout_ms)
    if held is None or (held.key not in victims and held.key != key):
        await _reserve(path, key, timeout_ms)
    elif held.key == key and held.kind != OURS_KIND:
        await _preempt(path, key, key, timeout_ms)  # of ourselves: changes the type in one step


async def _reserve(path: Transport, key: int, timeout_ms: int) -> None:
    reply = await command(path, *scsi_pr.reserve(key), timeout_ms=timeout_ms)
    if reply.status not in (Status.GOOD, Status.RESERVATION_CONFLICT):
        raise DiskRefused(f"{path.serial}: RESERVE: {scsi.explain(reply)}")


async def _preempt(path: Transport, key: int, victim: int, timeout_ms: int) -> None:
    """PREEMPT AND ABORT. A target without it gets PREEMPT and LUN RESET: a bare PREEMPT lets queued writes land.

    RESERVATION CONFLICT means that the victim's key is not there (any more), which the next reading sorts out.
    """
    reply = None
    if path.aborts:
        reply = await command(path, *scsi_pr.preempt(key, victim, abort=True), timeout_ms=timeout_ms)
    if reply is None or _unsupported(reply):
        reply = await command(path, *scsi_pr.preempt(key, victim), timeout_ms=timeout_ms)
        if reply.status == Status.GOOD:
            await path.lun_reset(timeout_ms)
    if reply.status not in (Status.GOOD, Status.RESERVATION_CONFLICT):
        raise DiskRefused(f"{path.serial}: PREEMPT: {scsi.explain(reply)}")


async def release_all(disks: Sequence[Disk], host_id: int, timeout_ms: int) -> dict[str, str]:
    """Give every disk up that this host holds or is registered on; the disks where that failed, and why."""
    _, failed = await each(disks, lambda disk: release(disk, host_id, timeout_ms))
    return failed


async def release(disk: Disk, host_id: int, timeout_ms: int) -> None:
    """Give one disk up, verified by reading back. Raises TransportError or DiskRefused.

    A reservation of ours is parked, not released: an unreserved disk would accept the writes of a former holder that
    was frozen when it was thrown out and wakes up now (S1). Whoever takes the disk next throws the parked key out
    without asking. On a disk that another host holds nothing of ours stays.
    """
    now = await read(disk, timeout_ms)
    for _ in range(ROUNDS_MAX):
        if _given_up(now, host_id):
            return
        await _park(disk, now, host_id, timeout_ms)
        now = await read(disk, timeout_ms)
    raise DiskRefused(f"{disk.serial}: our registration stays")


def _given_up(now: Reading, host_id: int) -> bool:
    held = now.reservation
    parked = {held.key} if held is not None and held.key == parked_key(host_id) else set()
    return set(now.own(host_id)) == parked


async def _park(disk: Disk, now: Reading, host_id: int, timeout_ms: int) -> None:
    """One round on every path, each of which has a registration of its own.

    Never REGISTER AND IGNORE EXISTING KEY with a key: after being preempted that would let us back in to write.
    """
    held, parked = now.reservation, parked_key(host_id)
    ours = held is not None and host_of(held.key) == host_id and held.kind == OURS_KIND
    if ours and parked in now.keys:  # what is left of ours are registrations that no working path of today has
        for ghost in sorted(set(now.own(host_id)) - {parked}):
            await _evict_ghost(disk, parked, ghost, timeout_ms)
        return
    known = now.own(host_id) if ours else ()

    async def on(path: Transport) -> None:
        for key in known:
            reply = await register(path, scsi_pr.register, key, parked, aptpl=disk.persists, timeout_ms=timeout_ms)
            if reply.status == Status.GOOD:
                return
        await command(path, *scsi_pr.register_and_ignore(0), timeout_ms=timeout_ms)

    await asyncio.gather(*(on(path) for path in disk.paths), return_exceptions=True)


async def _evict_ghost(disk: Disk, key: int, ghost: int, timeout_ms: int) -> None:
    """By whichever path is alive and has `key`; the disk refuses the others, and the next reading tells."""
    works = (_preempt(path, key, ghost, timeout_ms) for path in disk.paths)
    answers = await asyncio.gather(*works, return_exceptions=True)
    failures = [answer for answer in answers if isinstance(answer, BaseException)]
    for failure in failures:
        if not isinstance(failure, TransportError | DiskRefused) or len(failures) == len(answers):
            raise failure
