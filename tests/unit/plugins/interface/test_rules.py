"""What may be configured of a link: every refusal names the field and the remedy."""

from typing import Any

import pytest

from middlewared.errors import ValidationErrors

VIP = [{"address": "192.0.0.100", "netmask": 24}]
BOND = {"type": "LINK_AGGREGATION", "lag_protocol": "LACP", "lag_ports": ["eth1"]}
BRIDGE = {"type": "BRIDGE", "bridge_members": ["eth1"]}
VLAN = {"type": "VLAN", "vlan_parent_interface": "eth1", "vlan_tag": 20}


def address(text: str, netmask: int = 24) -> list[dict[str, Any]]:
    return [{"address": text, "netmask": netmask}]


async def errors(controller: Any, name: str, *arguments: Any) -> list[tuple[str | None, str]]:
    with pytest.raises(ValidationErrors) as caught:
        await controller.call(name, *arguments)
    return [(attribute, text) for attribute, text, _ in caught.value.errors]


async def test_names_are_found(alone: Any) -> None:
    assert (await alone.call("interface.create", {**BRIDGE, "bridge_members": []}))["id"] == "br0"
    assert (await alone.call("interface.create", {**BRIDGE, "bridge_members": []}))["id"] == "br1"
    assert (await alone.call("interface.create", BOND))["id"] == "bond0"
    assert (await alone.call("interface.create", {**VLAN, "vlan_parent_interface": "eth0"}))["id"] == "vlan20"
    assert (await alone.call("interface.create", {**VLAN, "vlan_parent_interface": "br0"}))["id"] == "vlan0"


async def test_each_kind_shows_its_own_members(alone: Any) -> None:
    bond = await alone.call("interface.create", {**BOND, "xmit_hash_policy": "LAYER3+4", "lacpdu_rate": "FAST"})
    shown = [bond[name] for name in ("lag_protocol", "lag_ports", "xmit_hash_policy", "lacpdu_rate")]
    assert shown == ["LACP", ["eth1"], "LAYER3+4", "FAST"]
    assert "stp" not in bond
    bridge = await alone.call("interface.create", {"type": "BRIDGE", "stp": False, "description": "guests"})
    assert (bridge["bridge_members"], bridge["stp"], bridge["description"]) == ([], False, "guests")
    row = await alone.call("interface.update", "br0", {"bridge_members": ["eth2"], "description": "staff"})
    assert (row["bridge_members"], row["description"]) == (["eth2"], "staff")


@pytest.mark.parametrize(
    ("data", "field", "why"),
    [
        ({**BRIDGE, "name": "eth0"}, "name", "eth0 exists already"),
        ({**BRIDGE, "name": "hb0"}, "name", "hb0 exists already"),
        ({**BRIDGE, "name": "1st"}, "name", "A name is a letter followed by"),
        ({"type": "VLAN", "vlan_tag": 5}, "vlan_parent_interface", "A VLAN needs it"),
        ({"type": "LINK_AGGREGATION", "lag_ports": ["eth1"]}, "lag_protocol", "needs it"),
        ({**BOND, "lag_ports": []}, "lag_ports", "at least one port"),
        ({**BRIDGE, "vlan_tag": 5}, "vlan_tag", "of type BRIDGE, which has no vlan_tag"),
        ({**BRIDGE, "bridge_members": ["eth9"]}, "bridge_members", "There is no interface eth9"),
        ({**BRIDGE, "bridge_members": ["hb0"]}, "bridge_members", "heartbeat link"),
        ({**VLAN, "vlan_parent_interface": "hb0"}, "vlan_parent_interface", "heartbeat link"),
        ({**BRIDGE, "ipv4_dhcp": True}, "ipv4_dhcp", "addresses that stay"),
        ({**BRIDGE, "ipv6_auto": True}, "ipv6_auto", "addresses that stay"),
        ({**BRIDGE, "aliases": address("192.0.2.0")}, "aliases.0.address", "network or broadcast"),
        ({**BRIDGE, "aliases": address("169.254.10.1", 30)}, "aliases.0.address", "own address on hb0"),
        ({**BRIDGE, "aliases": address("192.0.0.1")}, "aliases.0.address", "own address on eth0"),
        ({**BRIDGE, "mtu": 1000, "aliases": address("2001:db8::1", 64)}, "mtu", "IPv6 needs at least 1280"),
    ],
)
async def test_what_cannot_be_made(alone: Any, data: dict[str, Any], field: str, why: str) -> None:
    found = await errors(alone, "interface.create", data)
    assert found[0][0] == f"interface_create.{field}"
    assert why in found[0][1]
    assert await alone.call("interface.has_pending_changes") is False


