"""What an onlooker in the room can tell of a controller, without asking its daemon."""

from dataclasses import dataclass, field
from typing import Any

from middlewared.lab.power import Power
from middlewared.ports import Vrrp


@dataclass(slots=True)
class View:
    """`report` is the machine's last word about itself: vrrp, pools, firewall_allowed, units (name -> pid)."""

    role: str = str(Power.OFF)
    report: dict[str, Any] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)  # programs that ended by themselves in this boot


def role(power: Power, report: dict[str, Any]) -> str:
    """off, frozen, booting; else by what it does: MASTER serves, CHANGING has some of what a MASTER has."""
    if power is not Power.ON:
        return str(power)
    speaking = set(report.get("vrrp", {}).values())
    pools = report.get("pools", [])
    imported = any(pool["imported"] for pool in pools)
    if Vrrp.MASTER in speaking and report["firewall_allowed"] and (imported or not pools):
        return "MASTER"
    if imported or Vrrp.MASTER in speaking:
        return "CHANGING"
    if Vrrp.BACKUP in speaking:
        return "BACKUP"
    if Vrrp.FAULT in speaking:
        return "FAULT"
    return "PASSIVE" if speaking else "booting"
