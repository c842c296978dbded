"""Rows of `interface.query`: what is configured of each interface, staged changes included, and how it is now. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from middlewared.plugins.interface.config import InterfaceConfig, alias, bare
from middlewared.plugins.interface.links import Links, PairLink
from middlewared.ports import Nic


def build(
    nics: Sequence[Nic], configs: Mapping[str, InterfaceConfig], links: Links, *, node: str, other_node: str
) -> dict[str, dict[str, Any]]:
    """By name; an interface that is only wanted is shown as well."""
    present = {nic.name: nic for nic in nics}
    virtual = {bare(address) for config in configs.values() for address in config.virtual_addresses}
    rows = {}
    for name in sorted(present.keys() | configs.keys() | links.keys()):
        config, nic, link = configs.get(name, InterfaceConfig(name)), present.get(name), links.get(name)
        own = link.own.get(node) if link is not None else None
        if own is None:
            own = tuple(address for address in (nic.addresses if nic else ()) if bare(address) not in virtual)
        other = link.own.get(other_node) if link is not None else None
        rows[name] = {
            "id": name,
            "name": name,
            "type": _type(link, nic),
            "description": link.description if link is not None and link.kind != "PHYSICAL" else config.description,
            "mtu": link.mtu if link is not None else None,
            "ipv4_dhcp": False,
            "ipv6_auto": False,
            "state": _state(name, nic),
            "aliases": [alias(address) for address in own],
            "failover_critical": config.critical,
            "failover_group": config.group,
            "failover_aliases": [alias(address) for address in other or ()],
            "failover_virtual_aliases": [alias(address) for address in config.virtual_addresses],
            **(_of_kind(link) if link is not None else {}),
        }
    return rows


def _type(link: PairLink | None, nic: Nic | None) -> str:
    if link is not None and link.kind != "PHYSICAL":
        return link.kind
    return nic.kind if nic is not None else "UNKNOWN"


def _state(name: str, nic: Nic | None) -> dict[str, Any]:
    return {
        "name": name,
        "link_state": "LINK_STATE_UNKNOWN" if nic is None else "LINK_STATE_UP" if nic.link_up else "LINK_STATE_DOWN",
        "hardware_link_address": nic.mac if nic is not None else None,
        "aliases": [alias(address) for address in (nic.addresses if nic is not None else ())],
    }


def _of_kind(link: PairLink) -> dict[str, Any]:
    match link.kind:
        case "BRIDGE":
            return {"bridge_members": list(link.ports), "stp": link.stp}
        case "LINK_AGGREGATION":
            return {
                "lag_protocol": link.protocol,
                "lag_ports": list(link.ports),
                "xmit_hash_policy": link.xmit_hash,
                "lacpdu_rate": link.lacp_rate,
            }
        case "VLAN":
            return {"vlan_parent_interface": link.parent, "vlan_tag": link.tag, "vlan_pcp": link.pcp}
        case _:
            return {}
