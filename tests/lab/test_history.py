"""What is remembered of failovers, on both sides; and what explains and rehearses the next one."""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from support.lab import Lab

from middlewared.client import ClientError
from middlewared.errors import CallError

WAY_UP = ["FENCING", "IMPORTING", "STARTING", "OPENING"]
WAY_DOWN = ["CLOSING", "STOPPING", "EXPORTING", "VERIFYING", "RELEASING"]
DISKS = 8


async def history(lab: Lab, asked: str, node: str) -> list[dict[str, Any]]:
    """The rows of one side, the newest first, as either controller tells them."""
    rows: list[dict[str, Any]] = await lab.call(asked, "failover.history", [["node", "=", node.upper()]], {})
    return rows


async def restart_daemon(lab: Lab, node: str) -> None:
    before = (await lab.tell("status"))["controllers"][node]["middlewared"]
    await lab.tell("restart-daemon", node=node)

    async def restarted() -> bool:
        return (await lab.tell("status"))["controllers"][node]["middlewared"] not in (before, None)

    await lab.until(f"the daemon of {node} was restarted", restarted)


def names(row: dict[str, Any]) -> list[str]:
    return [phase["phase"] for phase in row["phases"]]


async def test_a_takeover_after_a_death_is_remembered_also_after_a_restart(lab: Lab) -> None:
    await lab.until_healthy(master="a")
    began = datetime.now(UTC)
    await lab.tell("kill", node="a")
    await lab.until_roles(b="MASTER")
    row = (await history(lab, "b", "b"))[0]
    assert (row["role"], row["outcome"], row["error"]) == ("takeover", "MASTER", None)
    assert row["trigger"] == "elected on the network"
    assert names(row) == WAY_UP
    assert {phase["outcome"] for phase in row["phases"]} == {"ok"}
    assert f"{DISKS} of {DISKS} disks are held" in row["phases"][0]["detail"]
    assert abs(sum(phase["duration_ms"] for phase in row["phases"]) - row["duration_ms"]) <= 1
    assert began <= row["started_at"] <= row["finished_at"] <= datetime.now(UTC)
    assert await history(lab, "b", "a") == [], "the dead one cannot be asked"

    await lab.tell("boot", node="a")
    await lab.until_healthy()
    await restart_daemon(lab, "b")
    await lab.until_healthy()
    assert (await history(lab, "b", "b"))[0] == row
    assert (await history(lab, "a", "b"))[0] == row, "A shows what B remembers"


async def test_both_sides_of_a_handover_are_seen_from_either(lab: Lab) -> None:
    await lab.until_healthy(master="a")
    await lab.call("a", "failover.become_passive")
    await lab.until_healthy()
    for node in ("a", "b"):
        await restart_daemon(lab, node)
    assert await lab.until_healthy() == "b"

    down, up = (await history(lab, "b", "a"))[0], (await history(lab, "a", "b"))[0]
    assert (down["role"], down["outcome"], names(down)) == ("handover", "BACKUP", WAY_DOWN)
    assert down["trigger"].startswith("become_passive by ")
    assert (up["role"], up["outcome"], names(up)) == ("takeover", "MASTER", WAY_UP)
    every = await lab.call("a", "failover.history")
    assert every == await lab.call("b", "failover.history")
    assert [row["started_at"] for row in every] == sorted((row["started_at"] for row in every), reverse=True)
    assert await lab.call("a", "failover.history", [], {"count": True}) == len(every)


async def test_a_handover_that_power_loss_ended_is_interrupted(lab: Lab) -> None:
    await lab.until_healthy(master="a")
    await lab.set_property("a", "export_hangs", "yes")
    handing_over = asyncio.create_task(lab.call("a", "failover.become_passive"))

    async def exporting() -> bool:
        row = (await history(lab, "a", "a"))[0]
        return bool(row["outcome"] == "RUNNING" and names(row)[-1:] == ["EXPORTING"])

    await lab.until("A exports its pool", exporting)
    await lab.tell("kill", node="a")
    with suppress(ClientError, CallError):
        await handing_over
    await lab.until_roles(b="MASTER")
    await lab.set_property("a", "export_hangs", "no")
    await lab.tell("boot", node="a")
    await lab.until_healthy()
    row = (await history(lab, "b", "a"))[0]
    assert (row["outcome"], row["finished_at"], row["duration_ms"]) == ("INTERRUPTED", None, None)
    assert row["phases"][-1] == {
        "phase": "EXPORTING",
        "duration_ms": None,
        "outcome": "failed",
        "detail": "interrupted",
    }


