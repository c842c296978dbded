"""The lab in network namespaces: each fault again and again, on real keepalived, packet filter and SCSI target.

After each: one MASTER, reasons right on both sides, the virtual address answered by the right controller. At the end of
all: nothing that was acknowledged is lost, and nobody wrote out of turn (the ledger on the disks' own files).
"""

import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
from support.lab import mended, running
from support.netns import ClientLab, Machine

from middlewared.lab import ledger
from middlewared.lab.netns.layout import CLIENT, NETNS, PREFIX, SHELF
from middlewared.lab.netns.namespaces import Network
from middlewared.lab.places import NODES, Places

RUNS = int(os.environ.get("NETNS_RUNS", "20"))
ALONE = {"NO_PONG", "NO_CARRIER_ON_HEARTBEAT"}


def other(node: str) -> str:
    return "b" if node == "a" else "a"


@pytest.fixture(scope="module")
def namespace_lab(can_make_namespaces: None) -> Iterator[Places]:
    """One lab for the whole matrix; at its end the ledger has to be right."""
    with running("--netns", layout=NETNS) as places:
        yield places
    check_ledger(places)
    shutil.rmtree(places.directory)


def check_ledger(places: Places) -> None:
    notes = ledger.read_notes(places.notes(node) for node in NODES)
    disks = {}
    for file in sorted((places.directory / SHELF).glob("disk*.img")):
        disks[file.name], torn = ledger.read_disk(file)
        assert torn == []
    assert len(disks) == NETNS.disks
    assert len(notes) > 0
    assert ledger.check(disks, notes) == []


@pytest.fixture(scope="module")
def client(namespace_lab: Places) -> Iterator[Machine]:
    machine = Machine(Network(PREFIX), CLIENT)
    yield machine
    machine.close()


@pytest.fixture
async def lab(namespace_lab: Places, client: Machine) -> AsyncIterator[ClientLab]:
    async with mended(ClientLab(namespace_lab, client)) as lab:
        yield lab


Fault = Callable[
    [ClientLab, str], Awaitable[str]
]  # breaks something of the MASTER; who is MASTER then, everything mended


async def power_loss(lab: ClientLab, master: str) -> str:
    await lab.tell("kill", node=master)
    await lab.until_answered_by(other(master))
    await lab.until_roles(**{other(master): "MASTER"})
    await until_reasons(lab, other(master), ALONE)
    await lab.tell("boot", node=master)
    return other(master)


async def freeze(lab: ClientLab, master: str) -> str:
    await lab.tell("pause", node=master)
    await lab.until_answered_by(other(master))
    await until_reasons(lab, other(master), {"NO_PONG"})
    await lab.tell("resume", node=master)
    await lab.until_said(f"{master.upper()} went down by itself")
    return other(master)


async def lan_cut(lab: ClientLab, master: str) -> str:
    await lab.tell("cut", link=f"lan-{master}")
    await lab.until_answered_by(other(master))
    await until_reasons(lab, other(master), {"DISAGREE_VIP"})
    await until_reasons(lab, master, {"DISAGREE_VIP"})
    await lab.tell("heal")
    return other(master)


async def heartbeat_cut(lab: ClientLab, master: str) -> str:
    await lab.tell("cut", link="heartbeat")
    await until_reasons(lab, master, ALONE)
    await until_reasons(lab, other(master), ALONE)
    assert await lab.status(master) == "MASTER"
    await lab.tell("heal")
    return master


async def isolated(lab: ClientLab, master: str) -> str:
    """LAN and heartbeat of the MASTER: it cannot know whether the other was elected, and gives way."""
    await lab.tell("cut", link="heartbeat")
    await lab.tell("cut", link=f"lan-{master}")
    await lab.until_answered_by(other(master))
    await until_reasons(lab, other(master), ALONE)
    await lab.tell("heal")
    return other(master)


async def shelf_cut(lab: ClientLab, master: str) -> str:
    await lab.tell("cut", link=f"disks-{master}")
    await lab.until_answered_by(other(master))
    await lab.until_roles(**{other(master): "MASTER"})
    await lab.until_said(f"{master.upper()} went down by itself")
    await lab.tell("heal")
    return other(master)


async def shelf_restart(lab: ClientLab, master: str) -> str:
    """It may be so short that nobody moves, or the pool is suspended, and the other takes over."""
    await lab.tell("restart-shelf")
    return await lab.until_healthy()


async def speaker_killed(lab: ClientLab, master: str) -> str:
    await lab.tell("kill-speaker", node=master)
    return await lab.until_healthy()


async def daemon_killed(lab: ClientLab, master: str) -> str:
    await lab.tell("restart-daemon", node=master)
    await lab.until_roles(**{master: "MASTER"})
    return master


async def keeper_killed(lab: ClientLab, master: str) -> str:
    await lab.tell("kill-keeper", node=master)
    return master


FAULTS: tuple[Fault, ...] = (
    power_loss,
    freeze,
    lan_cut,
    heartbeat_cut,
    isolated,
    shelf_cut,
    shelf_restart,
    speaker_killed,
    daemon_killed,
    keeper_killed,
)


async def until_reasons(lab: ClientLab, node: str, wanted: set[str]) -> None:
    async def holds() -> bool:
        return await lab.reasons(node) == wanted

    await lab.until(f"{node} says {wanted}", holds)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_the_pair_survives(lab: ClientLab, fault: Fault) -> None:
    for _ in range(RUNS):
        master = await lab.until_healthy()
        lab.news.clear()
        wanted = await fault(lab, master)
        assert await lab.until_healthy() == wanted
        assert await lab.answers_on_vip() == wanted
        status = await lab.tell("status")
        held = {disk["holder"] for disk in status["disks"]}
        assert held == {wanted}
        assert [pool["status"] for pool in status["controllers"][wanted]["pools"]] == ["ONLINE"]
