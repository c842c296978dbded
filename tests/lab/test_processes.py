"""One process dies, or starts alone; the controller itself goes on (DESIGN S5)."""

import pytest
from support.lab import Lab

from middlewared.lines import LineError


async def pid(lab: Lab, node: str, name: str) -> int | None:
    status = await lab.tell("status")
    value: int | None = status["controllers"][node][name]
    return value


async def until_restarted(lab: Lab, node: str, name: str, before: int | None) -> None:
    async def holds() -> bool:
        return await pid(lab, node, name) not in (before, None)

    await lab.until(f"{name} of {node} was restarted", holds)


@pytest.mark.parametrize("node", ["a", "b"])
async def test_a_restart_of_the_daemon_moves_nothing(lab: Lab, node: str) -> None:
    await lab.until_healthy(master="a")
    seen = len(lab.news)
    before = await pid(lab, node, "middlewared")
    await lab.tell("restart-daemon", node=node)
    await until_restarted(lab, node, "middlewared", before)
    assert await lab.until_healthy() == "a"
    roles = [text for _, text in lab.news[seen:] if " is " in text and "killed" not in text]
    assert roles == [], "pools, addresses and reservations stay where they are"


@pytest.mark.parametrize("node", ["a", "b"])
async def test_a_restart_of_the_keeper_moves_nothing(lab: Lab, node: str) -> None:
    await lab.until_healthy(master="a")
    before = await pid(lab, node, "fenced")
    await lab.tell("kill-keeper", node=node)
    await until_restarted(lab, node, "fenced", before)
    assert await lab.until_healthy() == "a"
    assert not any("went down" in text for _, text in lab.news)


async def test_a_daemon_killed_while_services_start_starts_the_rest(lab: Lab) -> None:
    """One is under way at the service manager when the daemon dies, and ends there; the next one is still to come."""
    await lab.until_healthy(master="a")
    await lab.call("a", "service.update", "iscsi", {"critical": False})
    await lab.call("a", "service.update", "nfs", {"critical": False, "start_order": 60})

    async def copied() -> bool:
        return await lab.call("b", "service.query", [["service", "=", "nfs"], ["critical", "=", False]], {}) != []

    async def nfs_runs() -> bool:
        return await lab.call("b", "service.query", [["service", "=", "nfs"], ["state", "=", "RUNNING"]], {}) != []

    await lab.until("B has the change", copied)
    await lab.set_property("b", "service_start_ms", "2000")
    before = await pid(lab, "b", "middlewared")
    await lab.tell("kill", node="a")
    await lab.until_roles(b="MASTER")
    assert not await nfs_runs()
    await lab.tell("restart-daemon", node="b")
    await until_restarted(lab, "b", "middlewared", before)
    await lab.until_roles(b="MASTER")
    await lab.until("nfs runs on B", nfs_runs)
    await lab.tell("boot", node="a")
    await lab.until_healthy()
    await lab.call("b", "service.update", "iscsi", {"critical": True})
    await lab.call("b", "service.update", "nfs", {"critical": True, "start_order": 50})


async def test_both_booting_at_once_make_one_master(lab: Lab) -> None:
    for node in ("a", "b"):
        await lab.tell("kill", node=node)
    for node in ("a", "b"):
        await lab.tell("boot", node=node)
    master = await lab.until_healthy()
    assert await lab.answers_on_vip() == master


@pytest.mark.parametrize("node", ["a", "b"])
async def test_one_booting_alone_becomes_master(lab: Lab, node: str) -> None:
    """Also while the dead controller's keys and reservations are still on the disks."""
    for each in ("a", "b"):
        await lab.tell("kill", node=each)
    await lab.tell("boot", node=node)
    await lab.until_roles(**{node: "MASTER"})
    assert await lab.answers_on_vip() == node
    assert "NO_PONG" in await lab.reasons(node)


async def test_a_disk_that_is_not_there(lab: Lab) -> None:
    with pytest.raises(LineError, match="there are disks 0 to 7"):
        await lab.tell("fail-disk", disk=99)
