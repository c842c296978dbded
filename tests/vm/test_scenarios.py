"""What namespaces cannot show, on two virtual machines: each fault once, under load, with the real drivers.

After each: one MASTER, the pool imported once, the scrub clean, nothing lost that a client outside was acknowledged,
the virtual address answered by the right controller, and the reasons right. The time that each phase took is printed as
a table; emulated times are several times real ones: compare them with each other only.
"""

import os
import re
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest
from support import plain
from support.vm import KIND, Row, VmLab

from middlewared.lab.places import other
from middlewared.lab.vm.image import SITE_PACKAGES
from middlewared.lab.vm.layout import PORTALS

ALONE = {"NO_PONG", "NO_CARRIER_ON_HEARTBEAT"}
_UPGRADE = """
cd {site}
cp -a middlewared middlewared.new
sed -i 's/^__version__ = .*/__version__ = "{version}"/' middlewared.new/__init__.py
mv middlewared middlewared.old
mv middlewared.new middlewared
rm -r middlewared.old
systemctl restart --no-block fenced middlewared
"""
_PATH_CUT = """
nft add table ip lab
nft add chain ip lab out '{{ type filter hook output priority 0; }}'
nft add rule ip lab out ip daddr {address} drop
"""
Fault = Callable[[VmLab, str], Awaitable[str]]  # breaks something of the MASTER; who is MASTER when all is mended


async def power_loss(lab: VmLab, master: str) -> str:
    await lab.tell("kill", node=master)
    await lab.until_served_by(other(master))
    await lab.until_reasons(other(master), ALONE)
    await lab.tell("boot", node=master)
    return other(master)


async def planned_switchover(lab: VmLab, master: str) -> str:
    await lab.call(master, "failover.become_passive")
    await lab.until_served_by(other(master))
    return other(master)


async def freeze_and_thaw(lab: VmLab, master: str) -> str:
    """The thawed controller answers nobody on the virtual address, and resets itself."""
    await lab.tell("pause", node=master)
    await lab.until_served_by(other(master))
    await lab.until_reasons(other(master), {"NO_PONG"})
    thawed_s = time.monotonic()
    await lab.tell("resume", node=master)
    await lab.until_said(f"{master.upper()} went down by itself")
    await lab.until_served_by(other(master))
    assert master not in await lab.served_since(thawed_s)
    return other(master)


async def heartbeat_cut(lab: VmLab, master: str) -> str:
    await lab.tell("cut", link="heartbeat")
    for node in (master, other(master)):
        await lab.until_reasons(node, ALONE)
    assert await lab.status(master) == "MASTER"
    await lab.tell("heal")
    return master


async def lan_cut_on_the_master(lab: VmLab, master: str) -> str:
    await lab.tell("cut", link=f"lan-{master}")
    await lab.until_served_by(other(master))
    await lab.until_reasons(master, {"DISAGREE_VIP"})
    await lab.tell("heal")
    return other(master)


async def disks_cut_on_the_master(lab: VmLab, master: str) -> str:
    """Its pool is suspended; the other takes over, and it resets."""
    await lab.tell("cut", link=f"disks-{master}")
    await lab.until_said(f"{master.upper()} went down by itself")
    await lab.until_served_by(other(master))
    await lab.tell("heal")
    return other(master)


async def shelf_restart(lab: VmLab, master: str) -> str:
    """It may be so short that nobody moves, or the pool is suspended, and the other takes over."""
    await lab.tell("restart-shelf")
    return await lab.until_healthy()


async def kernel_panic(lab: VmLab, master: str) -> str:
    await lab.start_inside(master, "echo c > /proc/sysrq-trigger")
    await lab.until_said(f"{master.upper()} went down by itself")
    await lab.until_served_by(other(master))
    return other(master)


async def daemon_killed(lab: VmLab, master: str) -> str:
    """Nothing moves: the client notices nothing but the time that it takes."""
    before = await lab.process(master, "middlewared")
    await lab.tell("restart-daemon", node=master)
    await lab.until_replaced(master, "middlewared", before)
    await lab.until_roles(**{master: "MASTER"})
    return master


async def upgraded_in_place(lab: VmLab, master: str) -> str:
    """The MASTER's programs are replaced under it, then the other's: nothing moves, and in between a reason says so."""
    version = f"9.{time.time():.0f}"
    for node, reasons in ((master, {"MISMATCH_VERSIONS"}), (other(master), set())):
        before = {name: await lab.process(node, name) for name in ("middlewared", "fenced")}
        await lab.inside(node, "sh", "-ec", _UPGRADE.format(site=f"/{SITE_PACKAGES}", version=version))
        for name, pid in before.items():
            await lab.until_replaced(node, name, pid)
        for one in (master, other(master)):
            await lab.until_reasons(one, reasons)
    return master


