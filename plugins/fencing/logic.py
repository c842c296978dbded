"""What to think of what was read from the disks. Pure: times are handed in, as milliseconds of one clock."""

import enum
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from middlewared.plugins.fencing.scsi_pr import Kind, Reservation, generation_of, host_of, is_parked, not_before

OURS_KIND = Kind.WRITE_EXCLUSIVE_REGISTRANTS
HOST_IDS = {"A": 0xA000_0001, "B": 0xB000_0001}  # where fence.host_id is 0
FAILURES_PERCENT_MAX = 10
UNWATCHED_MAX = 16  # disks to watch beside the sentinels


@dataclass(frozen=True, slots=True)
class Reading:
    """Keys and reservation of one disk, read together. `generation` is the target's own count of changes."""

    generation: int
    keys: tuple[int, ...]
    reservation: Reservation | None

    def own(self, host_id: int) -> tuple[int, ...]:
        """Registered keys of this host."""
        return tuple(key for key in self.keys if host_of(key) == host_id)

    def strangers(self, host_id: int) -> frozenset[int]:
        """Registered keys of other hosts."""
        return frozenset(key for key in self.keys if host_of(key) != host_id)

    def claims(self, host_id: int) -> frozenset[int]:
        """Those of them that stand for a host which may be alive, and has not given the disk up."""
        return frozenset(key for key in self.strangers(host_id) if not is_parked(key))


class Finding(enum.Enum):
    """What a holder finds on a disk that it holds."""

    OURS = "ours"
    SHARED = "ours, but another host is registered beside us and could write"
    UNRESERVED = "we are registered, but nobody holds the reservation"
    FORGOTTEN = "the target restarted and has forgotten everything"
    TAKEN = "another host holds the reservation"
    GONE = "our registration was removed"


def judge(reading: Reading, host_id: int, floor: int) -> Finding:
    """What became of a disk that we hold since generation `floor`.

    A target that restarted counts from 0 again and knows no key. Anything else without our key is the work of another
    host: thrown out by PREEMPT or CLEAR, even if that host has left again since.
    """
    held = reading.reservation
    if held is not None and host_of(held.key) != host_id:
        return Finding.TAKEN
    living = (generation_of(key) for key in reading.own(host_id) if not is_parked(key))
    if not any(not_before(generation, floor) for generation in living):
        forgotten = not reading.keys and held is None and reading.generation == 0
        return Finding.FORGOTTEN if forgotten else Finding.GONE
    if held is None or held.kind != OURS_KIND or held.scope != 0:
        return Finding.UNRESERVED
    return Finding.SHARED if reading.strangers(host_id) else Finding.OURS


def settled(reading: Reading, key: int) -> bool:
    """The disk is ours alone: `key` holds a reservation of our type, and nobody else is registered."""
    return reading.reservation == Reservation(key, OURS_KIND) and set(reading.keys) == {key}


def too_many(failed: int, total: int) -> bool:
    """More disks failed than a takeover may leave behind."""
    return failed * 100 > total * FAILURES_PERCENT_MAX


def blind(waiting_ms: Mapping[str, float | None], now_ms: float, lost_ms: int) -> list[str]:
    """The disks that are asked since more than lost_ms without an answer, if they are more than half; else none.

    `waiting_ms`: since when each disk owes an answer; None: it does not. More than half and not more than a tenth: a
    shelf of a mirrored pair that lost power is seen by neither controller, and to reset the one that serves from the
    other half would end the service. The disks themselves refuse a writer that lost them, so that the answer to partial
    blindness is availability's, not safety's.
    """
    unseen = [serial for serial, since in waiting_ms.items() if since is not None and now_ms - since > lost_ms]
    return unseen if len(unseen) * 2 > len(waiting_ms) else []


def sentinels(serials: Iterable[str], failed: Collection[str], count: int) -> list[str]:
    """The disks on which the holder shows life and the standby looks for it: the first working ones by serial."""
    return sorted(serial for serial in serials if serial not in failed)[:count]


def checks_a_beat(disks: int, heartbeat_ms: int, period_ms: int) -> int:
    """How many disks to check each heartbeat, so that each is checked once in period_ms."""
    return math.ceil(disks * heartbeat_ms / period_ms)


def latest(generations: Iterable[int], known: int) -> int:
    """The latest of `known` and the others, across a wrap."""
    for generation in generations:
        if not_before(generation, known):
            known = generation
    return known


