"""The kernel's interfaces, folded out of netlink messages (rtnetlink(7)). Pure.

A message is pyroute2's: a mapping with `get_attr` and `get_nested`. Names of attributes are those of linux/if_link.h
and linux/if_addr.h.
"""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from middlewared.ports import LINK_KINDS, LinkConfig, Nic

# linux/if.h, linux/if_arp.h, linux/if_addr.h, linux/rtnetlink.h
_IFF_UP = 0x1
_IFF_LOWER_UP = 0x10000
_ARPHRD_LOOPBACK = 772
_IFA_F_PERMANENT = 0x80
_RT_SCOPE_LINK = 253
_RTPROT_KEEPALIVED = 18
_AF_INET6 = 10

KINDS = {"bridge": "BRIDGE", "bond": "LINK_AGGREGATION", "vlan": "VLAN"}
BOND_MODES = {"ROUNDROBIN": 0, "FAILOVER": 1, "LOADBALANCE": 2, "LACP": 4}  # Documentation/networking/bonding.rst
XMIT_HASHES = {"LAYER2": 0, "LAYER3+4": 1, "LAYER2+3": 2}
LACP_RATES = {"SLOW": 0, "FAST": 1}


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """Which of the kernel's interfaces are this controller's. Patterns are those of fnmatch: "docker*"."""

    heartbeat: str = ""  # name of the interface of the link to the other controller; empty: there is none
    physical: tuple[str, ...] = ()  # of other kinds (veth, macvlan), but used like a NIC: in containers and labs
    ignored: tuple[str, ...] = ("docker*", "br-????????????", "virbr*", "cni*")  # others' affair


@dataclass(frozen=True, slots=True)
class _Address:
    text: str  # "192.0.2.1/24"
    link_local: bool
    own: bool  # for good, and not the VRRP speaker's


@dataclass(frozen=True, slots=True)
class _Link:
    """`kind` is of LINK_KINDS, or the kernel's own in capitals."""

    name: str
    mac: str
    kind: str
    up: bool
    link_up: bool
    mtu: int
    description: str
    master: int
    parent: int
    options: tuple[tuple[str, Any], ...] = ()


