"""Deaths of the MASTER: power loss, a freeze, a reset of its own."""

import asyncio
import statistics
import time

import pytest
from support.lab import Lab

from middlewared.lab.places import PORT, VIRTUAL_ADDRESSES

KILLS = 50
_REQUEST = b"GET / HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n"


async def served_on_vip_ms(started_s: float) -> float:
    """Keep connecting to the virtual address; milliseconds from `started_s` to the first byte of an answer."""
    while True:
        try:
            async with asyncio.timeout(0.5):
                reader, writer = await asyncio.open_connection(VIRTUAL_ADDRESSES[0], PORT)
                writer.write(_REQUEST)
                answered = await reader.read(1)
                writer.close()
            if answered:
                return (time.monotonic() - started_s) * 1000
        except (OSError, TimeoutError):
            pass
        await asyncio.sleep(0.002)


def other(node: str) -> str:
    return "b" if node == "a" else "a"


async def test_fifty_power_losses_in_a_row(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    master = await lab.until_healthy()
    gaps_ms = []
    for _ in range(KILLS):
        standby = other(master)
        started_s = time.monotonic()
        await lab.tell("kill", node=master)
        async with asyncio.timeout(10):
            gaps_ms.append(await served_on_vip_ms(started_s))
        assert await lab.answers_on_vip() == standby
        assert await lab.status(standby) == "MASTER"
        await lab.tell("boot", node=master)
        assert await lab.until_healthy() == standby, "a controller that comes back does not take the role"
        master = standby
    with capsys.disabled():
        low, middle, high = min(gaps_ms), statistics.median(gaps_ms), max(gaps_ms)
        print(
            f"\n{KILLS} power losses, to an answer on the virtual IP: {low:.0f} / {middle:.0f} / {high:.0f} ms", end=" "
        )


async def test_a_frozen_master_is_fenced_and_resets_itself_when_it_wakes(lab: Lab) -> None:
    await lab.until_healthy(master="a")
    await lab.tell("pause", node="a")
    await lab.until_roles(b="MASTER")
    assert await lab.answers_on_vip() == "b"
    await lab.tell("resume", node="a")
    await lab.until_said("A went down by itself")
    assert await lab.until_healthy() == "b"


async def test_a_frozen_standby_changes_nothing(lab: Lab) -> None:
    await lab.until_healthy(master="a")
    await lab.tell("pause", node="b")

    async def noticed() -> bool:
        return "NO_PONG" in (await lab.reasons("a") or ())

    await lab.until("A says NO_PONG", noticed)
    assert await lab.status("a") == "MASTER"
    await lab.tell("resume", node="b")
    assert await lab.until_healthy() == "a"
    assert not any("B went down" in text for _, text in lab.news)


async def test_an_orderly_reboot_hands_over(lab: Lab) -> None:
    await lab.until_healthy(master="a")
    await lab.call("a", "system.reboot", "a test")
    await lab.until_roles(b="MASTER")
    assert await lab.until_healthy() == "b"


async def test_a_shelf_that_one_controller_loses_moves_the_pools(lab: Lab) -> None:
    """The MASTER cannot see its reservations any more: it resets itself, and the other takes over."""
    await lab.until_healthy(master="a")
    await lab.tell("cut", link="disks-a")
    await lab.until_said("A went down by itself")
    await lab.until_roles(b="MASTER")
    assert await lab.answers_on_vip() == "b"
