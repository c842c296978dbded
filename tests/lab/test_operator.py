"""What an administrator asks for: the role there, the role here, no failover at all."""

import pytest
from support.lab import Lab

from middlewared.errors import CallError


async def test_become_passive_hands_over_and_back(lab: Lab) -> None:
    await lab.until_healthy(master="a")
    await lab.call("a", "failover.become_passive")
    await lab.until_roles(a="BACKUP", b="MASTER")
    assert await lab.until_healthy() == "b"
    assert await lab.answers_on_vip() == "b"


async def test_become_passive_on_the_standby_is_refused(lab: Lab) -> None:
    await lab.until_healthy(master="a")
    with pytest.raises(CallError):
        await lab.call("b", "failover.become_passive")
    assert await lab.until_healthy() == "a"


async def test_force_master_takes_the_role(lab: Lab) -> None:
    await lab.until_healthy(master="a")
    assert await lab.call("b", "failover.force_master") is True
    await lab.until_roles(b="MASTER", a="BACKUP")
    assert await lab.call("b", "failover.force_master") is False
    assert await lab.until_healthy() == "b"


async def test_force_master_takes_it_even_from_a_master_that_cannot_hand_over(lab: Lab) -> None:
    await lab.until_healthy(master="a")
    await lab.tell("cut", link="heartbeat")

    async def silent() -> bool:
        return "NO_PONG" in (await lab.reasons("b") or ())

    await lab.until("B says NO_PONG", silent)
    assert await lab.call("b", "failover.force_master") is True
    await lab.until_roles(b="MASTER")
    await lab.until_answered_by("b")  # when the election has noticed that A reset itself
    await lab.tell("heal")
    assert await lab.until_healthy() == "b"


async def test_while_disabled_nothing_moves(lab: Lab) -> None:
    await lab.until_healthy(master="a")
    assert await lab.call("a", "failover.control", "DISABLE", {"active": True}) is True

    async def told() -> bool:
        return all(["NO_FAILOVER" in (await lab.reasons(node) or ()) for node in ("a", "b")])

    await lab.until("both say NO_FAILOVER", told)
    await lab.tell("kill", node="a")

    async def noticed() -> bool:
        return "NO_PONG" in (await lab.reasons("b") or ())

    await lab.until("B says NO_PONG", noticed)
    assert await lab.status("b") != "MASTER"
    assert await lab.answers_on_vip() is None
    await lab.tell("boot", node="a")
    await lab.until_roles(a="MASTER")
    assert await lab.call("a", "failover.control", "ENABLE", {}) is True
    assert await lab.call("a", "failover.control", "ENABLE", {}) is False
    assert await lab.until_healthy() == "a"
