"""What keepalived reads and says: its configuration, its weight files, its notifications, its dump. Pure.

One virtual router of ours becomes one keepalived instance per address family, "eth0:4" and "eth0:6": a kernel interface
name holds no colon. Words of the configuration: keepalived.conf(5), of keepalived 2.2.

What is measured, and why the configuration looks as it does (keepalived 2.2.7):

- An advert whose addresses differ from a BACKUP's own list is dropped, and 300 ms later there are two MASTERs. So all
  adverts carry one dummy address that never changes, on the loopback; the real addresses are "excluded" from them. The
  controllers may then have different lists, as they do when one of them was down during a change.
- A reload keeps state and addresses, but costs some milliseconds of silence. So the priority and the wish to take part
  are not in the configuration: keepalived adds the number in a weight file to the priority, and FAULT follows from a
  very low one. It sees a renamed file within a millisecond, obeys it also after a crash, and sends priority 0.
- `vrrp_rt_priority` is not used: after a reload it leaves RLIMIT_RTTIME at 0, and without CAP_SYS_RESOURCE the kernel
  then kills the process. Real-time scheduling comes from outside (systemd's unit, or process.py).
- The families of one interface are a sync group, so that they move together; without one, each has its own election,
  and half an interface is nobody's. A group that gains its second member in a reload starts as BACKUP, and silence for
  three adverts follows; one that is made of two instances of the same state keeps it. So a new family runs apart first.
- Changing between multicast and unicast makes a new instance of it: priority 0, and an election.
"""

import ipaddress
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from middlewared.ports import Vrrp, VrrpInstance

PRIORITY = 100  # in the configuration; the weight file makes the rest of it
STAY_OUT = -300  # keepalived: a sum below -253 is FAULT
_ADVERT_CS_MAX = 4095  # RFC 9568, 5.2.7: 12 bits of centiseconds
# It becomes a file's name, and a word that keepalived.conf(5) must not read in its own way.
_INTERFACE = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9_.@-]{1,15}")
_LINE = re.compile(r'INSTANCE "([^"]{1,31})" ([A-Z_]{1,31}) \d{1,3}')
_SAID = {state.value: state for state in Vrrp} | {"DELETED": Vrrp.STOP}
_DUMPED = {0: Vrrp.STOP, 1: Vrrp.BACKUP, 2: Vrrp.MASTER, 3: Vrrp.FAULT}

# Repeated once after a second, and now and then: a switch may lose the first. Only the notifications go to the FIFO.
_GLOBALS = """\
global_defs {{
    router_id middlewared
    vrrp_version 3
    vrrp_notify_fifo {fifo}
    dynamic_interfaces allow_if_changes
    vrrp_no_swap
    vrrp_garp_master_repeat 3
    vrrp_garp_master_delay 1
    vrrp_garp_master_refresh 60
    vrrp_garp_lower_prio_repeat 3
    vrrp_garp_lower_prio_delay 1
}}
"""
_WEIGHT = """\
track_file {interface} {{
    file "{path}"
    weight 1
}}
"""
_GROUP = """\
vrrp_sync_group {interface} {{
    group {{
        {interface}:4
        {interface}:6
    }}
    sync_group_tracking_weight
}}
"""
# nopreempt: whoever is MASTER stays MASTER. TTL 255 (RFC 9568, 5.1.1.3): an advert was not routed to us.
_INSTANCE = """\
vrrp_instance {name} {{
    state BACKUP
    nopreempt
    interface {interface}
    virtual_router_id {router_id}
    priority {priority}
    advert_int {advert_s}
    track_file {{
        {interface}
    }}
{unicast}    virtual_ipaddress {{
        {dummy}
    }}
    virtual_ipaddress_excluded {{
{addresses}
    }}
}}
"""
_UNICAST = """\
    unicast_src_ip {local}
    unicast_peer {{
        {peer} min_ttl 255 max_ttl 255
    }}
"""


