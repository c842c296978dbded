import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from middlewared.plugins.vip.process import Keepalived
from middlewared.ports import PortError


async def stand_in(directory: Path, config: str) -> asyncio.subprocess.Process:
    """A process that looks like keepalived in /proc: by its first word and its configuration."""
    program = directory / "keepalived"
    if not program.exists():
        program.symlink_to(sys.executable)
    wait = "import sys; print('up', flush=True); sys.stdin.read()"
    child = await asyncio.create_subprocess_exec(
        program, "-c", wait, "-f", config, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    assert await child.stdout.readline() == b"up\n"
    return child


def say(directory: Path, parent: int, speaker: int) -> None:
    (directory / "keepalived.pid").write_text(f"{parent}\n")
    (directory / "vrrp.pid").write_text(f"{speaker}\n")


async def test_it_finds_its_own_and_sees_it_die(tmp_path: Path) -> None:
    keepalived = Keepalived(tmp_path)
    child = await stand_in(tmp_path, str(keepalived.config))
    say(tmp_path, child.pid, child.pid)
    running = keepalived.find()
    assert running is not None
    dead = asyncio.Event()
    running.on_death(dead.set)
    running.send(signal.SIGKILL)
    async with asyncio.timeout(5):
        await dead.wait()
    assert keepalived.find() is None
    await child.wait()
    with pytest.raises(PortError, match="has died"):
        running.send(signal.SIGHUP)
    running.close()


async def test_a_pid_that_now_belongs_to_somebody_else_is_not_ours(tmp_path: Path) -> None:
    keepalived = Keepalived(tmp_path)
    say(tmp_path, os.getpid(), os.getpid())
    assert keepalived.find() is None
    other = await stand_in(tmp_path, "/etc/keepalived/keepalived.conf")
    say(tmp_path, other.pid, other.pid)
    assert keepalived.find() is None
    other.kill()
    await other.wait()


@pytest.mark.parametrize("text", ["", "x", "-1", "4194305"])
async def test_no_pid_is_no_process(tmp_path: Path, text: str) -> None:
    (tmp_path / "keepalived.pid").write_text(text)
    (tmp_path / "vrrp.pid").write_text(text)
    assert Keepalived(tmp_path).find() is None


async def test_half_of_it_is_not_enough(tmp_path: Path) -> None:
    keepalived = Keepalived(tmp_path)
    child = await stand_in(tmp_path, str(keepalived.config))
    (tmp_path / "keepalived.pid").write_text(str(child.pid))
    assert keepalived.find() is None
    await keepalived.start()  # its parent lives, and starts the speaker: nothing to do here
    assert not (tmp_path / "vrrp.pid").exists()
    child.kill()
    await child.wait()
