"""Why failover would not work right now: a table, and the one function that reads it.

The list is empty if and only if the other controller would take over were the MASTER to die now (DESIGN S7).
"""

import enum
from collections.abc import Callable
from dataclasses import dataclass

from middlewared.plugins.failover.facts import Facts
from middlewared.plugins.failover.state import Role
from middlewared.ports import Vrrp


class Concerns(enum.StrEnum):
    """Whose trouble it is, seen from the controller that answers."""

    THIS = "this"
    OTHER = "other"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class Reason:
    """One row: when it holds, what it means, and what a human does about it."""

    code: str
    concerns: Concerns
    description: str
    remedy: str
    holds: Callable[[Facts, Facts | None], bool]


def codes(mine: Facts, other: Facts | None) -> list[str]:
    """The codes that hold, in the table's order. A running local failover stands alone among the local reasons."""
    holding = [reason for reason in TABLE if reason.holds(mine, other)]
    if mine.ongoing:
        holding = [row for row in holding if row.concerns is Concerns.OTHER or row.code == "LOC_FAILOVER_ONGOING"]
    return [reason.code for reason in holding]


def _disagree_vip(mine: Facts, other: Facts | None) -> bool:
    """On every interface with virtual addresses exactly one controller speaks, the MASTER, and the other stands by."""
    if other is None or mine.ongoing or other.ongoing:
        return False
    theirs = {interface.name: interface for interface in other.interfaces}
    for interface in mine.interfaces:
        if not interface.virtual_addresses:
            continue
        there = theirs.get(interface.name)
        states = {interface.vrrp, there.vrrp if there is not None else None}
        if states != {Vrrp.MASTER, Vrrp.BACKUP}:
            return True
        if (interface.vrrp is Vrrp.MASTER) != (mine.role is Role.MASTER):
            return True
    return False


def _unfenced(facts: Facts) -> bool:
    """The keeper does not run, or pools are imported that it does not protect."""
    return not facts.fence_running or (facts.imported and not facts.fence_held)


def _needs_reboot(code: str, facts: Facts | None) -> bool:
    return facts is not None and code in facts.reboot_reasons


def _reboot_rows(code: str, text: str) -> tuple[Reason, Reason]:
    return (
        Reason(
            f"LOC_{code}_REBOOT_REQ",
            Concerns.THIS,
            f"This controller has to reboot {text}.",
            "Reboot this controller; if it is the MASTER, hand over first.",
            lambda mine, other: _needs_reboot(code, mine),
        ),
        Reason(
            f"REM_{code}_REBOOT_REQ",
            Concerns.OTHER,
            f"The other controller has to reboot {text}.",
            "Reboot the other controller.",
            lambda mine, other: _needs_reboot(code, other),
        ),
    )