@dataclass(frozen=True, slots=True)
class Router:
    """One instance of keepalived: a virtual router in one address family."""

    interface: str
    family: int  # 4 or 6
    router_id: int
    advert_ms: int
    addresses: tuple[str, ...]  # with prefix length
    local: str = ""  # unicast between these two; empty: multicast
    peer: str = ""

    @property
    def name(self) -> str:
        return f"{self.interface}:{self.family}"

    @property
    def advert_cs(self) -> int:
        """As it goes over the wire: in hundredths of a second."""
        return min(max(self.advert_ms // 10, 1), _ADVERT_CS_MAX)


@dataclass(frozen=True, slots=True)
class Heard:
    """One notification: an instance changed its state."""

    name: str
    state: Vrrp


@dataclass(frozen=True, slots=True)
class Dumped:
    """What keepalived says of one of its instances when it is asked."""

    state: Vrrp
    router_id: int
    advert_cs: int
    addresses: frozenset[str]
    strange: int = 0  # adverts under our router id with addresses that are not ours: somebody else uses the id


def routers(instances: Iterable[VrrpInstance], router_id_base: int = 0) -> tuple[Router, ...]:
    """One router per interface and address family that has addresses. `router_id_base` moves all router ids.

    Raises ValueError, with a sentence, for what keepalived must not be given.
    """
    found: list[Router] = []
    taken: dict[int, str] = {}
    for instance in instances:
        if not _INTERFACE.fullmatch(instance.interface):
            raise ValueError(f"{instance.interface!r} cannot be the interface of a virtual address")
        router_id = (instance.router_id + router_id_base - 1) % 255 + 1
        other = taken.setdefault(router_id, instance.interface)
        if other != instance.interface:
            raise ValueError(f"{instance.interface} and {other} have the same virtual router id {router_id}")
        if not 1 <= instance.priority <= 254:
            raise ValueError(f"{instance.interface}: {instance.priority} is no priority (1..254)")
        for family in (4, 6):
            addresses = tuple(str(one) for one in _of_family(instance.addresses, family))
            if addresses:
                local, peer = _unicast(instance, family)
                found.append(Router(instance.interface, family, router_id, instance.advert_ms, addresses, local, peer))
    return tuple(found)


def render(wanted: Sequence[Router], fifo: Path, weights: Path, apart: Collection[str] = ()) -> str:
    """keepalived.conf; `weights` is the folder with one weight file per interface, `apart` the interfaces whose
    families do not move together yet.
    """
    interfaces = dict.fromkeys(router.interface for router in wanted)
    files = [_WEIGHT.format(interface=name, path=weights / name) for name in interfaces]
    groups = [_GROUP.format(interface=name) for name in _double(wanted) if name not in apart]
    return "".join([_GLOBALS.format(fifo=fifo), *files, *groups, *map(_instance, wanted)])


def apart(dump: Mapping[str, Dumped], wanted: Iterable[Router]) -> frozenset[str]:
    """The interfaces whose families cannot be put together by a reload now without disturbing the one that runs."""
    found = []
    for interface in _double(wanted):
        states = [dump[name].state if name in dump else None for name in (f"{interface}:4", f"{interface}:6")]
        if states[0] is not states[1]:
            found.append(interface)
    return frozenset(found)


def weight(priority: int | None) -> str:
    """What to write into an interface's weight file; None: stay out of the election."""
    return f"{STAY_OUT if priority is None else priority - PRIORITY}\n"


def stays_out(text: str) -> bool:
    """A weight file's text keeps its interface out of the election. What cannot be read keeps it out, too."""
    try:
        return int(text) <= STAY_OUT
    except ValueError:
        return True


def heard(line: str) -> Heard | None:
    """A line of the notify FIFO; None for one that tells no new state (MASTER_RX_LOWER_PRI, garbage)."""
    match = _LINE.fullmatch(line)
    state = _SAID.get(match[2]) if match else None
    return Heard(match[1], state) if match and state else None


def dumped(text: str) -> dict[str, Dumped]:
    """The instances in keepalived's JSON dump, by name. Raises ValueError while it is not written to the end."""
    try:
        rows: list[tuple[dict[str, Any], dict[str, Any]]] = [(one["data"], one["stats"]) for one in json.loads(text)]
        return {
            row["iname"]: Dumped(
                _DUMPED.get(row["state"], Vrrp.STOP),
                int(row["vrid"]),
                round(float(row["adver_int"]) * 100),
                frozenset(str(ipaddress.ip_interface(one.split()[0])) for one in row["evips"]),
                int(stats["addr_list_err"]),
            )
            for row, stats in rows
        }
    except (TypeError, KeyError) as error:
        raise ValueError(f"keepalived's dump lacks {error}") from error


def obeyed(dump: Mapping[str, Dumped], wanted: Iterable[Router]) -> bool:
    """keepalived runs what was configured, as far as its dump tells."""
    return {name: (one.router_id, one.advert_cs, one.addresses) for name, one in dump.items()} == {
        router.name: (router.router_id, router.advert_cs, frozenset(router.addresses)) for router in wanted
    }


def fold(states: Mapping[str, Vrrp]) -> dict[str, Vrrp]:
    """One state per interface out of those of its instances, which differ for less than a millisecond.

    MASTER only when all are; STOP or FAULT when one of them is: the other one follows.
    """
    grouped: dict[str, list[Vrrp]] = {}
    for name, state in states.items():
        grouped.setdefault(name.rpartition(":")[0], []).append(state)
    return {interface: _fold(found) for interface, found in grouped.items()}


def _fold(states: Sequence[Vrrp]) -> Vrrp:
    return next(state for state in (Vrrp.STOP, Vrrp.FAULT, Vrrp.BACKUP, Vrrp.MASTER) if state in states)


def _double(wanted: Iterable[Router]) -> list[str]:
    """The interfaces with both families."""
    families = Counter(router.interface for router in wanted)
    return [interface for interface, count in families.items() if count == 2]


def _of_family(addresses: Iterable[str], family: int) -> list[ipaddress.IPv4Interface | ipaddress.IPv6Interface]:
    return [one for one in map(ipaddress.ip_interface, addresses) if one.version == family]


def _unicast(instance: VrrpInstance, family: int) -> tuple[str, str]:
    """Our first address and the other's first one of this family; both empty unless both are known."""
    own, others = _of_family(instance.own, family), _of_family(instance.others, family)
    return (str(own[0].ip), str(others[0].ip)) if own and others else ("", "")


def _instance(router: Router) -> str:
    return _INSTANCE.format(
        name=router.name,
        interface=router.interface,
        router_id=router.router_id,
        priority=PRIORITY,
        advert_s=f"{router.advert_cs / 100:.2f}",
        unicast=_UNICAST.format(local=router.local, peer=router.peer) if router.local else "",
        dummy=_dummy(router),
        addresses="\n".join(f"        {_address(one, router.interface)}" for one in router.addresses),
    )


def _dummy(router: Router) -> str:
    """What the adverts carry: the same on both controllers for ever, link-local, and announced to nobody."""
    if router.family == 4:
        return f"169.254.112.{router.router_id}/32 dev lo scope host no_track"
    return f"fe80::112:{router.router_id:x}/128 dev lo no_track"


def _address(address: str, interface: str) -> str:
    alone = address.endswith("/128")  # keepalived would call such an address deprecated
    return f"{address} dev {interface}{' preferred_lft forever' if alone else ''}"
