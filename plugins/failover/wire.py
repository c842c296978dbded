"""Facts as they travel over the peer link. Releases may differ by one, in either direction."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from middlewared.plugins.failover.facts import Facts, InterfaceFacts, PoolFacts
from middlewared.plugins.failover.state import Role
from middlewared.ports import Vrrp

_REQUIRED = [field.name for field in dataclasses.fields(Facts) if field.default is dataclasses.MISSING]
_OPTIONAL = [field.name for field in dataclasses.fields(Facts) if field.default is not dataclasses.MISSING]


def to_wire(facts: Facts) -> dict[str, Any]:
    """A JSON object; enums become their values. No copy of what is deeper: dataclasses.asdict takes ten times as long,
    and a takeover tells its facts a dozen times."""
    return {
        **_members(facts),
        "interfaces": [_members(interface) for interface in facts.interfaces],
        "pools": [_members(pool) for pool in facts.pools],
        "reboot_reasons": dict(facts.reboot_reasons),
    }


def _members(part: Facts | InterfaceFacts | PoolFacts) -> dict[str, Any]:
    return {name: getattr(part, name) for name in part.__dataclass_fields__}


def from_wire(data: Mapping[str, Any]) -> Facts:
    """Read the other's facts.

    Members that a newer release adds are ignored; one that an older release lacks has its default, which every member
    must have that a release adds. A role that we do not know counts as one that is being decided, an unknown state of
    VRRP as no instance: neither promises anything. ValueError when a member is missing or wrong.
    """
    try:
        known = {name: data[name] for name in _REQUIRED}
        known |= {name: data[name] for name in _OPTIONAL if name in data}
        known["role"] = Role(known["role"]) if known["role"] in list(Role) else Role.BOOTING
        known["interfaces"] = tuple(
            InterfaceFacts(
                name=item["name"],
                critical=item["critical"],
                group=item["group"],
                virtual_addresses=tuple(item["virtual_addresses"]),
                link_up=item["link_up"],
                vrrp=Vrrp(item["vrrp"]) if item["vrrp"] in list(Vrrp) else None,
            )
            for item in known["interfaces"]
        )
        known["pools"] = tuple(PoolFacts(item["guid"], item["name"], item["imported"]) for item in known["pools"])
        known["nics"], known["disks"] = tuple(known["nics"]), tuple(known["disks"])
        return Facts(**known)
    except (KeyError, TypeError) as error:
        raise ValueError(f"the other controller's facts lack {error}") from error
