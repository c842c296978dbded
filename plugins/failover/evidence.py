"""What exactly makes a reason hold: one concrete sentence for each row of the table, out of the two facts. Pure."""

from collections.abc import Callable
from datetime import datetime

from middlewared.plugins.failover.facts import Facts, InterfaceFacts
from middlewared.plugins.failover.state import Role
from middlewared.ports import Vrrp

NAMES_MAX = 8  # of disks or interfaces in one sentence; more are counted

_Sentence = Callable[[Facts, Facts | None], str]


def evidence(code: str, mine: Facts, other: Facts | None, since: datetime) -> str:
    """Why `code` holds, said by these facts; several findings are separated by `; `. `since`: when it began."""
    if code == "NO_PONG":
        return f"no answer from {_other_name(mine)} since {since:%Y-%m-%d %H:%M:%S} UTC"
    return _SENTENCES[code](mine, other)


def _other_name(mine: Facts) -> str:
    return "B" if mine.node == "A" else "A"


def _both(mine: Facts, other: Facts | None) -> list[Facts]:
    """Those that are known, A before B: an administrator reads the same sentence on either."""
    known = [mine] if other is None else [mine, other]
    return sorted(known, key=lambda facts: facts.node)


def _names(names: list[str]) -> str:
    more = len(names) - NAMES_MAX
    return ", ".join(names[:NAMES_MAX]) + (f" and {more} more" if more > 0 else "")


def _differences(mine: Facts, other: Facts | None, what: str, verb: str, of: Callable[[Facts], tuple[str, ...]]) -> str:
    if other is None:
        return ""
    first, second = _both(mine, other)
    findings = []
    for here, there in ((first, second), (second, first)):
        alone = [name for name in of(here) if name not in of(there)]
        if alone:
            findings.append(f"{what} only {here.node} {verb}: {_names(alone)}")
    return "; ".join(findings)


def _mismatch_disks(mine: Facts, other: Facts | None) -> str:
    different = _differences(mine, other, "disks", "sees", lambda facts: facts.disks)
    too_few = [f"more than a tenth do not answer {facts.node}" for facts in _both(mine, other) if facts.too_few_disks]
    return "; ".join([different, *too_few] if different else too_few)


def _no_volume(mine: Facts, other: Facts | None) -> str:
    seen = [f"{facts.node} sees {len(facts.disks)} disks and no pool" for facts in _both(mine, other)]
    return "; ".join(seen if other is not None else [*seen, f"{_other_name(mine)} cannot be asked"])


def _no_vip(mine: Facts, other: Facts | None) -> str:
    configured = _names([interface.name for interface in mine.interfaces])
    return f"no virtual address on {configured}" if configured else "no interface is configured"


def _no_critical(mine: Facts, other: Facts | None) -> str:
    configured = _names([interface.name for interface in mine.interfaces])
    return f"none of {configured} is marked" if configured else "no interface is configured"


def _no_licence(mine: Facts, other: Facts | None) -> str:
    return "; ".join(
        f"{facts.node} has no licence" + (f": {facts.licence_problem}" if facts.licence_problem else "")
        for facts in _both(mine, other)
        if not facts.licensed
    )


def _vrrp(facts: Facts, interface: InterfaceFacts | None) -> str:
    if interface is None:
        return f"{facts.node} does not have it"
    said = f"{facts.node} is {interface.vrrp}" if interface.vrrp is not None else f"no VRRP speaker on {facts.node}"
    return said if interface.link_up else f"{said} (link down)"


def _disagree_vip(mine: Facts, other: Facts | None) -> str:
    if other is None:
        return ""
    findings = []
    first, second = _both(mine, other)
    there = {interface.name: interface for interface in second.interfaces}
    for interface in first.interfaces:
        if not interface.virtual_addresses:
            continue
        rival = there.get(interface.name)
        said = f"{interface.name}: {_vrrp(first, interface)}, {_vrrp(second, rival)}"
        states = {interface.vrrp, rival.vrrp if rival is not None else None}
        if states != {Vrrp.MASTER, Vrrp.BACKUP}:
            findings.append(said)
        elif (interface.vrrp is Vrrp.MASTER) != (first.role is Role.MASTER):
            roles = ", ".join(f"{facts.node} {_doing(facts)}" for facts in (first, second))
            findings.append(f"{said}, but {roles}")
    return "; ".join(findings)


