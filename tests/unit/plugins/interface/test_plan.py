"""The planner, proven on the lab's model of a kernel: it gets where it wants, touches nothing else, and can go back."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from middlewared.lab.links import LinkError, Links
from middlewared.plugins.interface.plan import Change, plan, undo
from middlewared.plugins.interface.simulated import _config
from middlewared.ports import LinkConfig, PortError

NICS = ("eth0", "eth1", "eth2", "eth3")
ADDRESSES = [f"192.0.2.{number}/24" for number in range(1, 6)]
FOREIGN = "203.0.113.99/32"


def kernel() -> Links:
    return Links(
        {name: f"198.51.100.{number}/24" for number, name in enumerate(NICS, 1)},
        dict.fromkeys(NICS, "02:00:00:00:00:01"),
        lambda name: True,
    )


def present(links: Links) -> list[LinkConfig]:
    return sorted((_config(row) for row in links.rows(NICS)), key=lambda link: link.name)


def carry_out(links: Links, changes: Sequence[Change]) -> None:
    for change in changes:
        links.change(type(change).__name__, dataclasses.asdict(change))


def reach(links: Links, wanted: Sequence[LinkConfig], owned: Sequence[LinkConfig]) -> tuple[Change, ...]:
    changes = plan(present(links), wanted, owned)
    carry_out(links, changes)
    return changes


@st.composite
def networks(draw: Any) -> list[LinkConfig]:
    """What rules.py would let through: ports without addresses, no port twice, no VLAN larger than what it is on."""
    addresses = list(draw(st.permutations(ADDRESSES)))
    nics = list(draw(st.permutations(NICS)))
    mtu = st.sampled_from([1500, 1400, 9000])
    found: dict[str, LinkConfig] = {}
    ports: set[str] = set()
    if draw(st.booleans()):
        members = tuple(sorted(nics[: draw(st.integers(1, 2))]))
        ports |= set(members)
        protocol = draw(st.sampled_from(["LACP", "FAILOVER"]))
        found["bond0"] = LinkConfig("bond0", "LINK_AGGREGATION", mtu=draw(mtu), ports=members, protocol=protocol)
    parents = [name for name in (*nics, *found) if name not in ports]
    below = {name: draw(mtu) for name in NICS if name not in ports} | {name: link.mtu for name, link in found.items()}
    if draw(st.booleans()):
        parent = draw(st.sampled_from(parents))
        size = min(draw(mtu), below[parent])
        tag = draw(st.sampled_from([5, 6]))
        found["vlan5"] = LinkConfig(
            "vlan5", "VLAN", mtu=size, parent=parent, tag=tag, pcp=draw(st.sampled_from([0, 3]))
        )
    if draw(st.booleans()):
        used = {found["vlan5"].parent} if "vlan5" in found else set()
        free = [name for name in (*nics, *found) if name not in ports | used]
        members = tuple(sorted(draw(st.lists(st.sampled_from(free), max_size=2, unique=True)))) if free else ()
        ports |= set(members)
        found["br0"] = LinkConfig("br0", "BRIDGE", mtu=draw(mtu), ports=members, stp=draw(st.booleans()))
    for name in NICS:
        if name in ports or draw(st.booleans()) or any(link.parent == name for link in found.values()):
            found[name] = LinkConfig(name, mtu=below.get(name, 1500))
    for name in sorted(found):
        if name not in ports and addresses and draw(st.booleans()):
            found[name] = dataclasses.replace(found[name], addresses=(addresses.pop(),))
    return list(found.values())


def same(links: Links, wanted: Sequence[LinkConfig]) -> None:
    """Everything wanted is there, but for the MTU of an aggregation's ports, which is the aggregation's."""
    now = {link.name: link for link in present(links)}
    aggregated = {port for link in wanted if link.kind == "LINK_AGGREGATION" for port in link.ports}
    for link in wanted:
        left = tuple(address for address in now[link.name].addresses if address in ADDRESSES)
        expected = dataclasses.replace(now[link.name], addresses=left)
        if link.name in aggregated:
            link = dataclasses.replace(link, mtu=expected.mtu)
        assert expected == link


@given(networks(), networks())
@settings(deadline=None)
def test_from_any_network_to_any_other_and_back(first: list[LinkConfig], second: list[LinkConfig]) -> None:
    links = kernel()
    plain = [dataclasses.replace(link, addresses=()) for link in present(links)]
    carry_out(links, plan(present(links), [], []))
    links.change("AddAddress", {"name": "eth0", "address": FOREIGN})  # the VRRP speaker's, say
    reach(links, first, [*plain, *first])
    same(links, first)
    before = present(links)
    originals = [link for link in plain if link.name not in {item.name for item in second}]
    wanted = [*second, *originals]
    changes = reach(links, wanted, [*plain, *first, *second])
    same(links, second)
    assert FOREIGN in next(link for link in present(links) if link.name == "eth0").addresses
    assert plan(present(links), wanted, [*plain, *first, *second]) == (), "what was reached is not changed again"
    assert {link.name for link in present(links)} == {link.name for link in second} | set(NICS)
    carry_out(links, undo(changes))
    ports = {port for link in before if link.kind == "LINK_AGGREGATION" for port in link.ports}
    for then, now in zip(before, present(links), strict=True):
        size = now.mtu if then.name in ports else then.mtu
        assert dataclasses.replace(now, addresses=tuple(sorted(now.addresses))) == dataclasses.replace(
            then, mtu=size, addresses=tuple(sorted(then.addresses))
        )


def test_an_interface_of_others_is_not_taken() -> None:
    links = kernel()
    foreign = LinkConfig("br0", "BRIDGE", stp=True)
    carry_out(links, plan(present(links), [foreign], []))
    with pytest.raises(PortError, match=r"br0 exists already and was not made by middlewared: .*ip link delete br0"):
        plan(present(links), [LinkConfig("br0", "VLAN", parent="eth0", tag=5)], [])
    assert plan(present(links), [], [LinkConfig("br1", "BRIDGE")]) == ()


def test_a_port_of_others_is_not_taken() -> None:
    links = kernel()
    carry_out(links, plan(present(links), [LinkConfig("virbr0", "BRIDGE", ports=("eth1",))], []))
    with pytest.raises(PortError, match="eth1 is a port of virbr0"):
        plan(present(links), [LinkConfig("br0", "BRIDGE", ports=("eth1",))], [])


def test_what_others_put_on_top_of_ours_is_not_deleted_with_it() -> None:
    links = kernel()
    bridge = LinkConfig("br0", "BRIDGE")
    carry_out(links, plan(present(links), [bridge], []))
    carry_out(links, plan(present(links), [bridge, LinkConfig("guest", "VLAN", parent="br0", tag=9)], [bridge]))
    with pytest.raises(PortError, match="guest"):
        plan(present(links), [], [bridge])


def test_a_nic_that_is_not_fitted_is_passed_over() -> None:
    links = kernel()
    wanted = [
        LinkConfig("eth9", addresses=("192.0.2.1/24",)),
        LinkConfig("br0", "BRIDGE", ports=("eth1", "eth9")),
        LinkConfig("vlan5", "VLAN", parent="eth9", tag=5),
        LinkConfig("vlan6", "VLAN", parent="vlan5", tag=6),
    ]
    reach(links, wanted, wanted)
    now = {link.name: link for link in present(links)}
    assert set(now) == {*NICS, "br0"}
    assert now["br0"].ports == ("eth1",)


def test_what_rests_on_itself_is_refused() -> None:
    wanted = [LinkConfig("br0", "BRIDGE", ports=("br1",)), LinkConfig("br1", "BRIDGE", ports=("br0",))]
    with pytest.raises(PortError, match="rest on each other"):
        plan([], wanted, [])


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("Create", {"link": dataclasses.asdict(LinkConfig("vlan5", "VLAN", parent="eth8", tag=5))}),
        ("Create", {"link": dataclasses.asdict(LinkConfig("eth0", "BRIDGE"))}),
        ("Create", {"link": dataclasses.asdict(LinkConfig("a-name-of-16-ch", "VLAN", mtu=9000, parent="eth0"))}),
        ("Delete", {"link": {"name": "eth0"}}),
        ("Join", {"port": "eth0", "master": "eth1"}),
        ("Leave", {"port": "eth0", "master": "eth1"}),
        ("Set", {"name": "eth0", "attribute": "mtu", "after": 20}),
        ("AddAddress", {"name": "eth0", "address": "198.51.100.1/24"}),
        ("RemoveAddress", {"name": "eth0", "address": "192.0.2.1/24"}),
        ("Rename", {}),
    ],
)
def test_the_model_refuses_what_the_kernel_refuses(what: str, change: dict[str, Any]) -> None:
    links = kernel()
    before = present(links)
    with pytest.raises(LinkError):
        links.change(what, change)
    assert present(links) == before
