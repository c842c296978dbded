"""Which disks the keeper need not count any more: gone from both controllers, while one of them leads without them."""

from dataclasses import replace

import pytest

from middlewared.plugins.failover.facts import Facts, PoolFacts
from middlewared.plugins.failover.gone import gone
from middlewared.plugins.failover.reasons import codes
from middlewared.plugins.failover.state import Role
from middlewared.ports import Pool

TANK = Pool("tank", "1", True, "DEGRADED")
SEEN = ("d1", "d2")


def on_master(a: Facts, b: Facts | None, *, pool: Pool = TANK) -> frozenset[str]:
    return gone(a, b, ("d3",), SEEN, [pool])


def on_standby(a: Facts, b: Facts, *, visible: tuple[str, ...] = SEEN) -> frozenset[str]:
    return gone(b, a, ("d3",), visible, [replace(TANK, imported=False, status="OFFLINE")])


def test_a_disk_that_neither_sees_is_gone(a: Facts, b: Facts) -> None:
    assert on_master(a, b) == {"d3"}
    assert on_standby(a, b) == {"d3"}


def test_the_reason_stays_while_the_other_has_it(a: Facts, b: Facts) -> None:
    """A cable that is out here is no replaced disk (S7)."""
    has_it = replace(b, disks=("d1", "d2", "d3"))
    assert on_master(a, has_it) == frozenset()
    assert "MISMATCH_DISKS" in codes(a, has_it)
    has_it = replace(a, disks=("d1", "d2", "d3"))
    assert on_standby(has_it, b) == frozenset()
    assert "MISMATCH_DISKS" in codes(b, has_it)


def test_a_disk_that_only_does_not_answer_is_not_gone(a: Facts, b: Facts) -> None:
    assert on_standby(a, b, visible=("d1", "d2", "d3")) == frozenset()


def test_the_standby_waits_for_the_master(a: Facts, b: Facts) -> None:
    """Which alone knows whether its pools can do without."""
    assert on_standby(replace(a, too_few_disks=True), b) == frozenset()
    assert on_master(replace(a, too_few_disks=True), b) == {"d3"}
    assert on_master(a, b, pool=replace(TANK, status="SUSPENDED")) == frozenset()


NOBODY_CAN_TELL = [
    ({"role": Role.TAKING}, {}),
    ({"role": Role.BACKUP}, {}),
    ({}, {"role": Role.ERROR}),
    ({}, {"ready": False}),
    ({"ready": False}, {}),
    ({}, {"fence_running": False}),
    ({"fence_held": False}, {}),
    ({"pools": ()}, {}),
    ({"pools": (PoolFacts("1", "tank", True), PoolFacts("2", "dozer", False))}, {}),
    ({}, {"disks": ()}),
    ({"disks": ()}, {}),
]


@pytest.mark.parametrize(("here", "there"), NOBODY_CAN_TELL)
def test_nothing_is_forgotten_unless_one_leads_and_the_other_stands_by(
    a: Facts, b: Facts, here: dict[str, object], there: dict[str, object]
) -> None:
    a, b = replace(a, **here), replace(b, **there)  # type: ignore[arg-type]  # members by name
    assert on_master(a, b) == frozenset()
    assert on_standby(a, b) == frozenset()


def test_where_nobody_leads_the_old_disk_keeps_nobody_from_it(a: Facts, b: Facts) -> None:
    """It was replaced while both were down to their last try."""
    a = replace(a, role=Role.ERROR, fence_held=False, too_few_disks=True, pools=(PoolFacts("1", "tank", False),))
    for standby in (replace(b, too_few_disks=True), replace(b, role=Role.TAKING, electing=True)):
        assert on_master(a, standby) == on_standby(a, standby) == {"d3"}
    assert on_standby(a, replace(b, role=Role.YIELDING, electing=False)) == frozenset()


def test_nothing_is_forgotten_alone(a: Facts) -> None:
    assert on_master(a, None) == frozenset()
