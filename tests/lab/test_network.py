"""Links are configured on both controllers of a running lab, and go back when nobody confirms."""

from typing import Any

import pytest
from support.lab import Lab

from middlewared.errors import CallError
from middlewared.lab.places import NODES

VLAN = {
    "type": "VLAN",
    "vlan_parent_interface": "eth1",
    "vlan_tag": 20,
    "aliases": [{"address": "203.0.113.1", "netmask": 24}],
    "failover_aliases": [{"address": "203.0.113.2", "netmask": 24}],
}


async def rows(lab: Lab, node: str) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in await lab.call(node, "interface.query")}


async def made(lab: Lab) -> list[str]:
    """The own address of vlan20 on each controller where the kernel has it."""
    found = []
    for node in NODES:
        row = (await rows(lab, node)).get("vlan20")
        found += [alias["address"] for alias in row["state"]["aliases"]] if row is not None else []
    return found


async def test_a_vlan_is_made_on_both_and_survives_a_daemon_and_a_boot(lab: Lab) -> None:
    assert await lab.until_healthy(master="a") == "a"
    await lab.call("a", "interface.create", VLAN)
    await lab.call("a", "interface.commit", {"checkin_timeout": 600})
    assert await made(lab) == ["203.0.113.1", "203.0.113.2"]
    assert (await rows(lab, "b"))["vlan20"]["state"]["link_state"] == "LINK_STATE_UP"
    await lab.tell("restart-daemon", node="a")
    await lab.until_healthy()
    assert await lab.call("a", "interface.checkin_waiting") > 0
    await lab.call("a", "interface.checkin")
    await lab.tell("kill", node="b")
    await lab.tell("boot", node="b")
    assert await lab.until_healthy() == "a"
    assert await made(lab) == ["203.0.113.1", "203.0.113.2"]
    await lab.call("a", "interface.delete", "vlan20")
    await lab.call("a", "interface.commit", {"rollback": False})
    assert await made(lab) == []


async def test_nobody_checks_in(lab: Lab) -> None:
    assert await lab.until_healthy(master="a") == "a"
    await lab.call("a", "interface.create", {"type": "BRIDGE", "bridge_members": ["eth1"]})
    await lab.call("a", "interface.commit", {"checkin_timeout": 5})
    assert {(await rows(lab, node))["br0"]["state"]["link_state"] for node in NODES} == {"LINK_STATE_UP"}

    async def gone() -> bool:
        return not any(["br0" in await rows(lab, node) for node in NODES])

    await lab.until("the bridge is gone again", gone)
    assert await lab.until_healthy() == "a"


async def test_the_standby_cannot(lab: Lab) -> None:
    assert await lab.until_healthy(master="a") == "a"
    await lab.set_property("b", "link_fails", "yes")
    await lab.call("a", "interface.create", VLAN)
    with pytest.raises(CallError, match="controller B: add 203"):
        await lab.call("a", "interface.commit")
    assert await made(lab) == []
    await lab.call("a", "interface.rollback")
    assert not await lab.call("a", "interface.has_pending_changes")


async def test_no_failover_by_a_commit(lab: Lab) -> None:
    assert await lab.until_healthy(master="a") == "a"
    await lab.call("a", "interface.update", "eth0", {"mtu": 9000})
    with pytest.raises(CallError, match="would interrupt eth0"):
        await lab.call("a", "interface.commit")
    await lab.call("a", "interface.rollback")