@pytest.mark.parametrize(
    ("before", "data", "field", "why"),
    [
        (BRIDGE, {**BOND}, "lag_ports", "eth1 is a port of br0 already"),
        (BOND, {**VLAN}, "vlan_parent_interface", "eth1 is a port of bond0"),
        (VLAN, {**BOND}, "lag_ports", "vlan20 rests on eth1"),
        (VLAN, {**VLAN}, "vlan_tag", "vlan20 has tag 20 on eth1 already"),
        (BRIDGE, {"type": "BRIDGE", "bridge_members": ["br0"]}, "bridge_members", "br0 is of type BRIDGE"),
        (BOND, {**VLAN, "vlan_parent_interface": "bond0", "mtu": 9000}, "mtu", "larger MTU than bond0"),
        (
            {**BRIDGE, "aliases": address("203.0.113.1")},
            {**VLAN, "failover_aliases": address("203.0.113.1")},
            "failover_aliases.0.address",
            "own address on br0",
        ),
    ],
)
async def test_what_does_not_fit_beside_the_other(
    alone: Any, before: dict[str, Any], data: dict[str, Any], field: str, why: str
) -> None:
    await alone.call("interface.create", before)
    found = await errors(alone, "interface.create", data)
    assert found[0][0] == f"interface_create.{field}"
    assert why in found[0][1]


async def test_one_address_is_not_on_both_controllers(alone: Any) -> None:
    data = {**BRIDGE, "aliases": address("203.0.113.1"), "failover_aliases": address("203.0.113.1")}
    [(attribute, text)] = await errors(alone, "interface.create", data)
    assert attribute == "interface_create.failover_aliases.0.address"
    assert "cannot be on both" in text


async def test_virtual_and_own_addresses_exclude_each_other(alone: Any) -> None:
    await alone.call("interface.update", "eth0", {"failover_virtual_aliases": VIP})
    [(attribute, text)] = await errors(alone, "interface.update", "eth1", {"failover_aliases": VIP})
    assert attribute == "interface_update.failover_aliases.0.address"
    assert "virtual address of eth0" in text
    await alone.call("interface.update", "eth1", {"failover_aliases": address("192.0.1.50")})
    [(attribute, text)] = await errors(
        alone, "interface.update", "eth0", {"failover_virtual_aliases": address("192.0.1.50")}
    )
    assert "a controller's own address on eth1" in text


async def test_a_port_has_neither_addresses_nor_a_place_in_failover(alone: Any) -> None:
    await alone.call("interface.update", "eth1", {"failover_critical": True})
    [(attribute, text)] = await errors(alone, "interface.create", BRIDGE)
    assert attribute == "interface_create.bridge_members"
    assert "failover_critical=false" in text
    await alone.call("interface.update", "eth1", {"failover_critical": False})
    await alone.call("interface.update", "eth1", {"aliases": address("203.0.113.9")})
    [(_, text)] = await errors(alone, "interface.create", BRIDGE)
    assert "aliases and failover_aliases to []" in text
    await alone.call("interface.update", "eth1", {"aliases": []})
    await alone.call("interface.create", BRIDGE)
    [(_, text)] = await errors(alone, "interface.update", "eth1", {"aliases": address("203.0.113.9")})
    assert "give the addresses to br0" in text
    [(_, text)] = await errors(alone, "interface.update", "eth1", {"failover_critical": True})
    assert "give br0 its place" in text


async def test_nothing_rests_on_itself(alone: Any) -> None:
    await alone.call("interface.create", BRIDGE)
    await alone.call("interface.create", {**VLAN, "vlan_parent_interface": "br0"})
    [(attribute, text)] = await errors(alone, "interface.update", "br0", {"bridge_members": ["vlan20"]})
    assert (attribute, text) == ("interface_update.bridge_members", "br0 would rest on itself")


async def test_what_carries_others_is_not_deleted(alone: Any) -> None:
    await alone.call("interface.create", BRIDGE)
    await alone.call("interface.create", {**VLAN, "vlan_parent_interface": "br0"})
    [(_, text)] = await errors(alone, "interface.delete", "br0")
    assert "vlan20 rests on br0" in text
    [(_, text)] = await errors(alone, "interface.delete", "eth0")
    assert "has no configuration that could be deleted" in text


async def test_the_heartbeat_link_is_not_ours_to_configure(alone: Any) -> None:
    [(attribute, text)] = await errors(alone, "interface.update", "hb0", {"mtu": 9000})
    assert attribute == "interface_update"
    assert "heartbeat" in text


async def test_an_interface_that_others_made_is_not_changed(alone: Any) -> None:
    row = {"name": "docker0", "kind": "BRIDGE", "mtu": 1500, "description": "", "stp": True}
    unused = {"protocol": "", "xmit_hash": "", "lacp_rate": "", "parent": "", "tag": 0, "pcp": 0}
    alone.machine.links.change("Create", {"link": row | unused})
    [(_, text)] = await errors(alone, "interface.update", "docker0", {"mtu": 9000})
    assert "was not made by middlewared" in text


async def test_choices(alone: Any) -> None:
    await alone.call("interface.create", BOND)
    await alone.call("interface.create", {"type": "BRIDGE", "bridge_members": ["eth2"]})
    assert list(await alone.call("interface.bridge_members_choices")) == ["bond0", "eth0"]
    assert list(await alone.call("interface.bridge_members_choices", "br0")) == ["bond0", "eth0", "eth2"]
    assert list(await alone.call("interface.lag_ports_choices")) == ["eth0"]
    assert list(await alone.call("interface.lag_ports_choices", "bond0")) == ["eth0", "eth1"]
    assert list(await alone.call("interface.vlan_parent_interface_choices")) == ["bond0", "br0", "eth0", "eth2"]
