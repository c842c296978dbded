"""The real driver against a real kernel, in a network namespace of the test's own; and messages that it recorded."""

import asyncio
import ctypes
import os
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from middlewared.plugins.interface import netlink
from middlewared.plugins.interface.netlink import NetlinkInterfaces
from middlewared.plugins.interface.netlink_table import NetworkSettings
from middlewared.ports import LinkConfig, PortError

_CLONE_NEWNET = 0x40000000
SETTINGS = NetworkSettings(heartbeat="hb0", physical=("eth*", "hb*"))


@pytest.fixture
async def route() -> AsyncIterator[AsyncIPRoute]:
    """A namespace with eth0, eth1 and hb0, the ends of wires whose other ends are wire0, wire1 and wire2."""
    if os.geteuid() != 0:
        pytest.skip("needs root: makes a network namespace")
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    if libc.unshare(_CLONE_NEWNET) != 0:
        os.close(before)
        pytest.skip(f"needs CAP_SYS_ADMIN: unshare: {os.strerror(ctypes.get_errno())}")
    try:
        async with AsyncIPRoute() as opened:
            for number, name in enumerate(("eth0", "eth1", "hb0")):
                await opened.link("add", ifname=name, kind="veth", peer=f"wire{number}")
                await opened.link("set", index=socket.if_nametoindex(f"wire{number}"), state="up")
            yield opened
    finally:
        assert libc.setns(before, _CLONE_NEWNET) == 0
        os.close(before)


@pytest.fixture
async def driver(route: AsyncIPRoute) -> AsyncIterator[NetlinkInterfaces]:
    started = NetlinkInterfaces(SETTINGS)
    await started.start()
    yield started
    await started.stop()


async def until(driver: NetlinkInterfaces, holds: Callable[[], bool]) -> None:
    news = asyncio.Event()
    driver.on_change(news.set)
    async with asyncio.timeout(10):
        while not holds():
            news.clear()
            await news.wait()


async def up(route: AsyncIPRoute, name: str, state: str = "up") -> None:
    await route.link("set", index=socket.if_nametoindex(name), state=state)


def config(links: Any, name: str) -> LinkConfig:
    return next(link for link in links if link.name == name)


# ------------------------------------------------------------------------------------------ events


async def test_a_snapshot_at_the_start(driver: NetlinkInterfaces) -> None:
    assert [(nic.name, nic.kind, nic.link_up) for nic in driver.nics()] == [
        ("eth0", "PHYSICAL", False),
        ("eth1", "PHYSICAL", False),
    ]
    heartbeat = driver.heartbeat()
    assert heartbeat is not None
    assert heartbeat.name == "hb0"
    assert len(heartbeat.mac.split(":")) == 6


async def test_links_and_addresses_as_they_come_and_go(driver: NetlinkInterfaces, route: AsyncIPRoute) -> None:
    await up(route, "eth0")
    await until(driver, lambda: driver.nics()[0].link_up)
    index = socket.if_nametoindex("eth0")
    await route.addr("add", index=index, address="192.0.2.1", prefixlen=24)
    await route.addr("add", index=index, address="2001:db8::1", prefixlen=64)
    await until(driver, lambda: driver.nics()[0].addresses == ("192.0.2.1/24", "2001:db8::1/64"))
    await route.addr("del", index=index, address="192.0.2.1", prefixlen=24)
    await until(driver, lambda: driver.nics()[0].addresses == ("2001:db8::1/64",))
    await up(route, "wire0", "down")  # the other end is switched off: no carrier, though the administrator wants it up
    await until(driver, lambda: not driver.nics()[0].link_up)
    await route.link("set", index=index, address="02:00:00:00:00:09")
    await until(driver, lambda: driver.nics()[0].mac == "02:00:00:00:00:09")


async def test_the_heartbeat_interface_vanishes_and_returns(driver: NetlinkInterfaces, route: AsyncIPRoute) -> None:
    await up(route, "hb0")
    await until(driver, lambda: driver.heartbeat() is not None and driver.heartbeat().link_up)  # type: ignore[union-attr]  # just asked
    await route.link("del", index=socket.if_nametoindex("hb0"))
    await until(driver, lambda: driver.heartbeat() is None)
    await route.link("add", ifname="hb0", kind="veth", peer="wire2")
    await until(driver, lambda: driver.heartbeat() is not None)


async def test_an_interface_that_is_renamed(driver: NetlinkInterfaces, route: AsyncIPRoute) -> None:
    await route.link("set", index=socket.if_nametoindex("eth1"), ifname="eth7")
    await until(driver, lambda: [nic.name for nic in driver.nics()] == ["eth0", "eth7"])


