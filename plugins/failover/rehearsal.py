"""Would a takeover work? Looks at every precondition that it has on the standby, and changes nothing.

`look` asks the ports; `checks` judges what was seen, and is a pure function.
"""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from middlewared.plugins.failover.facts import Facts
from middlewared.plugins.failover.state import Role
from middlewared.ports import DiskRehearsal, FenceCode, FenceRehearsal, PortError, Ports, Vrrp
from middlewared.store.database import Store

PORT_TIMEOUT_S = 5.0  # for each question to the machine

_TOLERATED = ("disk", "dataset")  # by a takeover
_CABLES = "Check the cables to the shelf, and the disk itself."


@dataclass(frozen=True, slots=True)
class Check:
    """One precondition of a takeover. `remedy` is empty where nothing has to be done."""

    name: str
    subject: str  # what was looked at: a controller, an interface, a disk's serial, a pool, a service
    ok: bool
    detail: str  # what was found, a sentence
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the machine said. Where it could not say, a sentence in place of the answer: that is a failed check."""

    fence: FenceRehearsal | str
    pools: Mapping[str, str] | str  # why each could not be imported, by name; empty text: it could
    services: Mapping[str, bool]  # the enabled ones: whether the machine has them
    open: bool | str  # traffic to the virtual addresses is let in
    datasets: Mapping[str, "Locks"] | str = field(default_factory=dict)  # with a key that has to be given, by name


@dataclass(frozen=True, slots=True)
class Locks:
    """An encrypted dataset that opens by a key which somebody has given."""

    locked: bool  # on the controller that has its pool imported
    key_held: bool  # here


async def look(ports: Ports, store: Store, encrypted: Awaitable[Sequence[Mapping[str, Any]]]) -> Seen:
    """Ask everything at once, each with a deadline. `encrypted`: the other's answer to `pool.dataset.encryption`."""
    fence, pools, is_open, datasets = await asyncio.gather(
        _answer(ports.fencing.rehearse()),
        _answer(_pools(ports)),
        _answer(ports.firewall.allowed()),
        _answer(_datasets(ports, encrypted)),
    )
    enabled = store.query("SELECT name FROM service_config WHERE enabled = 1 ORDER BY name")
    known = ports.services.states()
    return Seen(fence, pools, {row["name"]: row["name"] in known for row in enabled}, is_open, datasets)


async def _pools(ports: Ports) -> dict[str, str]:
    pools = await ports.pools.pools()
    troubles = await asyncio.gather(*(ports.pools.trouble(pool.guid) for pool in pools))
    return {pool.name: trouble for pool, trouble in zip(pools, troubles, strict=True)}


async def _datasets(ports: Ports, encrypted: Awaitable[Sequence[Mapping[str, Any]]]) -> dict[str, Locks]:
    """Those whose key lies in a file are left out: a takeover reads that."""
    rows, held = await encrypted, ports.pools.keys_held()
    return {row["id"]: Locks(row["locked"], row["id"] in held) for row in rows if row["key_location"] == "prompt"}


async def _answer(question: Any) -> Any:
    """The answer, or why there is none."""
    try:
        async with asyncio.timeout(PORT_TIMEOUT_S):
            return await question
    except PortError as error:
        return str(error)
    except TimeoutError:
        return f"no answer within {PORT_TIMEOUT_S:.0f} s"


def result(node: str, found: list[Check]) -> dict[str, Any]:
    """The answer of `failover.rehearse`. Single disks do not decide: the check `disks`, on all of them, does. Nor do
    datasets: a takeover comes about without them.
    """
    failed = [check for check in found if not check.ok]
    return {
        "node": node,
        "would_work": all(check.name in _TOLERATED for check in failed),
        "failures": [f"{check.name} {check.subject}: {check.detail}" for check in failed],
        "checks": [asdict(check) for check in found],
    }


def unreachable(mine: Facts, why: str) -> dict[str, Any]:
    """The answer of a MASTER whose standby cannot be asked: nobody would take over, as far as anybody can tell."""
    other = "B" if mine.node == "A" else "A"
    remedy = "Check that it is powered on, and the heartbeat cable."
    return result(mine.node, [Check("peer", other, False, f"cannot be asked: {why}", remedy)])


def checks(mine: Facts, other: Facts | None, seen: Seen) -> list[Check]:
    """Every precondition of a takeover by the controller of `mine`, in the order in which a takeover meets them."""
    return [
        _peer(mine, other),
        _role(mine),
        *_election(mine),
        _licence(mine),
        _enabled(mine),
        _configuration(mine, other),
        *_disks(seen.fence),
        *_pool_checks(seen.pools),
        *_dataset_checks(mine.node, seen.datasets),
        *_services(seen.services),
        _traffic(mine, seen.open),
    ]


def _peer(mine: Facts, other: Facts | None) -> Check:
    node = "B" if mine.node == "A" else "A"
    if other is None:
        return Check(
            "peer", node, False, "cannot be reached over the heartbeat link", "Check its power and the heartbeat cable."
        )
    if other.role is not Role.MASTER:
        return Check("peer", node, False, f"does not lead: its role is {other.role}", "See failover.status on both.")
    return Check("peer", node, True, "leads, and answers over the heartbeat link")


def _role(mine: Facts) -> Check:
    if not mine.ready:
        return Check("role", mine.node, False, "has not finished booting", "Wait; if it does not, see its console.")
    if mine.role is not Role.BACKUP:
        return Check("role", mine.node, False, f"does not stand by: its role is {mine.role}", "See failover.history.")
    return Check("role", mine.node, True, "stands by")


