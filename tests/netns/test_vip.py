"""Two keepalived, each under our driver: who has the addresses, and what the drivers say of it."""

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest
from support.netns import VIP, VIP6, Client, Controller, Machine

from middlewared.lab.netns.namespaces import Network
from middlewared.plugins.vip import strangers
from middlewared.ports import PortError, Vrrp

Pair = tuple[Controller, Controller]
MORE = "192.0.2.11/24"
A_FEW_ADVERTS_S = 0.6  # of 100 ms: six, where three missed ones are a death


async def elected(pair: Pair, *addresses: str, unicast: bool = False) -> None:
    """A is MASTER, B is BACKUP."""
    a, b = pair
    for one in pair:
        await one.participate(True)
    await a.configure(*addresses, unicast=unicast)
    await a.until(Vrrp.MASTER)
    await b.configure(*addresses, unicast=unicast)
    await b.until(Vrrp.BACKUP)


@pytest.mark.parametrize("unicast", [False, True], ids=["multicast", "unicast"])
async def test_one_of_them_has_the_addresses_of_both_families(pair: Pair, unicast: bool) -> None:
    a, b = pair
    await elected(pair, VIP, VIP6, unicast=unicast)
    await asyncio.sleep(A_FEW_ADVERTS_S)  # B must hear A in both families, or it would be MASTER by then
    assert (a.state(), b.state()) == (Vrrp.MASTER, Vrrp.BACKUP)
    assert {VIP, VIP6} < await a.addresses()
    assert not {VIP, VIP6} & await b.addresses()
    assert a.driver.strangers() == b.driver.strangers() == (), "they do not take one another for strangers"


async def test_a_hand_over_and_nobody_takes_the_role_back(pair: Pair) -> None:
    a, b = pair
    await elected(pair, VIP, VIP6)
    await a.participate(False)
    assert a.state() is Vrrp.STOP
    assert not {VIP, VIP6} & await a.addresses()
    await b.until(Vrrp.MASTER)
    await a.participate(True)
    await a.until(Vrrp.BACKUP)
    await a.configure(VIP, VIP6, priority=254)
    await asyncio.sleep(A_FEW_ADVERTS_S)
    assert (a.state(), b.state()) == (Vrrp.BACKUP, Vrrp.MASTER)


async def test_a_reload_moves_nothing(pair: Pair) -> None:
    a, b = pair
    await elected(pair, VIP, VIP6)
    for controller in pair:
        controller.history.clear()
    await a.configure(VIP, VIP6, MORE)  # B does not know of the third address, as if its daemon were down
    await asyncio.sleep(A_FEW_ADVERTS_S)
    assert {VIP, VIP6, MORE} < await a.addresses()
    await a.configure(VIP, VIP6, MORE, priority=254)
    await b.configure(VIP, VIP6, MORE)
    await a.configure(MORE, VIP6, advert_ms=200)
    await asyncio.sleep(A_FEW_ADVERTS_S)
    assert a.history in ([], [Vrrp.MASTER])
    assert b.history in ([], [Vrrp.BACKUP])
    assert {MORE, VIP6} < await a.addresses()
    assert VIP not in await a.addresses()


async def test_a_second_family_joins_without_moving_the_first(pair: Pair) -> None:
    a, b = pair
    await elected(pair, VIP)
    for controller in pair:
        controller.history.clear()
    await asyncio.gather(a.configure(VIP, VIP6), b.configure(VIP, VIP6))
    assert {VIP, VIP6} < await a.addresses()
    await asyncio.sleep(A_FEW_ADVERTS_S)
    assert a.history in ([], [Vrrp.MASTER])
    assert b.history in ([], [Vrrp.BACKUP])
    assert "vrrp_sync_group" in (a.directory / "keepalived.conf").read_text()


async def test_an_instance_that_is_taken_away_gives_its_addresses_up(pair: Pair) -> None:
    a, _ = pair
    await elected(pair, VIP, VIP6)
    await a.configure(VIP)
    assert a.state() is Vrrp.MASTER
    assert VIP6 not in await a.addresses()
    await a.configure()
    assert a.driver.states() == {}
    assert VIP not in await a.addresses()
    await a.configure(VIP)
    await a.until(Vrrp.BACKUP)