async def test_a_damaged_history_is_an_alert_and_stops_nothing(lab: Lab) -> None:
    await lab.until_healthy(master="a")
    await lab.tell("kill", node="b")
    [file] = lab.places.node("b").rglob("history.db")
    file.write_bytes(b"this is no database" * 1000)
    file.with_name("history.db-wal").unlink(missing_ok=True)  # it alone would bring the rows back
    await lab.tell("boot", node="b")
    await lab.until_healthy()
    alerts = await lab.call("b", "alert.list")
    assert [alert["level"] for alert in alerts if alert["key"] == "failover.history"] == ["WARNING"]
    await lab.call("b", "failover.force_master")
    assert await lab.until_healthy() == "b"
    assert [names(row) for row in await history(lab, "a", "b")] == [["ASKING", *WAY_UP]]
    assert file.with_name("history.db.damaged").exists()


async def test_a_pulled_cable_is_explained_on_both(lab: Lab) -> None:
    await lab.until_healthy(master="a")
    assert await lab.call("a", "failover.explain") == []
    began = datetime.now(UTC)
    await lab.tell("cut", link="lan-b")

    async def explained() -> bool:
        told = [await lab.call(node, "failover.explain") for node in ("a", "b")]
        return all(
            [(row["code"], row["evidence"]) for row in rows]
            == [("DISAGREE_VIP", "eth0: A is MASTER, B is FAULT (link down)")]
            for rows in told
        )

    await lab.until("both explain DISAGREE_VIP by the link", explained)
    [row] = await lab.call("a", "failover.explain")
    assert began <= row["since"] <= datetime.now(UTC)
    assert row["remedy"] == "Check the network links of both controllers' critical interfaces."
    await lab.tell("heal")
    await lab.until_healthy()
    assert await lab.call("a", "failover.explain") == await lab.call("b", "failover.explain") == []


async def rehearse(lab: Lab, node: str) -> dict[str, Any]:
    answer: dict[str, Any] = await lab.call(node, "failover.rehearse")
    return answer


async def until_fails(lab: Lab, node: str, check: str) -> dict[str, Any]:
    """Ask until the check fails; the answer. What the controllers know of each other takes a moment to arrive."""
    answer: dict[str, Any] = {}

    async def fails() -> bool:
        nonlocal answer
        answer = await rehearse(lab, node)
        return any(one["name"] == check and not one["ok"] for one in answer["checks"])

    await lab.until(f"the check {check} fails on {node}", fails)
    return answer


async def test_a_healthy_pair_rehearses_well_on_the_standby_whoever_is_asked(lab: Lab) -> None:
    await lab.until_healthy(master="a")
    answer = await rehearse(lab, "b")
    assert (answer["node"], answer["would_work"], answer["failures"]) == ("B", True, [])
    assert await rehearse(lab, "a") == answer
    disks = [check for check in answer["checks"] if check["name"] == "disk"]
    assert [check["detail"] for check in disks] == ["answers, held by A"] * DISKS
    assert {check["name"] for check in answer["checks"]} == {
        *("peer", "role", "election", "licence", "enabled", "configuration", "keeper", "disks", "disk", "pool"),
        *("service", "traffic"),
    }
    assert await lab.until_healthy() == "a", "a rehearsal moves nothing"


async def test_a_rehearsal_finds_what_a_takeover_would_stumble_over(lab: Lab) -> None:
    await lab.until_healthy(master="a")
    await lab.tell("cut", link="lan-b")
    await lab.tell("cut", link="disks-b")
    answer = await until_fails(lab, "a", "disks")
    assert (answer["node"], answer["would_work"]) == ("B", False)
    assert f"pool tank: only 0 of {DISKS} disks can be read" in answer["failures"]
    answer = await until_fails(lab, "a", "election")
    assert "election eth0: VRRP is FAULT, and the link is down: it cannot be elected" in answer["failures"]
    await lab.tell("heal")
    await lab.until_healthy()
    assert (await rehearse(lab, "a"))["would_work"]

    await lab.set_property("b", "keeper", "off")
    answer = await until_fails(lab, "b", "keeper")
    assert not answer["would_work"]
    await lab.set_property("b", "keeper", "on")
    assert await lab.until_healthy() == "a"


async def test_a_standby_that_is_off_fails_the_rehearsal_without_an_error(lab: Lab) -> None:
    await lab.until_healthy(master="a")
    await lab.tell("kill", node="b")
    answer = await until_fails(lab, "a", "peer")
    assert (answer["node"], answer["would_work"]) == ("A", False)
    assert answer["failures"][0].startswith("peer B: cannot be asked: ")
    await lab.tell("boot", node="b")
    assert await lab.until_healthy() == "a"
    assert (await rehearse(lab, "a"))["would_work"]