def _election(mine: Facts) -> list[Check]:
    found = [
        _interface(interface.name, interface.vrrp, interface.link_up)
        for interface in mine.interfaces
        if interface.critical and interface.virtual_addresses
    ]
    if found:
        return found
    remedy = "Give a critical interface a virtual IP (interface.update, failover_virtual_aliases)."
    return [Check("election", mine.node, False, "no critical interface has a virtual IP", remedy)]


def _interface(name: str, vrrp: Vrrp | None, link_up: bool) -> Check:
    if vrrp is None:
        return Check("election", name, False, "no VRRP speaker runs on it", "See the log of the VRRP speaker.")
    link = "the link is up" if link_up else "the link is down"
    if vrrp in (Vrrp.BACKUP, Vrrp.MASTER):
        return Check("election", name, True, f"VRRP is {vrrp}, and {link}")
    remedy = "Check its cable and the switch." if vrrp is Vrrp.FAULT else "See failover.disabled.reasons and the log."
    return Check("election", name, False, f"VRRP is {vrrp}, and {link}: it cannot be elected", remedy)


def _licence(mine: Facts) -> Check:
    if mine.licensed:
        return Check("licence", mine.node, True, "has a licence")
    why = f"has no licence: {mine.licence_problem}" if mine.licence_problem else "has no licence"
    return Check("licence", mine.node, False, why, "Pairing makes one for both: middlewared pair")


def _enabled(mine: Facts) -> Check:
    if not mine.disabled:
        return Check("enabled", mine.node, True, "failover is enabled")
    remedy = "Enable it: system failover control action=ENABLE options={}"
    return Check("enabled", mine.node, False, "failover is administratively disabled", remedy)


def _configuration(mine: Facts, other: Facts | None) -> Check:
    here = f"change {mine.position} of epoch {mine.epoch}"
    if other is None:
        detail = f"has {here}; whether the other has a newer one cannot be told"
        return Check("configuration", mine.node, False, detail, "Make the other controller reachable.")
    there = f"change {other.position} of epoch {other.epoch}"
    if here == there:
        return Check("configuration", mine.node, True, f"has {here}, as {other.node} does")
    remedy = "It follows by itself; if it does not: system failover sync_to_peer on the MASTER."
    return Check("configuration", mine.node, False, f"has {here}, {other.node} has {there}", remedy)


def _disks(fence: FenceRehearsal | str) -> list[Check]:
    if isinstance(fence, str):
        remedy = "See its log; it is restarted by itself, and must not be stopped."
        return [Check("keeper", "fenced", False, fence, remedy)]
    fine = fence.result.code is FenceCode.OK
    return [
        Check("keeper", "fenced", True, "runs, and answers"),
        Check("disks", "all", fine, fence.result.message, "" if fine else _CABLES),
        *(_disk(disk) for disk in fence.disks),
    ]


def _why(name: str, trouble: str) -> str:
    """The trouble without the name, which the check's subject says already."""
    return trouble.removeprefix(f"{name}: ")


def _disk(disk: DiskRehearsal) -> Check:
    if disk.problem:
        return Check("disk", disk.serial, False, _why(disk.serial, disk.problem), _CABLES)
    holder = f"held by {disk.holder}" if disk.holder else "held by nobody"
    if disk.unexpected:
        keys = ", ".join(disk.unexpected)
        remedy = "Find out which host registered it: a takeover throws it out."
        return Check("disk", disk.serial, False, f"answers, {holder}; unexpected keys: {keys}", remedy)
    return Check("disk", disk.serial, True, f"answers, {holder}")


def _pool_checks(pools: Mapping[str, str] | str) -> list[Check]:
    if isinstance(pools, str):
        return [Check("pool", "all", False, pools, "See the log of this controller.")]
    if not pools:
        return [Check("pool", "all", False, "there are no pools on the shared disks", "Create or import a pool.")]
    return [
        Check(
            "pool", name, not trouble, _why(name, trouble) or "enough of its disks answer", _CABLES if trouble else ""
        )
        for name, trouble in pools.items()
    ]


def _dataset_checks(node: str, datasets: Mapping[str, Locks] | str) -> list[Check]:
    if isinstance(datasets, str):
        return [Check("dataset", "all", False, datasets, "See the log of the other controller.")]
    return [_dataset(node, name, locks) for name, locks in sorted(datasets.items())]


def _dataset(node: str, name: str, locks: Locks) -> Check:
    if locks.key_held:
        return Check("dataset", name, True, f"{node} holds its key")
    now = "is locked, and stays so" if locks.locked else "is open now, and would be locked after a takeover"
    remedy = f"Give its key on the MASTER, which hands it over: storage pool dataset unlock {name}"
    return Check("dataset", name, False, f"{now}: {node} does not hold its key", remedy)


def _services(services: Mapping[str, bool]) -> list[Check]:
    remedy = "Install it here, or disable it: service.update."
    return [
        Check("service", name, True, "can be started")
        if there
        else Check("service", name, False, "is enabled, but this controller does not have it", remedy)
        for name, there in services.items()
    ]


def _traffic(mine: Facts, is_open: bool | str) -> Check:
    if isinstance(is_open, str):
        return Check("traffic", mine.node, False, is_open, "See the log of this controller.")
    if is_open:
        detail = "the firewall lets traffic to the virtual addresses in before this controller is fit to serve it"
        return Check("traffic", mine.node, False, detail, "See the log of this controller; restart its daemon.")
    return Check("traffic", mine.node, True, "the firewall keeps traffic to the virtual addresses out")
