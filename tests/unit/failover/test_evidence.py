"""Every row of the table has its evidence, and it names what is wrong."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from middlewared.plugins.failover.evidence import evidence
from middlewared.plugins.failover.facts import Facts, PoolFacts
from middlewared.plugins.failover.reasons import TABLE, codes
from middlewared.plugins.failover.state import Role
from middlewared.ports import Vrrp

SINCE = datetime(2026, 11, 24, 1, 2, 3, tzinfo=UTC)
ALONE: Any = None  # the other controller cannot be reached
Changes = dict[str, Any]

# code, what is wrong with A (which answers), what with B, the sentence. `eth0`: changes of that interface
CASES: list[tuple[str, Changes, Changes, str]] = [
    ("NO_VOLUME", {"pools": ()}, {"pools": ()}, "A sees 2 disks and no pool; B sees 2 disks and no pool"),
    ("NO_VOLUME", {"pools": ()}, ALONE, "A sees 2 disks and no pool; B cannot be asked"),
    ("NO_VIP", {"eth0": {"virtual_addresses": ()}}, {}, "no virtual address on eth0, eth1"),
    ("NO_VIP", {"interfaces": ()}, {}, "no interface is configured"),
    ("NO_SYSTEM_READY", {}, {"ready": False}, "B (controller-b) says that it is still starting"),
    ("NO_SYSTEM_READY", {"ready": False}, ALONE, "A (controller-a) says that it is still starting"),
    ("NO_PONG", {}, ALONE, "no answer from B since 2026-11-24 01:02:03 UTC"),
    ("NO_FAILOVER", {"disabled": True}, {}, "`disabled` is set in the pair's configuration, as A has it"),
    ("NO_LICENSE", {}, {"licensed": False}, "B has no licence"),
    (
        "NO_LICENSE",
        {},
        {"licensed": False, "licence_problem": "it expired at 2026-11-26T12:00:00Z"},
        "B has no licence: it expired at 2026-11-26T12:00:00Z",
    ),
    ("NO_LICENSE", {"licensed": False}, {"licensed": False}, "A has no licence; B has no licence"),
    (
        "DISAGREE_VIP",
        {},
        {"eth0": {"vrrp": Vrrp.FAULT, "link_up": False}},
        "eth0: A is MASTER, B is FAULT (link down)",
    ),
    ("DISAGREE_VIP", {}, {"eth0": {"vrrp": None}}, "eth0: A is MASTER, no VRRP speaker on B"),
    ("DISAGREE_VIP", {}, {"interfaces": ()}, "eth0: A is MASTER, B does not have it"),
    (
        "DISAGREE_VIP",
        {"eth0": {"vrrp": Vrrp.BACKUP}},
        {"eth0": {"vrrp": Vrrp.MASTER}},
        "eth0: A is BACKUP, B is MASTER, but A leads, B stands by",
    ),
    ("MISMATCH_DISKS", {}, {"disks": ("d1",)}, "disks only A sees: d2"),
    ("MISMATCH_DISKS", {}, {"disks": ("d1", "d3")}, "disks only A sees: d2; disks only B sees: d3"),
    (
        "MISMATCH_DISKS",
        {"disks": tuple(f"d{number}" for number in range(10, 40))},
        {"disks": ()},
        "disks only A sees: d10, d11, d12, d13, d14, d15, d16, d17 and 22 more",
    ),
    ("MISMATCH_DISKS", {"too_few_disks": True}, {}, "more than a tenth do not answer A"),
    (
        "MISMATCH_DISKS",
        {"disks": ("d1", "d2", "d3")},
        {"too_few_disks": True},
        "disks only A sees: d3; more than a tenth do not answer B",
    ),
    ("MISMATCH_VERSIONS", {}, {"version": "1.1"}, "A runs 1.0, B runs 1.1"),
    ("MISMATCH_NICS", {}, {"nics": ("eth0", "hb0")}, "interfaces only A has: eth1"),
    (
        "NO_CRITICAL_INTERFACES",
        {"eth0": {"critical": False}},
        {"eth0": {"critical": False}},
        "none of eth0, eth1 is marked",
    ),
    ("NO_CRITICAL_INTERFACES", {"interfaces": ()}, {}, "no interface is configured"),
    ("NO_FENCED", {"fence_running": False}, {}, "fenced does not answer on A"),
    ("NO_FENCED", {"fence_held": False}, {}, "tank is imported on A, whose fenced does not hold the disks"),
    ("NO_FENCED", {}, {"fence_running": False}, "fenced does not answer on B"),
    ("LOC_FAILOVER_ONGOING", {"role": Role.YIELDING}, {}, "A is giving up its role"),
    (
        "LOC_FAILOVER_ONGOING",
        {"role": Role.TAKING, "electing": True},
        {},
        "A is becoming MASTER: it waits for the disks",
    ),
    (
        "REM_FAILOVER_ONGOING",
        {},
        {"role": Role.TAKING},
        "B is becoming MASTER: it holds the disks, and brings up pools and services",
    ),
    (
        "NO_HEARTBEAT_IFACE",
        {"heartbeat_exists": False, "nics": ("eth0", "eth1")},
        {},
        "A has eth0, eth1, and no heartbeat interface",
    ),
    ("NO_CARRIER_ON_HEARTBEAT", {"heartbeat_carrier": False}, {}, "the link of A's heartbeat interface is down"),
    *(
        (f"LOC_{code}_REBOOT_REQ", {"reboot_reasons": {code: "It was changed."}}, {}, "A: It was changed.")
        for code in ("UPGRADE", "FIPS", "GPOSSTIG")
    ),
    *(
        (f"REM_{code}_REBOOT_REQ", {}, {"reboot_reasons": {code: "It was changed."}}, "B: It was changed.")
        for code in ("UPGRADE", "FIPS", "GPOSSTIG")
    ),
    ("LOC_SYSTEM_DATASET_MIGRATION_IN_PROGRESS", {"migrating_system_dataset": True}, {}, "A moves its system dataset"),
    ("REM_SYSTEM_DATASET_MIGRATION_IN_PROGRESS", {}, {"migrating_system_dataset": True}, "B moves its system dataset"),
]


def spoiled(facts: Facts, changes: Changes) -> Facts:
    members = dict(changes)
    if "eth0" in members:
        first, *rest = facts.interfaces
        members["interfaces"] = (replace(first, **members.pop("eth0")), *rest)
    return replace(facts, **members)


@pytest.mark.parametrize(("code", "here", "there", "sentence"), CASES, ids=[case[0] for case in CASES])
def test_the_evidence_names_what_is_wrong(
    code: str, here: Changes, there: Changes, sentence: str, a: Facts, b: Facts
) -> None:
    mine, other = spoiled(a, here), None if there is ALONE else spoiled(b, there)
    assert code in codes(mine, other), "the facts must provoke the reason"
    assert evidence(code, mine, other, SINCE) == sentence


def test_every_row_of_the_table_is_proved_here() -> None:
    assert {case[0] for case in CASES} == {reason.code for reason in TABLE}


def test_both_controllers_say_the_same_of_what_concerns_both(a: Facts, b: Facts) -> None:
    b = replace(spoiled(b, {"eth0": {"vrrp": Vrrp.FAULT}}), disks=("d1",), version="2", nics=())
    b = replace(b, fence_running=False, licensed=False, pools=(PoolFacts("1", "tank", True),))
    for code in ("DISAGREE_VIP", "MISMATCH_DISKS", "MISMATCH_VERSIONS", "MISMATCH_NICS", "NO_FENCED", "NO_LICENSE"):
        assert evidence(code, a, b, SINCE) == evidence(code, b, a, SINCE) != ""
