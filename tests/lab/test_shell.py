"""midctl's shell at the virtual IP, while the role moves between two real controllers."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.lab import Lab
from support.terminal import ENTER, TAB, Terminal


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Terminal]:
    environment = {
        "MIDCTL_URL": "ws://127.0.10.10:6080",
        "MIDCTL_USER": "admin",
        "MIDCTL_PASSWORD": "lab",
        "XDG_STATE_HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path),
    }
    with Terminal(environment=environment) as terminal:
        yield terminal


async def shows(terminal: Terminal, *texts: str) -> str:
    """The terminal is read in a thread: the lab's client goes on meanwhile."""
    return await asyncio.to_thread(terminal.shows, *texts)


async def test_the_shell_goes_on_after_the_master_dies(lab: Lab, shell: Terminal) -> None:
    await lab.until_healthy(master="a")
    await shows(shell, "A MASTER", "B BACKUP", "failover works", "[controller-a]>")
    shell.send("system failover", ENTER)
    await shows(shell, "[controller-a] system failover>")
    await lab.tell("kill", node="a")
    await shows(shell, "Trying to reach ws://127.0.10.10:6080 again", "Connected again: controller B, MASTER.")
    screen = await shows(shell, "A unreachable", "B MASTER", "NO_PONG", "[controller-b] system failover>")
    assert "Traceback" not in screen
    shell.send("node", ENTER)
    await shows(shell, "system failover> node\nB\n")
    await lab.tell("boot", node="a")
    await shows(shell, "A BACKUP", "failover works")
    shell.send("exit", ENTER)
    assert await asyncio.to_thread(shell.ends) == 0


async def test_a_planned_switchover_from_the_shell(lab: Lab, shell: Terminal) -> None:
    await lab.until_healthy(master="a")
    await shows(shell, "failover works", "[controller-a]>")
    shell.send("system failover become_passive", ENTER)
    await shows(shell, "exports its pools", "controller B could take over", "Go on? Type yes:")
    shell.send("yes", ENTER)
    await shows(shell, "Connected again: controller B, MASTER.", "[controller-b]>", "A BACKUP", "B MASTER")
    shell.send("network interface update e", TAB)
    await shows(shell, "eth0", "eth1")
