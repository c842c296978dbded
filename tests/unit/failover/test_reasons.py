"""Every row of the table: it appears when, and only when, its trouble is there."""

from dataclasses import replace
from typing import Any

import pytest

from middlewared.plugins.failover.facts import Facts
from middlewared.plugins.failover.reasons import TABLE, codes
from middlewared.plugins.failover.state import Role
from middlewared.plugins.failover.wire import from_wire, to_wire
from middlewared.ports import Vrrp


def with_interface(facts: Facts, **changes: Any) -> Facts:
    return replace(facts, interfaces=(replace(facts.interfaces[0], **changes), *facts.interfaces[1:]))


def test_a_healthy_pair_has_none_on_either_side(a: Facts, b: Facts) -> None:
    assert codes(a, b) == []
    assert codes(b, a) == []


SPOILED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("NO_VOLUME", {"pools": ()}, {"pools": ()}),
    ("NO_SYSTEM_READY", {}, {"ready": False}),
    ("NO_SYSTEM_READY", {"ready": False}, {}),
    ("NO_FAILOVER", {"disabled": True}, {"disabled": True}),
    ("NO_LICENSE", {}, {"licensed": False}),
    ("NO_LICENSE", {"licensed": False}, {}),
    ("MISMATCH_DISKS", {}, {"disks": ("d1",)}),
    ("MISMATCH_VERSIONS", {}, {"version": "1.1"}),
    ("MISMATCH_NICS", {}, {"nics": ("eth0", "hb0")}),
    ("NO_FENCED", {"fence_held": False}, {}),
    ("NO_FENCED", {"fence_running": False}, {}),
    ("NO_FENCED", {}, {"fence_running": False}),
    ("LOC_FAILOVER_ONGOING", {"role": Role.YIELDING}, {}),
    ("REM_FAILOVER_ONGOING", {}, {"role": Role.TAKING}),
    ("NO_HEARTBEAT_IFACE", {"heartbeat_exists": False, "heartbeat_carrier": False}, {}),
    ("NO_CARRIER_ON_HEARTBEAT", {"heartbeat_carrier": False}, {}),
    ("LOC_UPGRADE_REBOOT_REQ", {"reboot_reasons": {"UPGRADE": "x"}}, {}),
    ("REM_UPGRADE_REBOOT_REQ", {}, {"reboot_reasons": {"UPGRADE": "x"}}),
    ("LOC_FIPS_REBOOT_REQ", {"reboot_reasons": {"FIPS": "x"}}, {}),
    ("REM_FIPS_REBOOT_REQ", {}, {"reboot_reasons": {"FIPS": "x"}}),
    ("LOC_GPOSSTIG_REBOOT_REQ", {"reboot_reasons": {"GPOSSTIG": "x"}}, {}),
    ("REM_GPOSSTIG_REBOOT_REQ", {}, {"reboot_reasons": {"GPOSSTIG": "x"}}),
    ("LOC_SYSTEM_DATASET_MIGRATION_IN_PROGRESS", {"migrating_system_dataset": True}, {}),
    ("REM_SYSTEM_DATASET_MIGRATION_IN_PROGRESS", {}, {"migrating_system_dataset": True}),
]


@pytest.mark.parametrize(("code", "here", "there"), SPOILED)
def test_one_trouble_one_reason(code: str, here: dict[str, Any], there: dict[str, Any], a: Facts, b: Facts) -> None:
    assert codes(replace(a, **here), replace(b, **there)) == [code]


def test_no_pong_without_the_other(a: Facts) -> None:
    assert codes(a, None) == ["NO_PONG"]


def test_no_vip(a: Facts, b: Facts) -> None:
    gone: dict[str, Any] = {"virtual_addresses": (), "vrrp": None}
    assert codes(with_interface(a, **gone), with_interface(b, **gone)) == ["NO_VIP"]


def test_no_critical_interfaces(a: Facts, b: Facts) -> None:
    gone = {"critical": False}
    assert codes(with_interface(a, **gone), with_interface(b, **gone)) == ["NO_CRITICAL_INTERFACES"]


@pytest.mark.parametrize("there", [Vrrp.FAULT, Vrrp.STOP, Vrrp.MASTER, None])
def test_a_standby_that_could_not_take_the_addresses_disagrees(there: Vrrp | None, a: Facts, b: Facts) -> None:
    assert codes(a, with_interface(b, vrrp=there)) == ["DISAGREE_VIP"]


def test_addresses_with_the_controller_that_does_not_lead_disagree(a: Facts, b: Facts) -> None:
    a, b = with_interface(a, vrrp=Vrrp.BACKUP), with_interface(b, vrrp=Vrrp.MASTER)
    assert codes(a, b) == ["DISAGREE_VIP"]
    assert codes(b, a) == ["DISAGREE_VIP"]


def test_a_local_failover_stands_alone_among_the_local_reasons(a: Facts, b: Facts) -> None:
    a = replace(a, role=Role.TAKING, heartbeat_carrier=False, disabled=True)
    assert codes(a, None) == ["NO_PONG", "LOC_FAILOVER_ONGOING"]


def test_every_row_of_the_table_is_proved_here() -> None:
    proved = {code for code, _, _ in SPOILED} | {"NO_PONG", "NO_VIP", "NO_CRITICAL_INTERFACES", "DISAGREE_VIP"}
    assert proved == {reason.code for reason in TABLE}


def test_facts_survive_the_wire(a: Facts) -> None:
    assert from_wire(to_wire(a)) == a
    assert from_wire(to_wire(a) | {"a_newer_release_knows": 1}) == a


def test_facts_of_a_neighbouring_release_are_understood_and_the_versions_differ(a: Facts, b: Facts) -> None:
    newer = to_wire(replace(b, version="2.0")) | {"role": "RESTING_A_BIT", "colour": "blue"}
    newer["interfaces"] = [item | {"vrrp": "LISTENING", "speed": 10} for item in newer["interfaces"]]
    other = from_wire(newer)
    assert other.role is Role.BOOTING  # promises nothing
    assert {interface.vrrp for interface in other.interfaces} == {None}
    assert "MISMATCH_VERSIONS" in codes(a, other)
    older = to_wire(replace(b, version="0.9", licence_problem="none"))
    del older["licence_problem"]
    assert from_wire(older) == replace(b, version="0.9")
    assert codes(a, from_wire(older)) == ["MISMATCH_VERSIONS"]


def test_facts_that_lack_something_are_refused(a: Facts) -> None:
    data = to_wire(a)
    del data["disks"]
    with pytest.raises(ValueError, match="disks"):
        from_wire(data)