class Peer(enum.StrEnum):
    """The other controller, seen through the disks."""

    UNKNOWN = "UNKNOWN"  # not watched for long enough: may be alive
    ABSENT = "ABSENT"  # no key of it anywhere
    MOVING = "MOVING"  # its key changed within alive_ms
    STILL = "STILL"  # its key was watched for alive_ms and did not change


@dataclass(slots=True)
class _Seen:
    keys: frozenset[int]
    since_ms: float  # they are known to be the same from here
    until_ms: float  # to here
    last_ms: float  # when the last answer came


@dataclass(slots=True)
class PeerWatch:
    """Watches the other controller's keys on some disks."""

    alive_ms: int
    _seen: dict[str, _Seen] = field(default_factory=dict)
    _moved_ms: float = -math.inf

    def observe(self, serial: str, keys: frozenset[int], now_ms: float, asked_ms: float | None = None) -> None:
        """Foreign keys read from a watched disk. A key that came or changed has moved; one that left has not.

        The answer is from some moment between `asked_ms` and `now_ms`, which may lie far apart on a slow disk. However
        long the pause between two readings, a key that is the same in both has not moved: no generation comes back.
        """
        asked_ms = now_ms if asked_ms is None else asked_ms
        seen = self._seen.get(serial)
        if seen is None:
            self._seen[serial] = _Seen(keys, now_ms, asked_ms, now_ms)
            return
        if keys - seen.keys:
            self._moved_ms = seen.since_ms = now_ms
        seen.keys, seen.until_ms, seen.last_ms = keys, asked_ms, now_ms

    def forget(self) -> None:
        """Time was lost: what was seen before proves nothing."""
        self._seen.clear()
        self._moved_ms = -math.inf

    def status(self, now_ms: float) -> Peer:
        if now_ms - self._moved_ms < self.alive_ms:
            return Peer.MOVING
        fresh = self._fresh(now_ms)
        if not fresh:
            return Peer.UNKNOWN
        shown = [seen for seen in fresh if seen.keys]
        if not shown:
            return Peer.ABSENT
        return Peer.STILL if all(seen.until_ms - seen.since_ms >= self.alive_ms for seen in shown) else Peer.UNKNOWN

    def keys(self, now_ms: float) -> frozenset[int]:
        """The foreign keys on the watched disks."""
        return frozenset(key for seen in self._fresh(now_ms) for key in seen.keys)

    def unwatched(self, foreign: Mapping[str, frozenset[int]], now_ms: float) -> list[str]:
        """Of all disks, those with the newest foreign key, if no watched disk has it: its owner may show life there."""
        known = [generation_of(key) for key in self.keys(now_ms)]
        newest = latest((generation_of(key) for keys in foreign.values() for key in keys), 0)
        if any(not_before(generation, newest) for generation in known):
            return []
        shown = sorted(serial for serial, keys in foreign.items() if newest in map(generation_of, keys))
        return [serial for serial in shown if serial not in self._seen][:UNWATCHED_MAX]

    def _fresh(self, now_ms: float) -> Sequence[_Seen]:
        return [seen for seen in self._seen.values() if now_ms - seen.last_ms <= self.alive_ms]


@dataclass(slots=True)
class BlankWatch:
    """Disks on which nobody is registered: new ones, or those of a target that restarted and has forgotten.

    Whoever held them then registers again as soon as it notices, and nothing in SPC-4 makes that depend on nobody
    having come in between: what it registers late on another's reservation may write (registrants only). So nobody else
    takes such a disk before the holder has had its time, `settle_ms`, after which it does not try any more.
    """

    settle_ms: int
    _since_ms: dict[str, float] = field(default_factory=dict)

    def observe(self, serial: str, keys: Collection[int], now_ms: float) -> bool:
        """The keys read from a disk; whether it is blank for the first time."""
        if keys:
            self._since_ms.pop(serial, None)
            return False
        return self._since_ms.setdefault(serial, now_ms) == now_ms

    def forget(self) -> None:
        """Time was lost: what was seen before proves nothing."""
        self._since_ms.clear()

    def unsettled(self, now_ms: float) -> list[str]:
        """The disks that are blank for less than settle_ms, as far as we have seen."""
        return sorted(serial for serial, since_ms in self._since_ms.items() if now_ms - since_ms < self.settle_ms)