def _doing(facts: Facts) -> str:
    match facts.role:
        case Role.TAKING:
            where = "waits for the disks" if facts.electing else "holds the disks, and brings up pools and services"
            return f"is becoming MASTER: it {where}"
        case Role.YIELDING:
            return "is giving up its role"
        case Role.MASTER:
            return "leads"
        case Role.ERROR:
            return "failed to take over"
        case _:
            return "stands by" if facts.role is Role.BACKUP else "is starting"


def _unfenced(mine: Facts, other: Facts | None) -> str:
    findings = []
    for facts in _both(mine, other):
        imported = [pool.name for pool in facts.pools if pool.imported]
        if not facts.fence_running:
            findings.append(f"fenced does not answer on {facts.node}")
        elif imported and not facts.fence_held:
            findings.append(f"{_names(imported)} is imported on {facts.node}, whose fenced does not hold the disks")
    return "; ".join(findings)


def _heartbeat_missing(mine: Facts, other: Facts | None) -> str:
    return f"{mine.node} has {_names(list(mine.nics)) or 'no interface'}, and no heartbeat interface"


def _of_other(say: Callable[[Facts], str]) -> _Sentence:
    return lambda mine, other: "" if other is None else say(other)


def _not_ready(mine: Facts, other: Facts | None) -> str:
    starting = [f"{one.node} ({one.hostname})" for one in _both(mine, other) if not one.ready]
    return f"{' and '.join(starting)} {'says that it is' if len(starting) == 1 else 'say that they are'} still starting"


def _reboots(code: str) -> dict[str, _Sentence]:
    def said(facts: Facts) -> str:
        return f"{facts.node}: {facts.reboot_reasons.get(code, '')}"

    return {
        f"LOC_{code}_REBOOT_REQ": lambda mine, other: said(mine),
        f"REM_{code}_REBOOT_REQ": _of_other(said),
    }


_SENTENCES: dict[str, _Sentence] = {
    "NO_VOLUME": _no_volume,
    "NO_VIP": _no_vip,
    "NO_SYSTEM_READY": _not_ready,
    "NO_FAILOVER": lambda mine, other: f"`disabled` is set in the pair's configuration, as {mine.node} has it",
    "NO_LICENSE": _no_licence,
    "DISAGREE_VIP": _disagree_vip,
    "MISMATCH_DISKS": _mismatch_disks,
    "MISMATCH_VERSIONS": lambda mine, other: ", ".join(f"{one.node} runs {one.version}" for one in _both(mine, other)),
    "MISMATCH_NICS": lambda mine, other: _differences(mine, other, "interfaces", "has", lambda facts: facts.nics),
    "NO_CRITICAL_INTERFACES": _no_critical,
    "NO_FENCED": _unfenced,
    "LOC_FAILOVER_ONGOING": lambda mine, other: f"{mine.node} {_doing(mine)}",
    "REM_FAILOVER_ONGOING": _of_other(lambda other: f"{other.node} {_doing(other)}"),
    "NO_HEARTBEAT_IFACE": _heartbeat_missing,
    "NO_CARRIER_ON_HEARTBEAT": lambda mine, other: f"the link of {mine.node}'s heartbeat interface is down",
    **_reboots("UPGRADE"),
    **_reboots("FIPS"),
    **_reboots("GPOSSTIG"),
    "LOC_SYSTEM_DATASET_MIGRATION_IN_PROGRESS": lambda mine, other: f"{mine.node} moves its system dataset",
    "REM_SYSTEM_DATASET_MIGRATION_IN_PROGRESS": _of_other(lambda other: f"{other.node} moves its system dataset"),
}
