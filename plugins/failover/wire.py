"""Facts as they travel over the peer link. Releases may differ by one, in either direction."""

from collections.abc import Mapping
from typing import Any

from middlewared.plugins.failover.facts import Facts, InterfaceFacts, PoolFacts
from middlewared.plugins.failover.state import Role
from middlewared.ports import Vrrp


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
    """Read the other's facts. Members that a newer release adds are ignored; ValueError when one is missing."""
    try:
        known = {name: data[name] for name in Facts.__dataclass_fields__}
        known["role"] = Role(known["role"])
        known["interfaces"] = tuple(
            InterfaceFacts(
                name=item["name"],
                critical=item["critical"],
                group=item["group"],
                virtual_addresses=tuple(item["virtual_addresses"]),
                link_up=item["link_up"],
                vrrp=None if item["vrrp"] is None else Vrrp(item["vrrp"]),
            )
            for item in known["interfaces"]
        )
        known["pools"] = tuple(PoolFacts(item["guid"], item["name"], item["imported"]) for item in known["pools"])
        known["nics"], known["disks"] = tuple(known["nics"]), tuple(known["disks"])
        return Facts(**known)
    except (KeyError, TypeError) as error:
        raise ValueError(f"the other controller's facts lack {error}") from error
