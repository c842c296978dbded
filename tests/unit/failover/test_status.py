from dataclasses import replace
from typing import Any

import pytest

from middlewared.plugins.failover.facts import Facts
from middlewared.plugins.failover.state import Role
from middlewared.plugins.failover.status import Status, status


def test_a_healthy_pair(a: Facts, b: Facts) -> None:
    assert status(a, b) is Status.MASTER
    assert status(b, a) is Status.BACKUP


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"licensed": False}, Status.SINGLE),
        ({"interfaces": ()}, Status.SINGLE),
        ({"role": Role.TAKING, "electing": True}, Status.ELECTING),
        ({"role": Role.TAKING}, Status.IMPORTING),
        ({"role": Role.YIELDING}, Status.MASTER),
        ({"role": Role.ERROR}, Status.ERROR),
        ({"role": Role.BOOTING}, Status.UNKNOWN),
    ],
)
def test_what_this_controller_knows_by_itself(changes: dict[str, Any], expected: Status, a: Facts, b: Facts) -> None:
    assert status(replace(a, **changes), b) is expected


@pytest.mark.parametrize(
    ("other_role", "rival_moving", "expected"),
    [
        (None, True, Status.BACKUP),  # unreachable, but alive on the disks
        (None, False, Status.UNKNOWN),
        (Role.TAKING, False, Status.BACKUP),
        (Role.ERROR, False, Status.ERROR),
        (Role.BACKUP, False, Status.BACKUP),  # an election is about to be held
    ],
)
def test_a_standby_looks_at_the_other(
    other_role: Role | None, rival_moving: bool, expected: Status, a: Facts, b: Facts
) -> None:
    other = None if other_role is None else replace(a, role=other_role)
    assert status(replace(b, rival_moving=rival_moving), other) is expected


def test_nobody_leads_and_nobody_will(a: Facts, b: Facts) -> None:
    other = replace(a, role=Role.BACKUP, disabled=True)
    assert status(replace(b, rival_moving=False, disabled=True), other) is Status.ERROR
