"""What belongs to the pair, from one real controller to the other: files, configuration, and a reboot if asked."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.lab import Lab

from middlewared.errors import CallError
from middlewared.lab.places import PASSWORD, USER, other


def midctl(lab: Lab, node: str, *words: str) -> subprocess.CompletedProcess[str]:
    url = f"ws+unix://{lab.places.api(node)}"
    command = [str(Path(sys.executable).with_name("midctl")), "--url", url, "--user", USER, "--password", PASSWORD]
    return subprocess.run([*command, *words], capture_output=True, text=True, timeout=60, check=False)


def authorized_keys(lab: Lab, node: str) -> Path:
    return lab.places.state(node) / "authorized_keys"


async def test_to_the_other_and_a_reboot(lab: Lab) -> None:
    master = await lab.until_healthy()
    standby = other(master)
    authorized_keys(lab, master).write_text("ssh-ed25519 first\n")
    authorized_keys(lab, master).chmod(0o600)
    (lab.places.state(standby) / "api.pem").write_bytes(b"of its own")
    done = midctl(lab, master, "system", "failover", "sync_to_peer", "options={}")
    assert (done.stdout, done.stderr, done.returncode) == ("\n", "", 0)
    for name in ("authorized_keys", "api.pem"):
        there, here = (lab.places.state(node) / name for node in (standby, master))
        assert there.read_bytes() == here.read_bytes()
        assert there.stat().st_mode == here.stat().st_mode
    jobs = await lab.call(master, "core.get_jobs", [["method", "=", "failover.sync_to_peer"]])
    assert [(job["state"], job["progress"]["percent"]) for job in jobs] == [("SUCCESS", 100)]
    since = len(lab.news)
    await lab.call(master, "failover.sync_to_peer", {"reboot": True})

    async def rebooted() -> bool:
        return any("reboot" in text and "synced" in text for _, text in lab.news[since:])

    await lab.until("the standby reboots", rebooted)
    assert await lab.until_healthy() == master


async def test_from_the_other_follows_its_progress(lab: Lab) -> None:
    master = await lab.until_healthy()
    standby = other(master)
    authorized_keys(lab, master).write_text("ssh-ed25519 second\n")
    done = midctl(lab, standby, "system", "failover", "sync_from_peer")
    assert (done.stdout, done.stderr, done.returncode) == ("\n", "", 0)
    assert authorized_keys(lab, standby).read_text() == "ssh-ed25519 second\n"
    [job] = await lab.call(standby, "core.get_jobs", [["method", "=", "failover.sync_from_peer"]])
    assert (job["state"], job["progress"]["description"]) == ("SUCCESS", "Done")


async def test_a_cut_cable_changes_nothing(lab: Lab) -> None:
    master = await lab.until_healthy()
    standby = other(master)
    authorized_keys(lab, standby).write_text("as before\n")
    await lab.tell("cut", link="heartbeat")

    async def silent() -> bool:
        return "NO_PONG" in (await lab.reasons(master) or ())

    await lab.until("the MASTER says NO_PONG", silent)
    with pytest.raises(CallError, match="cannot be reached"):
        await lab.call(master, "failover.sync_to_peer", {})
    assert authorized_keys(lab, standby).read_text() == "as before\n"
    await lab.tell("heal", link="heartbeat")
    await lab.until_healthy()
    await lab.call(master, "failover.sync_to_peer", {})
    assert authorized_keys(lab, standby).read_bytes() == authorized_keys(lab, master).read_bytes()
