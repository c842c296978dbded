"""The pairing of two controllers that run: renewed, revoked and made again, and nothing moves meanwhile."""

import asyncio
import re
import sys
from asyncio.subprocess import PIPE
from typing import Any

import pytest
from support.lab import PATIENCE_S, Lab

from middlewared.lab.places import other
from middlewared.peer.pairfiles import PairFiles
from middlewared.settings import load

MEET_AT = "127.0.0.1:6999"


def files(lab: Lab, node: str) -> PairFiles:
    return PairFiles(load(lab.places.settings(node)).peer)


async def pair_command(lab: Lab, node: str, *words: str) -> asyncio.subprocess.Process:
    command = (sys.executable, "-m", "middlewared", "pair", "--config", str(lab.places.settings(node)), *words)
    return await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)


async def said_by(process: asyncio.subprocess.Process) -> str:
    async with asyncio.timeout(PATIENCE_S):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


async def pids(lab: Lab) -> list[Any]:
    status = await lab.tell("status")
    return [status["controllers"][node]["middlewared"] for node in "ab"]


@pytest.mark.parametrize("node", ["a", "b"])
async def test_renewed_under_a_live_link(lab: Lab, node: str) -> None:
    leader, before = await lab.until_healthy(), await pids(lab)
    old = files(lab, node).own()
    status = await lab.call(node, "pair.rotate")
    new = files(lab, node).own()
    assert new != old
    assert status["connected"]

    async def old_is_forgotten() -> bool:
        return files(lab, other(node)).pinned() == (new,)

    await lab.until("the other has forgotten the old certificate", old_is_forgotten)
    assert await lab.until_healthy() == leader
    assert await pids(lab) == before


async def test_forgotten_and_paired_again(lab: Lab) -> None:
    """By the commands, while both daemons run."""
    leader, before = await lab.until_healthy(), await pids(lab)
    assert "is not trusted any more" in await said_by(await pair_command(lab, "b", "--forget"))

    async def link_is_gone() -> bool:
        return "NO_PONG" in (await lab.reasons("a") or ())

    await lab.until("the link has ended", link_is_gone)
    showing = await pair_command(lab, "a", "--show", "--listen", MEET_AT)
    assert showing.stdout is not None
    text = ""
    async with asyncio.timeout(PATIENCE_S):
        while "Waiting" not in text:
            text += (await showing.stdout.readline()).decode()
    [code] = re.findall(r"middlewared pair (\S+)", text)
    assert "Paired with controller A" in await said_by(await pair_command(lab, "b", code, "--peer", MEET_AT))
    assert "Paired with controller B" in await said_by(showing)
    assert await lab.until_healthy() == leader
    assert await pids(lab) == before
    assert await lab.call("b", "auth.me"), "the password still opens, with the key that came along"


async def test_no_secret_lies_on_the_disks(lab: Lab) -> None:
    leader = await lab.until_healthy()
    user = await lab.call(leader, "user.create", {"username": "operator", "full_name": "", "password": "correct horse"})
    secret = (await lab.call(leader, "user.renew_2fa_secret", "operator"))["secret"]
    stores = [path for node in "ab" for path in lab.places.state(node).glob("store.db*")]
    data = b"".join(path.read_bytes() for path in stores)
    await lab.call(leader, "user.delete", user["id"])
    assert data.count(b"sealed:1:") >= 6, "two passwords and a second factor, on both"
    assert secret.encode() not in data
    assert b"$argon2id$" not in data
