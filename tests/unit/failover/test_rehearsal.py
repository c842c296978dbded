"""Every check of a rehearsal: fine in a healthy pair, and failed by exactly its own trouble."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from middlewared.plugins.failover.facts import Facts
from middlewared.plugins.failover.rehearsal import Check, Locks, Seen, checks, look, result, unreachable
from middlewared.plugins.failover.state import Role
from middlewared.ports import DiskRehearsal, FenceCode, FenceRehearsal, FenceResult, PortError, Vrrp

FENCE = FenceRehearsal(
    FenceResult(FenceCode.OK, "2 of 2 disks answer"), (DiskRehearsal("d1", holder="A"), DiskRehearsal("d2", holder="A"))
)
SEEN = Seen(fence=FENCE, pools={"tank": ""}, services={"nfs": True}, open=False)


def failed(found: list[Check]) -> list[tuple[str, str, str]]:
    return [(check.name, check.subject, check.detail) for check in found if not check.ok]


def test_a_healthy_standby_would_take_over(a: Facts, b: Facts) -> None:
    found = checks(b, a, SEEN)
    assert result("B", found)["would_work"]
    assert failed(found) == []
    assert [check.name for check in found] == [
        *("peer", "role", "election", "licence", "enabled", "configuration", "keeper", "disks", "disk", "disk"),
        *("pool", "service", "traffic"),
    ]
    assert {check.remedy for check in found} == {""}


def test_a_dataset_whose_key_the_standby_lacks_is_told_and_does_not_decide(a: Facts, b: Facts) -> None:
    datasets = {"tank/b": Locks(False, False), "tank/a": Locks(True, False), "tank/c": Locks(False, True)}
    found = checks(b, a, replace(SEEN, datasets=datasets))
    assert failed(found) == [
        ("dataset", "tank/a", "is locked, and stays so: B does not hold its key"),
        ("dataset", "tank/b", "is open now, and would be locked after a takeover: B does not hold its key"),
    ]
    assert all("unlock tank/" in check.remedy for check in found if not check.ok)
    assert [check.detail for check in found if check.subject == "tank/c"] == ["B holds its key"]
    assert result("B", found)["would_work"]
    silent = checks(
        b, a, replace(SEEN, datasets="the other controller cannot tell its encrypted datasets: Call timeout")
    )
    assert failed(silent) == [
        ("dataset", "all", "the other controller cannot tell its encrypted datasets: Call timeout")
    ]


class Standby:
    """As much of its ports as a rehearsal asks; it holds the keys of one dataset."""

    async def rehearse(self) -> FenceRehearsal:
        return FENCE

    async def allowed(self) -> bool:
        return False

    async def trouble(self, guid: str) -> str:
        return ""

    def states(self) -> dict[str, bool]:
        return {}

    def keys_held(self) -> set[str]:
        return {"tank/held"}

    def query(self, sql: str) -> list[dict[str, Any]]:
        return []


async def test_what_the_other_has_is_compared_with_what_is_held_here() -> None:
    machine = Standby()
    pools = SimpleNamespace(pools=no_pools, trouble=machine.trouble, keys_held=machine.keys_held)
    ports = SimpleNamespace(fencing=machine, firewall=machine, services=machine, pools=pools)

    async def told() -> list[dict[str, Any]]:
        given = {"key_location": "prompt", "locked": False}
        return [{"id": "tank/held", **given}, {"id": "tank/other", **given}, {"id": "tank/file", **given, **FILE}]

    seen = await look(cast(Any, ports), cast(Any, machine), told())
    assert seen.datasets == {"tank/held": Locks(False, True), "tank/other": Locks(False, False)}

    async def refused() -> list[dict[str, Any]]:
        raise PortError("the other controller cannot tell its encrypted datasets: [EACCES] Not allowed")

    seen = await look(cast(Any, ports), cast(Any, machine), refused())
    assert seen.datasets == "the other controller cannot tell its encrypted datasets: [EACCES] Not allowed"


FILE = {"key_location": "file:///etc/zfs/key"}


async def no_pools() -> list[Any]:
    return []


def with_interface(facts: Facts, **changes: Any) -> Facts:
    return replace(facts, interfaces=(replace(facts.interfaces[0], **changes), *facts.interfaces[1:]))


SPOILED: list[tuple[Callable[[Facts], Facts], Callable[[Facts], Facts | None], tuple[str, str, str]]] = [
    (lambda b: b, lambda a: replace(a, role=Role.ERROR), ("peer", "A", "does not lead: its role is ERROR")),
    (lambda b: replace(b, ready=False), lambda a: a, ("role", "B", "has not finished booting")),
    (lambda b: replace(b, role=Role.ERROR), lambda a: a, ("role", "B", "does not stand by: its role is ERROR")),
    (
        lambda b: with_interface(b, vrrp=Vrrp.FAULT, link_up=False),
        lambda a: a,
        ("election", "eth0", "VRRP is FAULT, and the link is down: it cannot be elected"),
    ),
    (
        lambda b: with_interface(b, vrrp=Vrrp.STOP),
        lambda a: a,
        ("election", "eth0", "VRRP is STOP, and the link is up: it cannot be elected"),
    ),
    (lambda b: with_interface(b, vrrp=None), lambda a: a, ("election", "eth0", "no VRRP speaker runs on it")),
    (
        lambda b: with_interface(b, critical=False),
        lambda a: a,
        ("election", "B", "no critical interface has a virtual IP"),
    ),
    (lambda b: replace(b, licensed=False), lambda a: a, ("licence", "B", "has no licence")),
    (
        lambda b: replace(b, disabled=True),
        lambda a: a,
        ("enabled", "B", "failover is administratively disabled"),
    ),
    (
        lambda b: replace(b, position=7),
        lambda a: a,
        ("configuration", "B", "has change 7 of epoch 1, A has change 1 of epoch 1"),
    ),
    (
        lambda b: b,
        lambda a: replace(a, epoch=2),
        ("configuration", "B", "has change 1 of epoch 1, A has change 1 of epoch 2"),
    ),
]


@pytest.mark.parametrize(("here", "there", "expected"), SPOILED, ids=[case[2][2] for case in SPOILED])
def test_one_trouble_of_the_facts_fails_one_check(
    here: Callable[[Facts], Facts],
    there: Callable[[Facts], Facts],
    expected: tuple[str, str, str],
    a: Facts,
    b: Facts,
) -> None:
    found = checks(here(b), there(a), SEEN)
    assert failed(found) == [expected]
    assert [bool(check.remedy) for check in found] == [not check.ok for check in found]
    assert not result("B", found)["would_work"]


MACHINE: list[tuple[dict[str, Any], tuple[str, str, str]]] = [
    ({"fence": "fenced did not answer"}, ("keeper", "fenced", "fenced did not answer")),
    ({"pools": {"tank": "too few disks"}}, ("pool", "tank", "too few disks")),
    ({"pools": {}}, ("pool", "all", "there are no pools on the shared disks")),
    ({"pools": "the kernel cannot tell"}, ("pool", "all", "the kernel cannot tell")),
    ({"services": {"smb": False}}, ("service", "smb", "is enabled, but this controller does not have it")),
    ({"open": "no answer"}, ("traffic", "B", "no answer")),
    (
        {"open": True},
        (
            "traffic",
            "B",
            "the firewall lets traffic to the virtual addresses in before this controller is fit to serve it",
        ),
    ),
]


@pytest.mark.parametrize(("trouble", "expected"), MACHINE, ids=[case[1][2] for case in MACHINE])
def test_one_trouble_of_the_machine_fails_one_check(
    trouble: dict[str, Any], expected: tuple[str, str, str], a: Facts, b: Facts
) -> None:
    found = checks(b, a, replace(SEEN, **trouble))
    assert failed(found) == [expected]
    assert [bool(check.remedy) for check in found] == [not check.ok for check in found]
    assert not result("B", found)["would_work"]


def test_a_standby_that_cannot_see_the_other_says_what_it_cannot_know(b: Facts) -> None:
    assert [name for name, _, _ in failed(checks(b, None, SEEN))] == ["peer", "configuration"]


def test_a_disk_or_two_do_not_decide(a: Facts, b: Facts) -> None:
    disks = (DiskRehearsal("d1", problem="d1: no answer"), DiskRehearsal("d2", holder="A", unexpected=("0xc",)))
    tolerable = FenceRehearsal(FenceResult(FenceCode.OK, "19 of 20 disks answer"), disks)
    answer = result("B", checks(b, a, replace(SEEN, fence=tolerable)))
    assert answer["would_work"]
    assert answer["failures"] == ["disk d1: no answer", "disk d2: answers, held by A; unexpected keys: 0xc"]


def test_too_many_disks_do(a: Facts, b: Facts) -> None:
    refused = FenceRehearsal(FenceResult(FenceCode.TOO_MANY_REFUSED, "3 of 20 disks could not be read"), ())
    answer = result("B", checks(b, a, replace(SEEN, fence=refused)))
    assert not answer["would_work"]
    assert answer["failures"] == ["disks all: 3 of 20 disks could not be read"]


def test_a_master_without_the_other_has_one_failed_check(a: Facts) -> None:
    answer = unreachable(a, "no link")
    assert (answer["node"], answer["would_work"]) == ("A", False)
    assert answer["failures"] == ["peer B: cannot be asked: no link"]
    assert answer["checks"][0]["remedy"] != ""