class LinkTable:
    """All interfaces of one network namespace but loopback."""

    def __init__(self, settings: NetworkSettings) -> None:
        self._settings = settings
        self._links: dict[int, _Link] = {}
        self._addresses: dict[int, dict[str, _Address]] = {}

    def take(self, message: Any) -> bool:
        """One RTM_NEWLINK, RTM_DELLINK, RTM_NEWADDR or RTM_DELADDR; whether anything is different after it."""
        index, event = message["index"], message.get("event")
        match event:
            case "RTM_NEWLINK":
                if message["ifi_type"] == _ARPHRD_LOOPBACK or message["family"] != 0:  # of a bridge's port: no news
                    return False
                link = self._link(message)
                changed = self._links.get(index) != link
                self._links[index] = link
                return changed
            case "RTM_DELLINK":
                if message["family"] != 0:
                    return False
                self._addresses.pop(index, None)
                return self._links.pop(index, None) is not None
            case "RTM_NEWADDR":
                address = _address(message)
                changed = self._addresses.setdefault(index, {}).get(address.text) != address
                self._addresses[index][address.text] = address
                return changed
            case "RTM_DELADDR":
                return self._addresses.get(index, {}).pop(_address(message).text, None) is not None
            case _:
                return False

    def nics(self) -> list[Nic]:
        """The controller's interfaces by name, without the heartbeat's."""
        wanted = (
            index
            for index, link in self._links.items()
            if link.name != self._settings.heartbeat and self._is_ours(link)
        )
        return sorted((self._nic(index) for index in wanted), key=lambda nic: nic.name)

    def heartbeat(self) -> Nic | None:
        for index, link in self._links.items():
            if link.name == self._settings.heartbeat:
                return self._nic(index)
        return None

    def configs(self) -> list[LinkConfig]:
        """Every interface, also those that are others' affair: a name may be taken, and a port be theirs."""
        names = {index: link.name for index, link in self._links.items()}
        return [
            LinkConfig(
                name=link.name,
                kind=link.kind,
                up=link.up,
                mtu=link.mtu,
                description=link.description,
                addresses=tuple(address.text for address in self._of(index) if address.own),
                ports=tuple(sorted(other.name for other in self._links.values() if other.master == index)),
                parent=names.get(link.parent, "") if link.kind == "VLAN" else "",
                **dict(link.options),
            )
            for index, link in sorted(self._links.items(), key=lambda item: item[1].name)
        ]

    def _is_ours(self, link: _Link) -> bool:
        if link.kind not in LINK_KINDS:
            return False
        return self._is_named(link.name) or not _matches(link.name, self._settings.ignored)

    def _is_named(self, name: str) -> bool:
        return _matches(name, self._settings.physical)

    def _of(self, index: int) -> list[_Address]:
        return sorted(self._addresses.get(index, {}).values(), key=lambda address: address.text)

    def _nic(self, index: int) -> Nic:
        link = self._links[index]
        addresses = tuple(address.text for address in self._of(index) if not address.link_local)
        return Nic(link.name, link.link_up, link.mac, addresses, link.kind)

    def _link(self, message: Any) -> _Link:
        name, flags = message.get_attr("IFLA_IFNAME"), message["flags"]
        kernel_kind = message.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND")
        if kernel_kind is None or self._is_named(name):
            kind = "PHYSICAL"
        else:
            kind = KINDS.get(kernel_kind, kernel_kind.upper())
        operational = message.get_attr("IFLA_OPERSTATE") in ("UP", "UNKNOWN")  # RFC 2863; dormant (802.1X) is not up
        return _Link(
            name=name,
            mac=message.get_attr("IFLA_ADDRESS") or "",
            kind=kind,
            up=bool(flags & _IFF_UP),
            link_up=bool(flags & _IFF_UP and flags & _IFF_LOWER_UP) and operational,
            mtu=message.get_attr("IFLA_MTU") or 0,
            description=message.get_attr("IFLA_IFALIAS") or "",
            master=message.get_attr("IFLA_MASTER") or 0,
            parent=message.get_attr("IFLA_LINK") or 0,
            options=_options(message, kind),
        )


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _address(message: Any) -> _Address:
    text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")  # of a point-to-point link LOCAL is ours
    flags = message.get_attr("IFA_FLAGS") or message["flags"]
    link_local = message["family"] == _AF_INET6 and message["scope"] == _RT_SCOPE_LINK
    return _Address(
        text=str(ipaddress.ip_interface(f"{text}/{message['prefixlen']}")),
        link_local=link_local,
        own=bool(flags & _IFA_F_PERMANENT) and not link_local and message.get_attr("IFA_PROTO") != _RTPROT_KEEPALIVED,
    )


def _options(message: Any, kind: str) -> tuple[tuple[str, Any], ...]:
    """What LinkConfig has of this kind alone."""

    def data(attribute: str) -> Any:
        return message.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA", attribute)

    match kind:
        case "BRIDGE":
            return (("stp", bool(data("IFLA_BR_STP_STATE"))),)
        case "LINK_AGGREGATION":
            protocol = _word(BOND_MODES, data("IFLA_BOND_MODE"))
            rate = _word(LACP_RATES, data("IFLA_BOND_AD_LACP_RATE")) if protocol == "LACP" else "SLOW"
            xmit_hash = _word(XMIT_HASHES, data("IFLA_BOND_XMIT_HASH_POLICY"))
            return (("protocol", protocol), ("xmit_hash", xmit_hash), ("lacp_rate", rate))
        case "VLAN":
            mappings = data("IFLA_VLAN_EGRESS_QOS")
            sent = {value["from"]: value["to"] for _, value in (mappings or {}).get("attrs", ())}
            return (("tag", data("IFLA_VLAN_ID") or 0), ("pcp", sent.get(0, 0)))
        case _:
            return ()


def _word(words: dict[str, int], number: int | None) -> str:
    """The word for a number of the kernel's; the number itself when we have no word for it."""
    return next((word for word, value in words.items() if value == (number or 0)), str(number))
