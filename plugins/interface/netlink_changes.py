"""Makes one planned change through rtnetlink. Needs CAP_NET_ADMIN."""

import ipaddress
import socket
from pathlib import Path
from typing import Any

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from middlewared.plugins.interface.netlink_table import BOND_MODES, LACP_RATES, XMIT_HASHES
from middlewared.plugins.interface.plan import (
    AddAddress,
    Change,
    Create,
    Delete,
    Join,
    Leave,
    RemoveAddress,
    Set,
    describe,
)
from middlewared.ports import LinkConfig, PortError

_MIIMON_MS = 100  # how often an aggregation looks at the carrier of its ports
_PRIORITIES = 8
_MODULES = {"BRIDGE": "bridge", "LINK_AGGREGATION": "bonding", "VLAN": "8021q"}
_HASHING = ("LACP", "LOADBALANCE")


async def perform(route: AsyncIPRoute, change: Change) -> None:
    """Raises PortError with the kernel's own word for what it minded."""
    try:
        await _perform(route, change)
    except NetlinkError as error:
        hint = ""
        if isinstance(change, Create) and "Unknown device type" in str(error):
            hint = f": load the kernel module {_MODULES[change.link.kind]}"
        raise PortError(f"{describe(change)}: {error.args[-1]}{hint}") from error
    except OSError as error:
        raise PortError(f"{describe(change)}: {error.strerror}") from error


async def _perform(route: AsyncIPRoute, change: Change) -> None:
    match change:
        case Create(link):
            await _create(route, link)
        case Delete(link):
            await route.link("del", index=_index(link.name))
        case Join(port, master):
            await route.link("set", index=_index(port), master=_index(master))
        case Leave(port):
            await route.link("set", index=_index(port), master=0)
        case Set(name, kind, attribute, _, after):
            await _set(route, name, kind, attribute, after)
        case AddAddress(name, address):
            await route.addr("add", index=_index(name), **_address(address))
        case RemoveAddress(name, address):
            _keep_secondaries(name, address)
            await route.addr("del", index=_index(name), **_address(address))


def _index(name: str) -> int:
    return socket.if_nametoindex(name)


def _address(address: str) -> dict[str, Any]:
    parsed = ipaddress.ip_interface(address)
    found: dict[str, Any] = {"address": str(parsed.ip), "prefixlen": parsed.network.prefixlen}
    if parsed.version == 4 and parsed.network.prefixlen < 31:  # RFC 3021: a /31 has no broadcast address
        found["broadcast"] = str(parsed.network.broadcast_address)
    return found


def _keep_secondaries(name: str, address: str) -> None:
    """Without this the kernel takes all addresses of a network away with the first one, virtual addresses included."""
    if ipaddress.ip_interface(address).version == 4:
        Path(f"/proc/sys/net/ipv4/conf/{name}/promote_secondaries").write_text("1")


async def _create(route: AsyncIPRoute, link: LinkConfig) -> None:
    arguments = creation(link)
    if link.kind == "VLAN":
        arguments["link"] = _index(link.parent)
    await route.link("add", ifname=link.name, **arguments)
    index = _index(link.name)
    try:
        if link.kind == "BRIDGE":  # said after its making, so that no port changes it
            await route.link("set", index=index, mtu=link.mtu)
        if link.description:
            await route.link("set", index=index, ifalias=link.description)
    except NetlinkError:
        await route.link("del", index=index)
        raise


def creation(link: LinkConfig) -> dict[str, Any]:
    """pyroute2's arguments for RTM_NEWLINK, without names and indexes."""
    match link.kind:
        case "BRIDGE":
            return {"kind": "bridge", "br_stp_state": int(link.stp)}
        case "LINK_AGGREGATION":
            found: dict[str, Any] = {
                "kind": "bond",
                "mtu": link.mtu,
                "bond_mode": BOND_MODES[link.protocol],
                "bond_miimon": _MIIMON_MS,
            }
            if link.protocol in _HASHING:
                found["bond_xmit_hash_policy"] = XMIT_HASHES[link.xmit_hash]
            if link.protocol == "LACP":
                found["bond_ad_lacp_rate"] = LACP_RATES[link.lacp_rate]
            return found
        case "VLAN":
            found = {"kind": "vlan", "mtu": link.mtu, "vlan_id": link.tag}
            if link.pcp:
                mappings = [
                    ("IFLA_VLAN_QOS_MAPPING", {"from": number, "to": link.pcp}) for number in range(_PRIORITIES)
                ]
                found["vlan_egress_qos"] = {"attrs": mappings}
            return found
        case _:
            raise PortError(f"{link.name}: an interface of type {link.kind} cannot be made")


async def _set(route: AsyncIPRoute, name: str, kind: str, attribute: str, value: Any) -> None:
    index = _index(name)
    match attribute:
        case "up":
            await route.link("set", index=index, state="up" if value else "down")
        case "mtu":
            await route.link("set", index=index, mtu=value)
        case "description":
            await route.link("set", index=index, ifalias=value)
        case "stp":
            await route.link("set", index=index, kind="bridge", br_stp_state=int(value))
        case "xmit_hash":
            await route.link("set", index=index, kind="bond", bond_xmit_hash_policy=XMIT_HASHES[value])
        case _:
            raise PortError(f"{name}: {attribute} of type {kind} cannot be changed")
