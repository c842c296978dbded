"""Messages of kernels that have what the test machine's lacks: aggregations, VLANs, keepalived's addresses.

They are encoded by pyroute2 as linux/if_link.h, if_bonding.h and if_addr.h say, and take the way of real ones.
"""

from typing import Any

import pytest
from pyroute2.netlink import nlmsg
from pyroute2.netlink.rtnl import RTM_DELADDR, RTM_DELLINK, RTM_NEWADDR, RTM_NEWLINK
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.marshal import MarshalRtnl
from pyroute2.requests.link import LinkFieldFilter, LinkIPRouteFilter
from pyroute2.requests.main import RequestProcessor

from middlewared.plugins.interface.netlink_changes import creation
from middlewared.plugins.interface.netlink_table import LinkTable, NetworkSettings
from middlewared.ports import LinkConfig, PortError

UP = 0x1 | 0x10000  # IFF_UP, IFF_LOWER_UP


def received(message: nlmsg, kind: int) -> Any:
    """As it comes out of the socket."""
    message["header"]["type"] = kind
    message.encode()
    [parsed] = MarshalRtnl().parse(bytes(message.data))
    return parsed


def link(index: int, name: str, *, flags: int = UP, operstate: str = "UP", kind: int = RTM_NEWLINK, **more: Any) -> Any:
    message = ifinfmsg()
    message["index"], message["flags"] = index, flags
    message["ifi_type"] = more.pop("ifi_type", 1)
    message["family"] = more.pop("family", 0)
    attributes = {"IFLA_IFNAME": name, "IFLA_MTU": 1500, "IFLA_ADDRESS": "02:00:00:00:00:01", **more}
    message["attrs"] = [*attributes.items(), ("IFLA_OPERSTATE", operstate)]
    return received(message, kind)


def made(index: int, wanted: LinkConfig, **more: Any) -> Any:
    """What the driver would ask for, as the kernel would show it."""
    arguments = RequestProcessor(context=creation(wanted), prime=creation(wanted))
    for field_filter in (LinkFieldFilter(), LinkIPRouteFilter("add")):
        arguments.add_filter(field_filter)
    arguments.finalize()
    return link(index, wanted.name, IFLA_LINKINFO=arguments["IFLA_LINKINFO"], **more)


def address(index: int, text: str, *, kind: int = RTM_NEWADDR, flags: int = 0x80, scope: int = 0, **more: Any) -> Any:
    message = ifaddrmsg()
    message["index"], message["prefixlen"], message["scope"], message["flags"] = index, 24, scope, flags & 0xFF
    message["family"] = 10 if ":" in text else 2
    message["attrs"] = [("IFA_ADDRESS", text), ("IFA_FLAGS", flags), *more.items()]
    return received(message, kind)


@pytest.fixture
def table() -> LinkTable:
    found = LinkTable(NetworkSettings(heartbeat="hb0"))
    for index, name in enumerate(("eth0", "eth1", "hb0"), start=2):
        assert found.take(link(index, name))
    return found


@pytest.mark.parametrize(
    ("flags", "operstate", "is_up"),
    [
        (UP, "UP", True),
        (UP, "UNKNOWN", True),
        (UP, "DORMANT", False),
        (UP, "LOWERLAYERDOWN", False),
        (0x1, "DOWN", False),
        (0x10000, "UP", False),
        (0, "DOWN", False),
    ],
)
def test_a_link_is_up_with_carrier_and_operational(table: LinkTable, flags: int, operstate: str, is_up: bool) -> None:
    """The operational state is that of RFC 2863, in linux/if.h's words."""
    table.take(link(2, "eth0", flags=flags, operstate=operstate))
    assert table.nics()[0].link_up is is_up


def test_the_same_again_is_no_news(table: LinkTable) -> None:
    assert not table.take(link(2, "eth0"))
    assert not table.take(link(2, "eth0", family=7)), "a bridge speaks of its ports under another family"
    assert not table.take(link(2, "eth0", family=7, kind=RTM_DELLINK))
    assert not table.take(link(1, "lo", ifi_type=772))
    assert [nic.name for nic in table.nics()] == ["eth0", "eth1"]


def test_an_aggregation(table: LinkTable) -> None:
    wanted = LinkConfig(
        "bond0", "LINK_AGGREGATION", ports=("eth0", "eth1"), protocol="LACP", xmit_hash="LAYER3+4", lacp_rate="FAST"
    )
    table.take(made(7, wanted))
    for index, name in ((2, "eth0"), (3, "eth1")):
        assert table.take(link(index, name, IFLA_MASTER=7))
    assert {link.name: link for link in table.configs()}["bond0"] == wanted
    assert table.nics()[0].kind == "LINK_AGGREGATION"
    table.take(link(2, "eth0"))
    assert {link.name: link for link in table.configs()}["bond0"].ports == ("eth1",)


@pytest.mark.parametrize("protocol", ["FAILOVER", "LOADBALANCE", "ROUNDROBIN"])
def test_other_protocols(table: LinkTable, protocol: str) -> None:
    wanted = LinkConfig("bond0", "LINK_AGGREGATION", protocol=protocol)
    table.take(made(7, wanted))
    assert {link.name: link for link in table.configs()}["bond0"] == wanted


@pytest.mark.parametrize("pcp", [0, 5])
def test_a_vlan(table: LinkTable, pcp: int) -> None:
    wanted = LinkConfig("vlan20", "VLAN", parent="eth1", tag=20, pcp=pcp)
    table.take(made(7, wanted, IFLA_LINK=3))
    assert {link.name: link for link in table.configs()}["vlan20"] == wanted
    assert [nic.kind for nic in table.nics()] == ["PHYSICAL", "PHYSICAL", "VLAN"]


def test_own_addresses_are_those_that_nobody_else_keeps(table: LinkTable) -> None:
    table.take(address(2, "192.0.2.1"))
    table.take(address(2, "192.0.2.10", IFA_PROTO=18))  # keepalived marks its own
    table.take(address(2, "192.0.2.77", flags=0))  # DHCP: not for good
    table.take(address(2, "fe80::1", scope=253))
    assert table.nics()[0].addresses == ("192.0.2.1/24", "192.0.2.10/24", "192.0.2.77/24")
    assert {link.name: link for link in table.configs()}["eth0"].addresses == ("192.0.2.1/24",)
    assert table.take(address(2, "192.0.2.10", kind=RTM_DELADDR))
    assert not table.take(address(2, "192.0.2.10", kind=RTM_DELADDR))


def test_an_interface_takes_its_addresses_along(table: LinkTable) -> None:
    table.take(address(4, "169.254.10.1"))
    heartbeat = table.heartbeat()
    assert heartbeat is not None
    assert heartbeat.addresses == ("169.254.10.1/24",)
    assert table.take(link(4, "hb0", kind=RTM_DELLINK))
    assert table.heartbeat() is None
    table.take(link(4, "hb0"))
    heartbeat = table.heartbeat()
    assert heartbeat is not None
    assert heartbeat.addresses == ()


def test_only_what_can_be_made_is_asked_for() -> None:
    with pytest.raises(PortError, match="of type VETH cannot be made"):
        creation(LinkConfig("veth0", "VETH"))