async def test_death_of_the_master_and_the_stale_address(pair: Pair) -> None:
    a, b = pair
    await elected(pair, VIP, VIP6)
    a.history.clear()
    a.kill()
    await b.until(Vrrp.MASTER)
    await a.until(Vrrp.BACKUP)  # started again
    assert a.history[0] is None  # nobody voted meanwhile
    assert Vrrp.MASTER not in a.history
    assert not {VIP, VIP6} & await a.addresses()
    assert {VIP, VIP6} < await b.addresses()


async def test_death_of_the_speaker_alone(pair: Pair) -> None:
    a, b = pair
    await elected(pair, VIP)
    parent, speaker = a.pids()
    os.kill(speaker, signal.SIGKILL)
    await b.until(Vrrp.MASTER)
    await a.until(Vrrp.BACKUP)
    assert a.pids()[0] == parent
    os.kill(b.pids()[0], signal.SIGKILL)  # the parent alone: its speaker ends in order
    await a.until(Vrrp.MASTER)
    await b.until(Vrrp.BACKUP)


async def test_a_cable_is_cut_and_healed(pair: Pair, network: Network) -> None:
    a, b = pair
    await elected(pair, VIP, VIP6)
    await network.cut("a", "eth0")
    await a.until(Vrrp.FAULT)
    await b.until(Vrrp.MASTER)
    assert not {VIP, VIP6} & await a.addresses()
    await network.heal("a", "eth0")
    await a.until(Vrrp.BACKUP)
    assert b.state() is Vrrp.MASTER


async def test_a_new_daemon_adopts_what_runs(pair: Pair) -> None:
    a, b = pair
    await elected(pair, VIP)
    pids = a.pids()
    await a.stop()
    await a.start()
    assert a.state() is Vrrp.MASTER  # known before anything is configured
    await a.configure(VIP)
    assert (a.state(), a.pids()) == (Vrrp.MASTER, pids)
    await a.stop()
    await b.participate(False)
    os.kill(a.pids()[1], signal.SIGKILL)  # while nobody is there to see it
    await a.start()
    await a.configure(VIP)
    await a.until(Vrrp.MASTER)


async def test_who_was_told_to_stay_out_stays_out(pair: Pair) -> None:
    a, b = pair
    await elected(pair, VIP)
    await a.participate(False)
    await b.until(Vrrp.MASTER)
    a.kill()
    await a.stop()
    await a.start()
    await a.configure(VIP)
    assert a.state() is Vrrp.STOP
    b.kill()
    await b.until(Vrrp.BACKUP)
    await b.until(Vrrp.MASTER)
    assert a.state() is Vrrp.STOP
    assert VIP not in await a.addresses()


async def test_the_order_to_stay_out_reaches_a_dead_keepalived_when_it_is_back(pair: Pair) -> None:
    a, b = pair
    await elected(pair, VIP)
    a.kill()
    await a.until(None)
    with pytest.raises(PortError, match="may have left virtual addresses"):
        await a.participate(False)
    await b.until(Vrrp.MASTER)
    await a.until(Vrrp.STOP)
    await a.participate(False)
    assert VIP not in await a.addresses()


async def test_it_refuses_what_keepalived_must_not_be_given(pair: Pair) -> None:
    a, _ = pair
    await elected(pair, VIP)
    instances = a.instances([VIP])
    bad = [*instances, *a.instances([VIP])]
    bad[1] = type(bad[1])("eth0;x", (MORE,), 8, 240, 100)
    with pytest.raises(PortError, match="cannot be the interface"):
        await a.do(lambda: a.driver.configure(bad))
    assert a.state() is Vrrp.MASTER