async def test_lost_messages_make_it_read_everything_again(
    driver: NetlinkInterfaces, route: AsyncIPRoute, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The socket's buffer runs over while nobody reads: the kernel then says ENOBUFS, once."""
    assert driver._socket is not None
    driver._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    asyncio.get_running_loop().remove_reader(driver._socket)
    index = socket.if_nametoindex("eth0")
    for number in range(1, 40):
        await route.addr("add", index=index, address=f"198.51.100.{number}", prefixlen=24)
    await up(route, "eth1")
    asyncio.get_running_loop().add_reader(driver._socket, driver._readable)
    await until(driver, lambda: driver.nics()[1].link_up and len(driver.nics()[0].addresses) == 39)


async def test_what_belongs_to_others_is_not_listed(driver: NetlinkInterfaces, route: AsyncIPRoute) -> None:
    await route.link("add", ifname="docker0", kind="bridge")
    await route.link("add", ifname="br0", kind="bridge")
    await until(driver, lambda: [nic.name for nic in driver.nics()] == ["br0", "eth0", "eth1"])
    assert driver.nics()[0].kind == "BRIDGE"
    assert config(await driver.present(), "docker0").kind == "BRIDGE"  # its name is taken all the same


# ------------------------------------------------------------------------------------------ configuring


BRIDGE = LinkConfig(
    "br0",
    "BRIDGE",
    mtu=1400,
    description="LAN",
    addresses=("192.0.2.1/24", "2001:db8::1/64"),
    ports=("eth1",),
    stp=False,
)


async def test_a_bridge_comes_changes_and_goes(driver: NetlinkInterfaces, route: AsyncIPRoute) -> None:
    before = await driver.present()
    port = LinkConfig("eth1")
    await driver.apply([BRIDGE, port], [BRIDGE, port])
    after = await driver.present()
    assert config(after, "br0") == BRIDGE
    assert config(after, "eth1").up
    await driver.apply([BRIDGE, port], [BRIDGE, port])  # nothing to do
    assert await driver.present() == after
    other = LinkConfig("br0", "BRIDGE", addresses=("192.0.2.9/24",), stp=True)
    await driver.apply([other, port], [BRIDGE, port])
    assert config(await driver.present(), "br0") == other
    await driver.apply([config(before, "eth1")], [BRIDGE, other, port])
    assert await driver.present() == before


async def test_an_error_restores_what_was_before(driver: NetlinkInterfaces) -> None:
    before = await driver.present()
    wanted = LinkConfig("br1", "BRIDGE", mtu=70_000_000)
    with pytest.raises(PortError, match="mtu greater than device maximum"):
        await driver.apply([BRIDGE, wanted], [BRIDGE, wanted])
    assert await driver.present() == before


async def test_virtual_addresses_stay_when_the_first_of_their_network_goes(
    driver: NetlinkInterfaces, route: AsyncIPRoute
) -> None:
    index = socket.if_nametoindex("eth0")
    await route.addr("add", index=index, address="192.0.2.1", prefixlen=24)
    await route.addr("add", index=index, address="192.0.2.10", prefixlen=24)  # the VRRP speaker's: a secondary one
    owned = LinkConfig("eth0", addresses=("192.0.2.1/24",))
    wanted = LinkConfig("eth0", addresses=("192.0.2.2/24",))
    await driver.apply([wanted], [owned, wanted])
    assert config(await driver.present(), "eth0").addresses == ("192.0.2.10/24", "192.0.2.2/24")


async def test_the_heartbeat_interface_is_left_alone(driver: NetlinkInterfaces) -> None:
    with pytest.raises(PortError, match="hb0 is the heartbeat interface"):
        await driver.apply([LinkConfig("hb0", addresses=("192.0.2.1/24",))], [])


@pytest.mark.parametrize(
    ("link", "module"),
    [
        (LinkConfig("bond0", "LINK_AGGREGATION", ports=("eth1",), protocol="LACP", xmit_hash="LAYER3+4"), "bonding"),
        (LinkConfig("vlan20", "VLAN", addresses=("203.0.113.1/24",), parent="eth1", tag=20, pcp=5), "8021q"),
    ],
)
async def test_aggregations_and_vlans(driver: NetlinkInterfaces, link: LinkConfig, module: str) -> None:
    below = LinkConfig("eth1")
    before = await driver.present()
    try:
        await driver.apply([link, below], [link, below])
        failure = ""
    except PortError as error:
        failure = str(error)
    if failure:
        assert f"load the kernel module {module}" in failure
        assert await driver.present() == before
        pytest.skip(f"needs the kernel module {module}: this kernel has none")
    assert config(await driver.present(), link.name) == link
    await driver.apply([config(before, "eth1")], [link, below])
    assert await driver.present() == before


async def test_a_commit_on_a_real_kernel_and_its_way_back(
    driver: NetlinkInterfaces, route: AsyncIPRoute, standing: Any
) -> None:
    """An address moves from a port to its bridge, and back; what the kernel had before is what it has after."""
    await up(route, "eth1")
    await route.addr("add", index=socket.if_nametoindex("eth1"), address="192.0.1.1", prefixlen=24)
    before = await driver.present()
    await until(driver, lambda: driver.nics()[1].addresses == ("192.0.1.1/24",))
    standing.machine = driver
    await standing.start()
    own = [{"address": "192.0.1.1", "netmask": 24}]
    await standing.call("interface.create", {"type": "BRIDGE", "bridge_members": ["eth1"], "aliases": own})
    await standing.call("interface.commit", {"checkin_timeout": 30})
    assert config(await driver.present(), "br0").addresses == ("192.0.1.1/24",)
    assert config(await driver.present(), "eth1").addresses == ()
    standing.clock.pass_s(31)
    await standing.plugin.applier.settle()
    assert await driver.present() == before


async def test_examine_tells_without_being_started(route: AsyncIPRoute) -> None:
    findings = {item.subject: item for item in await NetlinkInterfaces(SETTINGS).examine()}
    assert not findings["heartbeat interface hb0"].ok
    assert "cable" in findings["heartbeat interface hb0"].remedy
    assert findings["interfaces"].detail == "eth0, eth1"
    assert findings["CAP_NET_ADMIN"].ok


async def test_a_kernel_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent:
        async def __aenter__(self) -> "Silent":
            return self

        async def __aexit__(self, *_: object) -> None: ...

        async def get_links(self, **_: object) -> None:
            raise NetlinkError(1, "Operation not permitted")

    monkeypatch.setattr(netlink, "AsyncIPRoute", Silent)
    driver = NetlinkInterfaces(SETTINGS)
    with pytest.raises(PortError, match="Operation not permitted"):
        await driver.present()
    [finding] = await driver.examine()
    assert not finding.ok