TABLE: tuple[Reason, ...] = (
    Reason(
        "NO_VOLUME",
        Concerns.BOTH,
        "There are no pools on the shared disks.",
        "Create or import a pool.",
        lambda mine, other: not mine.pools and not (other is not None and other.pools),
    ),
    Reason(
        "NO_VIP",
        Concerns.BOTH,
        "No interface has a virtual IP.",
        "Give a critical interface a virtual IP (interface.update, failover_virtual_aliases).",
        lambda mine, other: not mine.virtual,
    ),
    Reason(
        "NO_SYSTEM_READY",
        Concerns.BOTH,
        "The other controller, or this one, has not finished booting.",
        "Wait; if it does not finish, look at its console.",
        lambda mine, other: not mine.ready or (other is not None and not other.ready),
    ),
    Reason(
        "NO_PONG",
        Concerns.OTHER,
        "The other controller cannot be reached over the heartbeat link.",
        "Check that it is powered on, and the heartbeat cable.",
        lambda mine, other: other is None,
    ),
    Reason(
        "NO_FAILOVER",
        Concerns.BOTH,
        "Failover is administratively disabled.",
        "Enable it: system failover control action=ENABLE options={}",
        lambda mine, other: mine.disabled,
    ),
    Reason(
        "NO_LICENSE",
        Concerns.OTHER,
        "The other controller has no licence.",
        "Pairing makes one for both, free of charge: middlewared pair (or alone: middlewared licence issue)",
        lambda mine, other: not mine.licensed or (other is not None and not other.licensed),
    ),
    Reason(
        "DISAGREE_VIP",
        Concerns.BOTH,
        "The controllers do not agree on who speaks for a virtual IP, or the standby could not.",
        "Check the network links of both controllers' critical interfaces.",
        _disagree_vip,
    ),
    Reason(
        "MISMATCH_DISKS",
        Concerns.BOTH,
        "The controllers do not see the same disks, or more than a tenth of the disks has failed.",
        "Compare disk.query on both; check the cables, and replace failed disks.",
        lambda mine, other: (
            mine.too_few_disks or (other is not None and (other.too_few_disks or mine.disks != other.disks))
        ),
    ),
    Reason(
        "MISMATCH_VERSIONS",
        Concerns.BOTH,
        "The controllers run different software versions.",
        "Finish the upgrade: both controllers must run the same version.",
        lambda mine, other: other is not None and mine.version != other.version,
    ),
    Reason(
        "MISMATCH_NICS",
        Concerns.BOTH,
        "The controllers do not have the same network interfaces.",
        "Compare interface.query on both; fit or enable what is missing.",
        lambda mine, other: other is not None and mine.nics != other.nics,
    ),
    Reason(
        "NO_CRITICAL_INTERFACES",
        Concerns.BOTH,
        "No network interface is marked critical for failover.",
        "Mark one: interface.update, failover_critical=true.",
        lambda mine, other: not any(interface.critical for interface in mine.interfaces),
    ),
    Reason(
        "NO_FENCED",
        Concerns.BOTH,
        "The keeper of the disk reservations (fenced) does not run on one of the controllers.",
        "See its log; it is restarted by itself, and must not be stopped.",
        lambda mine, other: _unfenced(mine) or (other is not None and _unfenced(other)),
    ),
    Reason(
        "LOC_FAILOVER_ONGOING",
        Concerns.THIS,
        "This controller is processing a failover.",
        "Wait: system failover status shows the progress.",
        lambda mine, other: mine.ongoing,
    ),
    Reason(
        "REM_FAILOVER_ONGOING",
        Concerns.OTHER,
        "The other controller is processing a failover.",
        "Wait: system failover status shows the progress.",
        lambda mine, other: other is not None and other.ongoing,
    ),
    Reason(
        "NO_HEARTBEAT_IFACE",
        Concerns.THIS,
        "The heartbeat interface does not exist on this controller.",
        "Check the hardware and the name of the heartbeat interface in the settings.",
        lambda mine, other: not mine.heartbeat_exists,
    ),
    Reason(
        "NO_CARRIER_ON_HEARTBEAT",
        Concerns.THIS,
        "The heartbeat interface of this controller has no carrier.",
        "Check the heartbeat cable and the other controller's power.",
        lambda mine, other: mine.heartbeat_exists and not mine.heartbeat_carrier,
    ),
    *_reboot_rows("UPGRADE", "to finish an upgrade"),
    *_reboot_rows("FIPS", "after a change of FIPS mode"),
    *_reboot_rows("GPOSSTIG", "after a change of GPOS STIG mode"),
    Reason(
        "LOC_SYSTEM_DATASET_MIGRATION_IN_PROGRESS",
        Concerns.THIS,
        "The system dataset is moving to another pool on this controller.",
        "Wait until it has moved.",
        lambda mine, other: mine.migrating_system_dataset,
    ),
    Reason(
        "REM_SYSTEM_DATASET_MIGRATION_IN_PROGRESS",
        Concerns.OTHER,
        "The system dataset is moving to another pool on the other controller.",
        "Wait until it has moved.",
        lambda mine, other: other is not None and other.migrating_system_dataset,
    ),
)

BY_CODE = {reason.code: reason for reason in TABLE}
