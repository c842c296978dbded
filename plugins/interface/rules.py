"""What may be configured of a link: `interface.create`, `update` and `delete` as functions of what there is. Pure."""

import errno
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from middlewared.errors import ValidationErrors, not_found
from middlewared.plugins.interface.config import InterfaceConfig, Problem, bare, parse_aliases
from middlewared.plugins.interface.links import MTU_DEFAULT, Links, PairLink, has_cycle, resting_on, touched
from middlewared.ports import Nic

LINKS_MAX = 256
LINK_FIELDS = {"mtu", "aliases", "failover_aliases", "ipv4_dhcp", "ipv6_auto"}
KIND_FIELDS = {
    "PHYSICAL": set[str](),
    "BRIDGE": {"bridge_members", "stp"},
    "LINK_AGGREGATION": {"lag_protocol", "lag_ports", "xmit_hash_policy", "lacpdu_rate"},
    "VLAN": {"vlan_parent_interface", "vlan_tag", "vlan_pcp"},
}
ALL_LINK_FIELDS = LINK_FIELDS.union(*KIND_FIELDS.values())
_REQUIRED = {
    "BRIDGE": set[str](),
    "LINK_AGGREGATION": {"lag_protocol", "lag_ports"},
    "VLAN": {"vlan_parent_interface", "vlan_tag"},
}
PORT_KINDS = {"BRIDGE": ("PHYSICAL", "LINK_AGGREGATION", "VLAN"), "LINK_AGGREGATION": ("PHYSICAL",)}
PARENT_KINDS = ("PHYSICAL", "LINK_AGGREGATION", "BRIDGE")
_PORTS_FIELD = {"BRIDGE": "bridge_members", "LINK_AGGREGATION": "lag_ports", "VLAN": "vlan_parent_interface"}
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,14}")  # at most 15 bytes (IFNAMSIZ)
_NAME_BASE = {"BRIDGE": "br", "LINK_AGGREGATION": "bond", "VLAN": "vlan"}
_IPV6_MTU_MIN = 1280  # RFC 8200 section 5; below, Linux takes the IPv6 addresses away


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a link has to fit into, on the controller that is asked."""

    node: str
    other_node: str
    nics: Sequence[Nic]
    heartbeat: Nic | None
    configs: Mapping[str, InterfaceConfig]

    def kind(self, name: str, links: Links) -> str | None:
        """Of an interface that is there or configured; None when neither."""
        if name in links:
            return links[name].kind
        return next((nic.kind for nic in self.nics if nic.name == name), None)


def create(links: Links, data: Mapping[str, Any], around: Surroundings) -> PairLink:
    """A virtual interface as `data` (the method's argument) wants it. ValidationErrors tells all that is wrong."""
    kind = data["type"]
    problems: list[Problem] = []
    name = data.get("name") or _free_name(kind, data, links, around)
    if not _NAME.fullmatch(name):
        text = "A name is a letter followed by at most 14 letters, digits, dots, dashes or underscores"
        problems.append(("interface_create.name", text, errno.EINVAL))
    elif around.kind(name, links) is not None or (around.heartbeat is not None and around.heartbeat.name == name):
        problems.append(("interface_create.name", f"{name} exists already: choose another name", errno.EEXIST))
    if len(links) >= LINKS_MAX:
        problems.append((None, f"There are {LINKS_MAX} configured interfaces, which is the most", errno.ENOSPC))
    for field in sorted(_REQUIRED[kind] - data.keys()):
        problems.append((f"interface_create.{field}", f"A {kind} needs it", errno.EINVAL))
    link = PairLink(name, kind)
    return _checked(
        _filled(link, data, around, "interface_create", problems), links, around, "interface_create", problems
    )


def update(links: Links, name: str, data: Mapping[str, Any], around: Surroundings) -> PairLink:
    """The link with `data` put in. Raises ValidationErrors."""
    link = links.get(name) or PairLink(name, "PHYSICAL")
    prefix = "interface_update"
    problems: list[Problem] = []
    if around.heartbeat is not None and around.heartbeat.name == name:
        text = "This is the heartbeat link to the other controller; it is configured outside of middlewared"
        problems.append((prefix, text, errno.EINVAL))
    elif link.kind == "PHYSICAL" and around.kind(name, links) != "PHYSICAL":
        text = f"{name} was not made by middlewared: remove it, and make it here (interface.create)"
        problems.append((prefix, text, errno.EINVAL))
    return _checked(_filled(link, data, around, prefix, problems), links, around, prefix, problems)


def delete(links: Links, name: str, around: Surroundings) -> dict[str, PairLink]:
    """The links without it: a virtual one goes, a physical one becomes as it was before. Raises ValidationErrors."""
    if name not in links:
        raise not_found(f"Interface {name} has no configuration that could be deleted")
    above = resting_on(links, name)
    problems: list[Problem] = []
    if links[name].kind != "PHYSICAL":
        if above is not None:
            problems.append(("id", f"{above} rests on {name}: delete or change {above} first", errno.EBUSY))
        config = around.configs.get(name)
        if config is not None and (config.critical or config.virtual_addresses):
            text = (
                f"{name} takes part in failover: first call interface.update with failover_critical=false and "
                "failover_virtual_aliases=[]"
            )
            problems.append(("id", text, errno.EBUSY))
    if problems:
        raise ValidationErrors(problems)
    return {key: link for key, link in links.items() if key != name}


def own_addresses(links: Links) -> dict[str, str]:
    """Every configured own address of either controller, without prefix length, and its interface."""
    return {bare(address): link.name for link in links.values() for own in link.own.values() for address in own or ()}


def critical_touched(before: Links, after: Links, configs: Mapping[str, InterfaceConfig]) -> list[str]:
    """Critical interfaces, and such with virtual addresses, that the change may interrupt."""
    changed = touched(before, after)
    return sorted(
        name for name in changed if name in configs and (configs[name].critical or configs[name].virtual_addresses)
    )


# ---------------------------------------------------------------------------------------------- filling in


def _free_name(kind: str, data: Mapping[str, Any], links: Links, around: Surroundings) -> str:
    base = _NAME_BASE[kind]
    numbers = [data["vlan_tag"]] if kind == "VLAN" and "vlan_tag" in data else []
    names = (f"{base}{number}" for number in (*numbers, *range(LINKS_MAX + len(around.nics) + 1)))
    return next(name for name in names if around.kind(name, links) is None)


def _filled(
    link: PairLink, data: Mapping[str, Any], around: Surroundings, prefix: str, problems: list[Problem]
) -> PairLink:
    for field in sorted((data.keys() & ALL_LINK_FIELDS) - LINK_FIELDS - KIND_FIELDS[link.kind]):
        problems.append(
            (f"{prefix}.{field}", f"{link.name} is of type {link.kind}, which has no {field}", errno.EINVAL)
        )
    for field in ("ipv4_dhcp", "ipv6_auto"):
        if data.get(field):
            text = "A controller of a pair needs addresses that stay: give it one (aliases)"
            problems.append((f"{prefix}.{field}", text, errno.EINVAL))
    own = dict(link.own)
    for field, node in (("aliases", around.node), ("failover_aliases", around.other_node)):
        if field in data:
            own[node] = parse_aliases(data[field], f"{prefix}.{field}", problems)
    names = {
        "mtu": "mtu",
        "description": "description" if link.kind != "PHYSICAL" else "",
        "stp": "stp",
        "lag_protocol": "protocol",
        "xmit_hash_policy": "xmit_hash",
        "lacpdu_rate": "lacp_rate",
        "vlan_parent_interface": "parent",
        "vlan_tag": "tag",
        "vlan_pcp": "pcp",
    }
    values = {attribute: data[field] for field, attribute in names.items() if field in data and attribute}
    ports = data.get(_PORTS_FIELD[link.kind], link.ports) if link.kind in PORT_KINDS else ()
    return replace(link, own=own, ports=tuple(sorted(set(ports))), **values)


# ---------------------------------------------------------------------------------------------- checking


def _checked(link: PairLink, links: Links, around: Surroundings, prefix: str, problems: list[Problem]) -> PairLink:
    others = {name: other for name, other in links.items() if name != link.name}
    _check_below(link, others, around, prefix, problems)
    _check_addresses(link, others, around, prefix, problems)
    _check_mtu(link, others, prefix, problems)
    if not problems and has_cycle({**others, link.name: link}):
        problems.append((f"{prefix}.{_PORTS_FIELD[link.kind]}", f"{link.name} would rest on itself", errno.EINVAL))
    if problems:
        raise ValidationErrors(problems)
    return link


def _check_below(link: PairLink, others: Links, around: Surroundings, prefix: str, problems: list[Problem]) -> None:
    """Its ports and its parent are there, fit, and not used otherwise."""
    field = f"{prefix}.{_PORTS_FIELD.get(link.kind, '')}"
    for name in link.below:
        why = _unfit_below(name, link, others, around)
        if why:
            problems.append((field, why, errno.EINVAL))
    if link.kind == "LINK_AGGREGATION" and not link.ports:
        problems.append((field, "An aggregation needs at least one port", errno.EINVAL))
    if link.kind == "VLAN":
        twin = [other.name for other in others.values() if (other.parent, other.tag) == (link.parent, link.tag)]
        if twin:
            text = f"{twin[0]} has tag {link.tag} on {link.parent} already"
            problems.append((f"{prefix}.vlan_tag", text, errno.EEXIST))


def _unfit_below(name: str, link: PairLink, others: Links, around: Surroundings) -> str:
    """Why this interface cannot be below the link; empty if it can."""
    kinds = PORT_KINDS.get(link.kind, PARENT_KINDS)
    kind = around.kind(name, others)
    if around.heartbeat is not None and name == around.heartbeat.name:
        return f"{name} is the heartbeat link to the other controller, and has to stay alone"
    if name == link.name:
        return f"{name} cannot rest on itself"
    if kind is None:
        return f"There is no interface {name}: interface.query lists those that there are"
    if kind not in kinds:
        return f"{name} is of type {kind}; it has to be one of {', '.join(kinds)}"
    master = next((other for other in others.values() if name in other.ports), None)
    if master is not None and (link.kind != "VLAN" or master.kind == "LINK_AGGREGATION"):
        return f"{name} is a port of {master.name} already: take it out there first"
    return _unfit_port(name, link, others, around) if link.kind != "VLAN" else ""


def _unfit_port(name: str, link: PairLink, others: Links, around: Surroundings) -> str:
    config = around.configs.get(name)
    if config is not None and (config.critical or config.virtual_addresses):
        return (
            f"{name} takes part in failover, and a port cannot: first call interface.update with "
            "failover_critical=false and failover_virtual_aliases=[]"
        )
    if name in others and any(others[name].own.values()):
        return f"{name} has addresses, and a port cannot: first set its aliases and failover_aliases to []"
    vlan = next((other.name for other in others.values() if other.parent == name), None)
    if vlan is not None and link.kind == "LINK_AGGREGATION":
        return f"{vlan} rests on {name}: delete it, and make it on {link.name}"
    return ""


def _check_addresses(link: PairLink, others: Links, around: Surroundings, prefix: str, problems: list[Problem]) -> None:
    taken = own_addresses(others)
    virtual = {bare(address): config.name for config in around.configs.values() for address in config.virtual_addresses}
    beside = [nic for nic in around.nics if nic.name != link.name and nic.name not in others]
    beside += [around.heartbeat] if around.heartbeat is not None else []
    here = {bare(address): nic.name for nic in beside for address in nic.addresses}
    seen: set[str] = set()
    master = next((other.name for other in others.values() if link.name in other.ports), None)
    for field, node in (("aliases", around.node), ("failover_aliases", around.other_node)):
        own = link.own.get(node) or ()
        if own and master is not None:
            text = f"{link.name} is a port of {master}: give the addresses to {master}"
            problems.append((f"{prefix}.{field}", text, errno.EINVAL))
        for position, address in enumerate(map(bare, own)):
            where = f"{prefix}.{field}.{position}.address"
            if address in virtual:
                text = f"{address} is a virtual address of {virtual[address]}"
            elif address in taken:
                text = f"{address} is a controller's own address on {taken[address]} already"
            elif address in here:
                text = _beside(address, here[address], link)
            elif address in seen:
                text = f"{address} cannot be on both controllers"
            else:
                text = ""
            if text:
                problems.append((where, text, errno.EEXIST))
            seen.add(address)


def _beside(address: str, name: str, link: PairLink) -> str:
    """An address may move from a port to what it becomes a port of."""
    return "" if name in link.ports else f"{address} is this controller's own address on {name} already"


def _check_mtu(link: PairLink, others: Links, prefix: str, problems: list[Problem]) -> None:
    mtu = link.mtu or MTU_DEFAULT
    if mtu < _IPV6_MTU_MIN and any(":" in address for own in link.own.values() for address in own or ()):
        text = f"IPv6 needs at least {_IPV6_MTU_MIN} bytes (RFC 8200)"
        problems.append((f"{prefix}.mtu", text, errno.EINVAL))
    for vlan, parent in [
        (link, others.get(link.parent)),
        *((other, link) for other in others.values() if other.parent == link.name),
    ]:
        if parent is None or (parent.kind == "PHYSICAL" and parent.mtu is None):
            continue  # the kernel knows, and will say
        if (vlan.mtu or MTU_DEFAULT) > (parent.mtu or MTU_DEFAULT):
            text = f"{vlan.name} would have a larger MTU than {parent.name}, which it rests on"
            problems.append((f"{prefix}.mtu", text, errno.EINVAL))