async def paired_again(lab: VmLab, master: str) -> str:
    """As an administrator does it, with both daemons running."""
    await lab.inside(other(master), "middlewared", "pair", "--forget")
    await lab.until_reasons(master, {"NO_PONG"})
    await lab.start_inside(master, "middlewared pair --show >/run/pairing 2>&1")

    async def shows_a_code() -> bool:
        return "Waiting" in await lab.inside(master, "sh", "-c", "cat /run/pairing || true")

    await lab.until(f"{master} shows a code", shows_a_code)
    [code] = re.findall(r"middlewared pair (\S+)", await lab.inside(master, "cat", "/run/pairing"))
    await lab.inside(other(master), "middlewared", "pair", code)
    return master


async def keeper_killed(lab: VmLab, master: str) -> str:
    before = await lab.process(master, "fenced")
    await lab.tell("kill-keeper", node=master)
    await lab.until_replaced(master, "fenced", before)
    return master


async def orderly_shutdown(lab: VmLab, master: str) -> str:
    """It hands over first."""
    await lab.start_inside(master, "systemctl poweroff")
    await lab.until_said(f"{master.upper()} shut down")
    await lab.until_served_by(other(master))
    await lab.tell("boot", node=master)
    return other(master)


async def both_at_once(lab: VmLab, master: str) -> str:
    for node in (master, other(master)):
        await lab.tell("kill", node=node)
    for node in (master, other(master)):
        await lab.tell("boot", node=node)
    return await lab.until_healthy()


async def reservations_outlive_the_shelf(lab: VmLab, master: str) -> str:
    """Nobody lives who could take them again, and yet the shelf knows them after a loss of power: on all disks but
    those where life is shown."""
    await lab.tell("kill", node=master)
    await lab.tell("restart-shelf")
    assert await lab.holders() == [None, None, master, master]
    await lab.until_served_by(other(master))
    await lab.tell("boot", node=master)
    return other(master)


async def one_path_cut(lab: VmLab, master: str) -> str:
    """First one, then the other: nobody moves. By the one that is left the disks are given back, too."""
    for address in PORTALS:
        await lab.inside(master, "sh", "-ec", _PATH_CUT.format(address=address))
        try:
            await lab.until_paths(master, failed=KIND.disks)
            await lab.until_served_by(master)
            assert await lab.status(master) == "MASTER"
            assert await lab.holders() == [master] * KIND.disks
            if address == PORTALS[-1]:
                await lab.call(master, "failover.become_passive")
                await lab.until_served_by(other(master))
        finally:
            await lab.inside(master, "sh", "-c", "nft delete table ip lab || true")
        await lab.until_paths(master, failed=0)
    return other(master)


QUICK: tuple[Fault, ...] = (daemon_killed, planned_switchover)
ALL: tuple[Fault, ...] = (
    *QUICK,
    keeper_killed,
    paired_again,
    upgraded_in_place,
    heartbeat_cut,
    power_loss,
    freeze_and_thaw,
    lan_cut_on_the_master,
    disks_cut_on_the_master,
    shelf_restart,
    kernel_panic,
    orderly_shutdown,
    both_at_once,
)
SCENARIOS = ALL if os.environ.get("VM_ALL") else QUICK  # `make test-vm` sets it
SPECIAL: tuple[Fault, ...] = (
    *((reservations_outlive_the_shelf,) if KIND.shelf == "lio" else ()),
    *((one_path_cut,) if KIND.paths > 1 else ()),
)


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[list[Row]]:
    """Printed at the end, whatever happened."""
    rows: list[Row] = []
    yield rows
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print(f"\n{'scenario':28} {'gap (ms)':>8}  phases (ms), emulated")
        print("\n".join(map(str, rows)))


@pytest.mark.parametrize("fault", [*SPECIAL, *SCENARIOS], ids=lambda fault: fault.__name__)
async def test_the_pair_survives(lab: VmLab, fault: Fault, table: list[Row]) -> None:
    master = await lab.until_healthy()
    await lab.until_served_by(master)
    before = {passage["id"] for passage in await lab.passages()}
    lab.news.clear()
    since_s = time.monotonic()
    wanted = await fault(lab, master)
    await lab.verify(wanted)
    table.append(await lab.row(fault.__name__, since_s, before))


@pytest.mark.skipif(SCENARIOS is QUICK, reason="takes minutes: make test-vm")
async def test_a_script_alone_for_comparison(lab: VmLab, table: list[Row]) -> None:
    """The same pair, client and power loss with keepalived and `zpool import -f`, and nobody who fences."""
    master = await lab.until_healthy()
    try:
        await plain.install(lab, master)
        since_s = time.monotonic()
        await lab.tell("kill", node=master)
        await lab.until_served_by(other(master))
        table.append(Row("power_loss, script alone", await lab.gap_ms(since_s), {}))
    finally:
        await plain.remove(lab)
    await lab.verify(await lab.until_healthy())
