"""The `interface.*` methods, and the rules for virtual addresses."""

import asyncio
import dataclasses
import errno
from typing import Any

import pytest

from middlewared.errors import CallError, ValidationErrors
from middlewared.plugins.interface.methods import Interfaces

VIP = {"address": "192.0.2.10", "netmask": 24}


@pytest.fixture(autouse=True)
def interfaces(bench: Any) -> None:
    bench.use(Interfaces)


async def refused(bench: Any, name: str, **data: Any) -> list[tuple[str | None, str, int]]:
    with pytest.raises(ValidationErrors) as caught:
        await bench.call("interface.update", name, data)
    return caught.value.errors


async def test_query_lists_the_machine_s_interfaces(bench: Any) -> None:
    rows = await bench.call("interface.query")
    assert [row["id"] for row in rows] == ["eth0", "eth1", "hb0"]
    assert [row["state"]["link_state"] for row in rows] == ["LINK_STATE_UP", "LINK_STATE_DOWN", "LINK_STATE_UP"]
    assert rows[0]["aliases"] == [{"type": "INET", "address": "192.0.2.1", "netmask": 24}]
    assert await bench.call("interface.query", [["failover_critical", "=", True]], {"count": True}) == 0


async def test_update_stores_for_the_pair_what_it_returns(bench: Any) -> None:
    data = {"failover_critical": True, "failover_group": 7, "failover_virtual_aliases": [VIP], "description": "LAN"}
    row = await bench.call("interface.update", "eth0", data)
    assert (row["failover_critical"], row["failover_group"], row["description"]) == (True, 7, "LAN")
    assert row["failover_virtual_aliases"] == [{"type": "INET", **VIP}]
    assert await bench.call("interface.get_instance", "eth0") == row
    stored = bench.context.store.query("SELECT name, virtual_aliases FROM interface_config")
    assert stored == [{"name": "eth0", "virtual_aliases": '["192.0.2.10/24"]'}]


async def test_what_is_left_out_stays(bench: Any) -> None:
    await bench.call("interface.update", "eth0", {"failover_critical": True, "failover_group": 7})
    row = await bench.call("interface.update", "eth0", {"failover_group": None})
    assert (row["failover_critical"], row["failover_group"]) == (True, None)


async def test_an_update_that_changes_nothing_writes_nothing(bench: Any) -> None:
    await bench.call("interface.update", "eth0", {"failover_virtual_aliases": [VIP]})
    before = bench.context.store.position
    await bench.call("interface.update", "eth0", {"failover_virtual_aliases": [VIP], "failover_critical": False})
    assert bench.context.store.position == before


async def test_the_standby_refuses(bench: Any) -> None:
    def guard() -> None:
        raise CallError("controller B is active", errno.EROFS)

    bench.context.store.guard = guard
    with pytest.raises(CallError, match="controller B is active"):
        await bench.call("interface.update", "eth0", {"failover_critical": True})


async def test_an_interface_that_does_not_exist(bench: Any) -> None:
    [(attribute, text, number)] = await refused(bench, "eth7", failover_critical=True)
    assert (attribute, number) == (None, errno.ENOENT)
    assert "eth7" in text
    with pytest.raises(ValidationErrors):
        await bench.call("interface.get_instance", "eth7")


async def test_one_virtual_address_on_two_interfaces(bench: Any) -> None:
    await bench.call("interface.update", "eth0", {"failover_virtual_aliases": [VIP]})
    [(attribute, text, number)] = await refused(bench, "eth1", failover_virtual_aliases=[{**VIP, "netmask": 25}])
    assert (attribute, number) == ("interface_update.failover_virtual_aliases.0.address", errno.EEXIST)
    assert "eth0" in text


async def test_two_updates_at_once_cannot_both_take_an_address(bench: Any) -> None:
    data = {"failover_virtual_aliases": [VIP]}
    both = await asyncio.gather(
        bench.call("interface.update", "eth0", data),
        bench.call("interface.update", "eth1", data),
        return_exceptions=True,
    )
    assert [isinstance(result, ValidationErrors) for result in both].count(True) == 1


async def test_a_controller_s_own_address_does_not_move(bench: Any) -> None:
    for own in ("192.0.2.1", "198.51.100.1", "169.254.10.1"):
        [(_, text, number)] = await refused(bench, "eth0", failover_virtual_aliases=[{"address": own, "netmask": 24}])
        assert number == errno.EEXIST
        assert "own address" in text