async def test_an_interface_that_does_not_exist_yet_harms_no_other(pair: Pair) -> None:
    a, _ = pair
    absent = a.instances([VIP])[0]
    absent = type(absent)("eth9", ("198.51.100.1/24",), 8, 240, 100)
    await a.participate(True)
    await a.do(lambda: a.driver.configure([*a.instances([VIP]), absent]))
    await a.until(Vrrp.MASTER)
    assert a.driver.states()["eth9"] is Vrrp.FAULT


async def test_the_doctor_sees_keepalived(pair: Pair) -> None:
    a, _ = pair
    before = await a.do(a.driver.examine)
    assert [(one.subject, one.ok) for one in before] == [("keepalived", True), ("VRRP speaker", True)]
    await elected(pair, VIP)
    after = await a.do(a.driver.examine)
    assert "real-time priority" in after[1].detail
    assert (after[2].subject, after[2].ok) == ("virtual router ids", True)


async def test_the_doctor_sees_a_stranger_with_our_router_id(pair: Pair, network: Network, tmp_path: Path) -> None:
    a, _ = pair
    await elected(pair, VIP)
    stranger = tmp_path / "stranger.conf"
    stranger.write_text(
        "global_defs {\n vrrp_version 3\n}\nvrrp_instance theirs {\n interface eth0\n virtual_router_id 7\n"
        " priority 50\n advert_int 0.1\n virtual_ipaddress {\n  198.51.100.7/32\n }\n}\n"
    )
    pids = (tmp_path / "stranger.pid", tmp_path / "stranger-vrrp.pid")
    command = ("keepalived", "-n", "-P", "-f", stranger, "-p", pids[0], "-r", pids[1])
    process = await asyncio.create_subprocess_exec(*network.command("client", *map(str, command)))
    try:
        async with asyncio.timeout(10):
            while (await a.do(a.driver.examine))[2].ok:
                await asyncio.sleep(0.05)
        assert (await a.do(a.driver.examine))[2].detail == "used by somebody else, too: 7 on eth0"
        async with asyncio.timeout(10):
            while not a.driver.strangers():
                await asyncio.sleep(0.05)
        assert {(one.interface, one.router_id) for one in a.driver.strangers()} == {("eth0", 7)}
        assert a.driver.strangers()[0].address.startswith("192.0.2."), "not those of the pair, which are dropped unseen"
        assert not {one.address for one in a.driver.strangers()} & {"192.0.2.1", "192.0.2.2"}
        assert a.state() is Vrrp.MASTER
    finally:
        process.terminate()
        await process.wait()
    async with asyncio.timeout(2 * strangers.GONE_MS / 1000):
        while a.driver.strangers():
            await asyncio.sleep(0.05)


async def test_figures(pair: Pair, network: Network, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """How long a client goes without an answer. Printed, and only bounded by the waits of this test."""
    a, b = pair
    client_machine = Machine(network, "client")
    client = Client()
    figures: list[str] = []
    try:
        await elected(pair, VIP)
        await client.start({"a": a, "b": b}, client_machine, VIP)

        async def measured(what: str, since_s: float, owners: list[str]) -> None:
            await asyncio.sleep(A_FEW_ADVERTS_S)
            figures.append(f"{what}: {client.gap_ms(since_s):.1f} ms without an answer")
            assert list(client.owners(since_s + A_FEW_ADVERTS_S / 2)) == owners

        await asyncio.sleep(A_FEW_ADVERTS_S)
        since_s = time.monotonic()
        await a.configure(VIP, priority=254)
        await measured("priority raised", since_s, ["a"])
        since_s = time.monotonic()
        await a.configure(VIP, MORE, priority=254)
        await measured("reload with one address more", since_s, ["a"])
        since_s = time.monotonic()
        await a.participate(False)
        figures.append(f"participate(False) returns after {(time.monotonic() - since_s) * 1000:.1f} ms")
        await measured("participate(False)", since_s, ["b"])
        await a.participate(True)
        since_s = time.monotonic()
        b.kill()
        await network.cut("b", "eth0")
        await measured("killed and unplugged", since_s, ["a"])
    finally:
        client.stop()
        client_machine.close()
    with capsys.disabled():
        print("\n" + "\n".join(figures))
