"""What the pair wants of an interface: its row in the store, and the rules for changing it. Pure."""

import errno
import ipaddress
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from middlewared.errors import ValidationErrors
from middlewared.ports import Nic

PREFIX = "interface_update"
COLUMNS = "name, critical, failover_group, description, virtual_aliases"
UPSERT = """
INSERT INTO interface_config (name, critical, failover_group, description, virtual_aliases) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (name) DO UPDATE SET critical = excluded.critical, failover_group = excluded.failover_group,
    description = excluded.description, virtual_aliases = excluded.virtual_aliases
"""

Problem = tuple[str | None, str, int]


@dataclass(frozen=True, slots=True)
class InterfaceConfig:
    name: str
    critical: bool = False
    group: int | None = None  # 1..255; the links of one group stand in for each other
    description: str = ""
    virtual_addresses: tuple[str, ...] = ()  # "192.0.2.10/24"

    @property
    def row(self) -> tuple[Any, ...]:
        """The values of COLUMNS."""
        return self.name, int(self.critical), self.group, self.description, json.dumps(self.virtual_addresses)


def from_row(row: Mapping[str, Any]) -> InterfaceConfig:
    return InterfaceConfig(
        name=row["name"],
        critical=bool(row["critical"]),
        group=row["failover_group"],
        description=row["description"],
        virtual_addresses=tuple(json.loads(row["virtual_aliases"])),
    )


def read_configs(select: Callable[[str], list[dict[str, Any]]]) -> dict[str, InterfaceConfig]:
    """All rows, by name."""
    return {row["name"]: from_row(row) for row in select(f"SELECT {COLUMNS} FROM interface_config ORDER BY name")}  # noqa: S608  a constant


def changed(
    current: InterfaceConfig,
    data: Mapping[str, Any],
    *,
    others: Sequence[InterfaceConfig],
    nics: Sequence[Nic],
    heartbeat: Nic | None,
    own: Mapping[str, str],
) -> InterfaceConfig:
    """`current` with `data` (the method's argument) put in. Raises ValidationErrors with everything that is wrong.

    `others` are the other interfaces' configurations; `nics` and `heartbeat` are this controller's interfaces, whose
    addresses a virtual one must not repeat; no more than `own`: addresses that are configured for either controller
    alone, without prefix length, and the interface of each.
    """
    problems: list[Problem] = []
    virtual = current.virtual_addresses
    if "failover_virtual_aliases" in data:
        virtual = parse_aliases(data["failover_virtual_aliases"], f"{PREFIX}.failover_virtual_aliases", problems)
        if not problems:
            here = {
                bare(address): nic.name
                for nic in (*nics, *([heartbeat] if heartbeat else []))
                for address in nic.addresses
            }
            _check_free(virtual, current, others, here, own, problems)
    wanted = replace(
        current,
        critical=data.get("failover_critical", current.critical),
        group=data.get("failover_group", current.group),
        description=data.get("description", current.description),
        virtual_addresses=virtual,
    )
    if heartbeat is not None and current.name == heartbeat.name and (wanted.critical or wanted.virtual_addresses):
        text = "This is the heartbeat link to the other controller; it neither is critical nor has virtual addresses"
        problems.append((PREFIX, text, errno.EINVAL))
    if problems:
        raise ValidationErrors(problems)
    return wanted


def alias(address: str) -> dict[str, Any]:
    """ "192.0.2.10/24" as the API shows it."""
    parsed = ipaddress.ip_interface(address)
    kind = "INET" if parsed.version == 4 else "INET6"
    return {"type": kind, "address": str(parsed.ip), "netmask": parsed.network.prefixlen}


def parse_aliases(aliases: Sequence[Mapping[str, Any]], field: str, problems: list[Problem]) -> tuple[str, ...]:
    """The aliases in canonical form; what is wrong with one is added to `problems`, with its place in `field`."""
    found: list[str] = []
    seen: set[str] = set()
    for position, given in enumerate(aliases):
        where = f"{field}.{position}"
        try:
            parsed = ipaddress.ip_interface(f"{given['address']}/{given['netmask']}")
        except ValueError:
            text = f"{given['address']}/{given['netmask']} is not an IP address with a prefix length"
            problems.append((f"{where}.address", text, errno.EINVAL))
            continue
        why = _unfit(parsed, given.get("type"))
        if not why and str(parsed.ip) in seen:
            why = f"{parsed.ip} is listed twice"
        if why:
            problems.append((f"{where}.address", why, errno.EINVAL))
        seen.add(str(parsed.ip))
        found.append(str(parsed))
    return tuple(found)


def _unfit(address: ipaddress.IPv4Interface | ipaddress.IPv6Interface, kind: str | None) -> str:
    """Why no host can have this address; empty if one can."""
    network = address.network
    if kind is not None and kind != ("INET" if address.version == 4 else "INET6"):
        return f"{address.ip} is not of type {kind}"
    if address.ip.is_multicast or address.ip.is_unspecified or network.prefixlen == 0:
        return f"{address} cannot be the address of a host"
    ends = (network.network_address, network.broadcast_address)
    if address.version == 4 and network.prefixlen < 31 and address.ip in ends:  # RFC 3021: a /31 has no such ends
        return f"{address.ip} is the network or broadcast address of {network}"
    return ""


def _check_free(
    virtual: Sequence[str],
    current: InterfaceConfig,
    others: Sequence[InterfaceConfig],
    here: Mapping[str, str],
    own: Mapping[str, str],
    problems: list[Problem],
) -> None:
    """A virtual address belongs to one interface of the pair, and is not a controller's own."""
    taken = {bare(address): other.name for other in others for address in other.virtual_addresses}
    moving = {bare(address) for address in current.virtual_addresses} | taken.keys()
    for position, address in enumerate(map(bare, virtual)):
        where = f"{PREFIX}.failover_virtual_aliases.{position}.address"
        if address in taken:
            problems.append((where, f"{address} is a virtual address of {taken[address]} already", errno.EEXIST))
        elif address in here and address not in moving:  # a MASTER has its virtual addresses on its interfaces, too
            problems.append((where, f"{address} is this controller's own address on {here[address]}", errno.EEXIST))
        elif address in own:
            problems.append((where, f"{address} is a controller's own address on {own[address]}", errno.EEXIST))


def bare(address: str) -> str:
    """Without the prefix length, which the kernel may show differently for a virtual address."""
    return address.split("/")[0]