async def test_a_master_keeps_the_virtual_address_it_has(bench: Any) -> None:
    """The kernel lists it among the addresses, with the prefix length that the VRRP speaker chose."""
    await bench.call("interface.update", "eth0", {"failover_virtual_aliases": [VIP]})
    eth0, *others = bench.machine.nic_list
    addresses = ("192.0.2.1/24", "192.0.2.10/32")
    bench.machine.nic_list = [dataclasses.replace(eth0, addresses=addresses), *others]
    second = {"address": "192.0.2.11", "netmask": 24}
    row = await bench.call("interface.update", "eth0", {"failover_virtual_aliases": [VIP, second]})
    assert [alias["address"] for alias in row["aliases"]] == ["192.0.2.1"]
    assert [alias["address"] for alias in row["state"]["aliases"]] == ["192.0.2.1", "192.0.2.10"]


@pytest.mark.parametrize(
    ("alias", "why"),
    [
        ({"address": "192.0.2", "netmask": 24}, "not an IP address"),
        ({"address": "192.0.2.10", "netmask": 33}, "not an IP address"),
        ({"address": "192.0.2.10/24", "netmask": 24}, "not an IP address"),
        ({"address": "224.0.0.18", "netmask": 24}, "cannot be the address of a host"),
        ({"address": "0.0.0.0", "netmask": 24}, "cannot be the address of a host"),
        ({"address": "192.0.2.0", "netmask": 24}, "network or broadcast address"),
        ({"address": "192.0.2.255", "netmask": 24}, "network or broadcast address"),
        ({"address": "2001:db8::10", "netmask": 64, "type": "INET"}, "not of type INET"),
    ],
)
async def test_addresses_that_no_host_can_have(bench: Any, alias: dict[str, Any], why: str) -> None:
    [(attribute, text, _)] = await refused(bench, "eth0", failover_virtual_aliases=[alias])
    assert attribute == "interface_update.failover_virtual_aliases.0.address"
    assert why in text


async def test_all_that_is_wrong_is_told_at_once(bench: Any) -> None:
    errors = await refused(bench, "eth0", failover_virtual_aliases=[VIP, VIP, {"address": "x", "netmask": 1}])
    assert [attribute for attribute, _, _ in errors] == [
        "interface_update.failover_virtual_aliases.1.address",
        "interface_update.failover_virtual_aliases.2.address",
    ]


@pytest.mark.parametrize("address", ["2001:DB8:0::10", "2001:db8::10"])
async def test_addresses_are_stored_in_one_form(bench: Any, address: str) -> None:
    alias = {"address": address, "netmask": 64}
    row = await bench.call("interface.update", "eth0", {"failover_virtual_aliases": [alias]})
    assert row["failover_virtual_aliases"] == [{"type": "INET6", "address": "2001:db8::10", "netmask": 64}]


async def test_both_ends_of_a_point_to_point_network_are_hosts(bench: Any) -> None:
    alias = {"address": "203.0.113.0", "netmask": 31}
    assert await bench.call("interface.update", "eth0", {"failover_virtual_aliases": [alias]})


@pytest.mark.parametrize("data", [{"failover_critical": True}, {"failover_virtual_aliases": [VIP]}])
async def test_the_heartbeat_link_takes_no_part(bench: Any, data: dict[str, Any]) -> None:
    [(attribute, text, _)] = await refused(bench, "hb0", **data)
    assert attribute == "interface_update"
    assert "heartbeat" in text


@pytest.mark.parametrize("group", [0, 256, "1"])
async def test_groups_are_1_to_255(bench: Any, group: Any) -> None:
    [(attribute, _, _)] = await refused(bench, "eth0", failover_group=group)
    assert attribute == "data.failover_group"


async def test_a_configured_interface_that_vanished_is_shown_and_can_be_cleared(bench: Any) -> None:
    await bench.call("interface.update", "eth1", {"failover_critical": True, "failover_virtual_aliases": [VIP]})
    del bench.machine.nic_list[1]
    row = await bench.call("interface.get_instance", "eth1")
    assert (row["type"], row["state"]["link_state"], row["aliases"]) == ("UNKNOWN", "LINK_STATE_UNKNOWN", [])
    second = {"address": "192.0.2.11", "netmask": 24}
    [(attribute, text, _)] = await refused(bench, "eth1", failover_virtual_aliases=[second])
    assert attribute is None
    assert "no such interface now" in text
    cleared = {"failover_critical": False, "failover_virtual_aliases": []}
    assert (await bench.call("interface.update", "eth1", cleared))["failover_virtual_aliases"] == []


async def test_changes_need_no_confirmation(bench: Any) -> None:
    assert await bench.call("interface.has_pending_changes") is False
    assert await bench.call("interface.checkin_waiting") is None
