"""Verdicts on what was read, and the watch over the other controller."""

import pytest

from middlewared.plugins.fencing import logic
from middlewared.plugins.fencing.logic import Finding, Peer, PeerWatch, Reading
from middlewared.plugins.fencing.scsi_pr import Kind, Reservation, make_key

US, THEM = 0xA000_0001, 0xB000_0001
MINE, OLD, THEIRS = make_key(US, 12), make_key(US, 9), make_key(THEM, 3)
FLOOR = 10


def held(key: int, kind: int = 5, scope: int = 0) -> Reservation:
    return Reservation(key, kind, scope)


@pytest.mark.parametrize(
    ("reading", "finding"),
    [
        (Reading(9, (MINE,), held(MINE)), Finding.OURS),
        (Reading(9, (MINE, MINE), held(MINE)), Finding.OURS),  # two paths
        (Reading(9, (MINE, THEIRS), held(MINE)), Finding.SHARED),
        (Reading(9, (MINE,), None), Finding.UNRESERVED),
        (Reading(9, (MINE,), held(MINE, 1)), Finding.UNRESERVED),
        (Reading(0, (), None), Finding.FORGOTTEN),
        (Reading(1, (), None), Finding.GONE),  # somebody was here, and left
        (Reading(0, (THEIRS,), None), Finding.GONE),
        (Reading(9, (OLD,), held(OLD)), Finding.GONE),  # a key from an earlier life proves nothing
        (Reading(9, (THEIRS,), held(THEIRS)), Finding.TAKEN),
        (Reading(9, (MINE, THEIRS), held(THEIRS)), Finding.TAKEN),
        (Reading(9, (MINE,), held(0, 7)), Finding.TAKEN),  # all registrants: not how we reserve
    ],
)
def test_judge(reading: Reading, finding: Finding) -> None:
    assert logic.judge(reading, US, FLOOR) is finding


def test_settled_is_strict() -> None:
    assert logic.settled(Reading(1, (MINE, MINE), held(MINE)), MINE)
    assert not logic.settled(Reading(1, (MINE, THEIRS), held(MINE)), MINE)
    assert not logic.settled(Reading(1, (MINE,), held(MINE, Kind.WRITE_EXCLUSIVE)), MINE)
    assert not logic.settled(Reading(1, (MINE,), None), MINE)
    assert not logic.settled(Reading(1, (OLD,), held(OLD)), MINE)


@pytest.mark.parametrize(("failed", "total", "refused"), [(0, 1, 0), (1, 1, 1), (1, 9, 1), (1, 10, 0), (3, 24, 1)])
def test_a_tenth_may_fail(failed: int, total: int, refused: int) -> None:
    assert logic.too_many(failed, total) is bool(refused)


def test_blind_needs_more_than_half() -> None:
    waiting = {"1": None, "2": 900.0, "3": 400.0, "4": 0.0}
    assert logic.blind(waiting, 1000, 500) == []
    assert logic.blind({**waiting, "2": 0.0}, 1000, 500) == ["2", "3", "4"]
    assert logic.blind({}, 1000, 500) == []


def test_sentinels_are_the_same_for_both_and_skip_the_failed() -> None:
    assert logic.sentinels(["d", "b", "a", "c"], (), 2) == ["a", "b"]
    assert logic.sentinels(["d", "b", "a", "c"], {"a"}, 2) == ["b", "c"]


@pytest.mark.parametrize(("disks", "checks"), [(1, 1), (20, 1), (24, 2), (1000, 50)])
def test_each_disk_is_checked_within_the_period(disks: int, checks: int) -> None:
    assert logic.checks_a_beat(disks, 50, 1000) == checks


def key(generation: int) -> frozenset[int]:
    return frozenset({make_key(THEM, generation)})


NOBODY: frozenset[int] = frozenset()


def watched(*seen: tuple[int, frozenset[int]]) -> PeerWatch:
    watch = PeerWatch(alive_ms=150)
    for at_ms, keys in seen:
        watch.observe("s0", keys, at_ms)
    return watch


@pytest.mark.parametrize(
    ("seen", "now_ms", "status"),
    [
        ([], 0, Peer.UNKNOWN),
        ([(0, NOBODY)], 0, Peer.ABSENT),
        ([(0, NOBODY)], 151, Peer.UNKNOWN),  # too long ago
        ([(0, key(1))], 100, Peer.UNKNOWN),  # not long enough
        ([(0, key(1)), (100, key(2))], 120, Peer.MOVING),
        ([(0, key(1)), (100, key(2))], 249, Peer.MOVING),
        ([(0, NOBODY), (50, key(1))], 60, Peer.MOVING),  # it just came
        ([(0, key(1)), (50, NOBODY)], 60, Peer.ABSENT),  # it just left
        ([(0, key(1)), (100, key(1)), (150, key(1))], 150, Peer.STILL),
        ([(0, key(1)), (180, key(1))], 180, Peer.STILL),  # whatever the pause: no generation comes back
        ([(0, key(1)), (151, key(1)), (301, key(1))], 301, Peer.STILL),
        ([(0, key(0xFFFF_FFFF)), (50, key(1))], 60, Peer.MOVING),
    ],
)
def test_peer_watch(seen: list[tuple[int, frozenset[int]]], now_ms: int, status: Peer) -> None:
    assert watched(*seen).status(now_ms) is status


def test_a_late_answer_proves_nothing_after_it_was_asked_for() -> None:
    watch = watched((0, key(1)))
    watch.observe("s0", key(1), 400, asked_ms=60)
    assert watch.status(400) is Peer.UNKNOWN, "it may have moved since 60"
    watch.observe("s0", key(1), 800, asked_ms=450)
    assert watch.status(800) is Peer.STILL


def test_one_moving_disk_is_life() -> None:
    watch = watched((0, key(1)), (100, key(1)), (160, key(1)))
    watch.observe("s1", key(1), 100)
    assert watch.status(160) is Peer.UNKNOWN, "the second disk is not watched for long enough"
    watch.observe("s1", key(2), 170)
    assert watch.status(180) is Peer.MOVING


def test_after_lost_time_nothing_is_known() -> None:
    watch = watched((0, key(1)), (100, key(1)), (160, key(1)))
    watch.forget()
    assert watch.status(160) is Peer.UNKNOWN


def test_newer_keys_elsewhere_must_be_watched_too() -> None:
    watch = watched((0, key(5)), (100, key(5)))
    foreign = {"s0": key(5), "older": key(4), "same": key(5), "newer": key(6), "none": NOBODY}
    assert watch.unwatched(foreign, 100) == ["newer"]
    assert watched((0, NOBODY)).unwatched({"only": key(1)}, 0) == ["only"]
    many = {f"{number:03}": key(7) for number in range(100)}
    assert len(watch.unwatched(many, 100)) == logic.UNWATCHED_MAX
