"""From what is present to what is wanted: an ordered list of changes, each of which can be undone. Pure.

The order is the kernel's wish: what rests on others goes before them and comes after them, a port is down when it joins
an aggregation, and a VLAN's MTU never exceeds its parent's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from middlewared.ports import LinkConfig, PortError

CREATED = ("BRIDGE", "LINK_AGGREGATION", "VLAN")
# What can be changed of an interface that stays; of the rest a difference means to make it anew.
_SETTABLE = {
    "BRIDGE": ("stp", "description"),
    "LINK_AGGREGATION": ("xmit_hash", "description"),
    "VLAN": ("description",),
}
_IDENTITY = {
    "BRIDGE": (),
    "LINK_AGGREGATION": ("protocol", "lacp_rate"),
    "VLAN": ("parent", "tag", "pcp"),
}


@dataclass(frozen=True, slots=True)
class Create:
    """Make an interface: down, without ports and addresses."""

    link: LinkConfig

    @property
    def inverse(self) -> "Change":
        return Delete(self.link)


@dataclass(frozen=True, slots=True)
class Delete:
    link: LinkConfig

    @property
    def inverse(self) -> "Change":
        return Create(self.link)


@dataclass(frozen=True, slots=True)
class Join:
    """Make `port` a port of `master`. An aggregation takes it up, a bridge leaves it as it is."""

    port: str
    master: str
    kind: str  # of the master

    @property
    def inverse(self) -> "Change":
        return Leave(self.port, self.master, self.kind)


@dataclass(frozen=True, slots=True)
class Leave:
    """The port stands alone again; one of an aggregation goes down by that."""

    port: str
    master: str
    kind: str

    @property
    def inverse(self) -> "Change":
        return Join(self.port, self.master, self.kind)


@dataclass(frozen=True, slots=True)
class Set:
    """One attribute of LinkConfig: up, mtu, description, stp, xmit_hash."""

    name: str
    kind: str
    attribute: str
    before: Any
    after: Any

    @property
    def inverse(self) -> "Change":
        return Set(self.name, self.kind, self.attribute, self.after, self.before)


@dataclass(frozen=True, slots=True)
class AddAddress:
    name: str
    address: str  # with prefix length

    @property
    def inverse(self) -> "Change":
        return RemoveAddress(self.name, self.address)


@dataclass(frozen=True, slots=True)
class RemoveAddress:
    name: str
    address: str

    @property
    def inverse(self) -> "Change":
        return AddAddress(self.name, self.address)


Change = Create | Delete | Join | Leave | Set | AddAddress | RemoveAddress


def plan(
    present: Sequence[LinkConfig], wanted: Sequence[LinkConfig], owned: Sequence[LinkConfig]
) -> tuple[Change, ...]:
    """The changes, in order; empty when everything is as wanted. See ports.Interfaces.apply.

    Raises PortError when something that is not ours stands in the way.
    """
    return _Planner(present, wanted, owned).run()


def undo(done: Sequence[Change]) -> list[Change]:
    return [change.inverse for change in reversed(done)]


def describe(change: Change) -> str:
    """What it does, for a human."""
    match change:
        case Create(link):
            return f"create {link.name}"
        case Delete(link):
            return f"delete {link.name}"
        case Join(port, master):
            return f"make {port} a port of {master}"
        case Leave(port, master):
            return f"take {port} out of {master}"
        case Set(name, _, attribute, _, after):
            return f"set {attribute} of {name} to {after}"
        case AddAddress(name, address):
            return f"add {address} to {name}"
        case RemoveAddress(name, address):
            return f"remove {address} from {name}"


class _Planner:
    """`now` is how things will be after the changes so far."""

    def __init__(
        self, present: Sequence[LinkConfig], wanted: Sequence[LinkConfig], owned: Sequence[LinkConfig]
    ) -> None:
        self._now = {link.name: link for link in present}
        self._wanted = _reachable(wanted, self._now)
        self._owned = {link.name for link in owned if link.kind in CREATED}
        self._owned_ports = {(link.name, port) for link in owned for port in link.ports}
        self._owned_addresses = {(link.name, address) for link in owned for address in link.addresses}
        self._left: set[str] = set()  # were ports of an aggregation, and have the MTU that they had before it again
        self._changes: list[Change] = []

    def run(self) -> tuple[Change, ...]:
        for name in self._doomed():
            self._take_down(name)
        for name in self._wanted.keys() & self._now.keys():
            self._take_away(name)
        order = _below_first(self._wanted)
        for name in reversed(order):
            if name in self._now and self._wanted[name].mtu < self._now[name].mtu:
                self._set_mtu(name)
        for name in order:
            self._build(name)
        return tuple(self._changes)

    # ------------------------------------------------------------------------------------------ what goes

    def _doomed(self) -> list[str]:
        """The interfaces to delete, what rests on others first."""
        doomed = {name for name in self._owned & self._now.keys() if name not in self._wanted}
        doomed |= {name for name in self._wanted.keys() & self._now.keys() if self._has_to_be_made_anew(name)}
        doomed = {name for name in doomed if self._now[name].kind in CREATED}
        while above := {link.name for link in self._now.values() if link.parent in doomed} - doomed:
            doomed |= above
        for name in sorted(doomed - self._owned):
            raise PortError(
                f"{name} exists already and was not made by middlewared: remove it (`ip link delete {name}`), "
                "or choose another name"
            )
        return [name for name in reversed(_below_first(self._now)) if name in doomed]

    def _has_to_be_made_anew(self, name: str) -> bool:
        now, wanted = self._now[name], self._wanted[name]
        if wanted.kind not in CREATED:
            return False
        if now.kind != wanted.kind:
            if now.kind not in CREATED:
                raise PortError(f"{name} exists already, as an interface of another kind: choose another name")
            return True
        return any(getattr(now, field) != getattr(wanted, field) for field in _IDENTITY[wanted.kind])

    def _take_down(self, name: str) -> None:
        self._leave_master(name)
        for address in self._now[name].addresses:
            self._do(RemoveAddress(name, address))
        for port in self._now[name].ports:
            self._do(Leave(port, name, self._now[name].kind))
        self._set(name, "up", False)
        self._do(Delete(replace(self._now[name], up=False, addresses=(), ports=())))

    def _take_away(self, name: str) -> None:
        now, wanted = self._now[name], self._wanted[name]
        for port in now.ports:
            if port not in wanted.ports and (name, port) in self._owned_ports:
                self._do(Leave(port, name, now.kind))
        for address in now.addresses:
            if address not in wanted.addresses and (name, address) in self._owned_addresses:
                self._do(RemoveAddress(name, address))

    def _leave_master(self, port: str) -> None:
        master = self._master(port)
        if master is not None:
            self._do(Leave(port, master.name, master.kind))

    def _master(self, port: str) -> LinkConfig | None:
        return next((link for link in self._now.values() if port in link.ports), None)

    # ------------------------------------------------------------------------------------------ what comes

    def _build(self, name: str) -> None:
        wanted = self._wanted[name]
        if name not in self._now:
            self._do(Create(replace(wanted, up=False, addresses=(), ports=())))
        for attribute in _SETTABLE.get(wanted.kind, ()):
            self._set(name, attribute, getattr(wanted, attribute))
        self._set_mtu(name)
        for port in wanted.ports:
            if port in self._now and port not in self._now[name].ports:
                self._join(port, wanted)
        if not self._is_aggregated(name):
            self._set(name, "up", wanted.up)
        for address in wanted.addresses:
            if address not in self._now[name].addresses:
                self._do(AddAddress(name, address))

    def _join(self, port: str, master: LinkConfig) -> None:
        present = self._master(port)
        if present is not None and (present.name, port) not in self._owned_ports:
            raise PortError(
                f"{port} is a port of {present.name}, which middlewared did not configure: take it out there"
            )
        self._leave_master(port)
        if master.kind == "LINK_AGGREGATION":
            self._set(port, "up", False)
        self._do(Join(port, master.name, master.kind))

    def _set_mtu(self, name: str) -> None:
        if not self._is_aggregated(name):  # an aggregation gives its ports its own
            self._set(name, "mtu", self._wanted[name].mtu, unknown=name in self._left)

    def _is_aggregated(self, name: str) -> bool:
        return any(link.kind == "LINK_AGGREGATION" and name in link.ports for link in self._wanted.values())

    # ------------------------------------------------------------------------------------------ the list

    def _set(self, name: str, attribute: str, value: Any, *, unknown: bool = False) -> None:
        before = getattr(self._now[name], attribute)
        if before != value or unknown:
            self._do(Set(name, self._now[name].kind, attribute, before, value))

    def _do(self, change: Change) -> None:
        self._changes.append(change)
        now = self._now
        match change:
            case Create(link):
                now[link.name] = link
            case Delete(link):
                del now[link.name]
            case Join(port, master, kind):
                now[master] = replace(now[master], ports=tuple(sorted((*now[master].ports, port))))
                if kind == "LINK_AGGREGATION":
                    now[port] = replace(now[port], up=True)
            case Leave(port, master, kind):
                now[master] = replace(now[master], ports=tuple(item for item in now[master].ports if item != port))
                if kind == "LINK_AGGREGATION" and port in now:
                    now[port] = replace(now[port], up=False)
                    self._left.add(port)
            case Set(name, _, attribute, _, after):
                now[name] = replace(now[name], **{attribute: after})
            case AddAddress(name, address):
                now[name] = replace(now[name], addresses=(*now[name].addresses, address))
            case RemoveAddress(name, address):
                left = tuple(item for item in now[name].addresses if item != address)
                now[name] = replace(now[name], addresses=left)


def _reachable(wanted: Sequence[LinkConfig], now: Mapping[str, LinkConfig]) -> dict[str, LinkConfig]:
    """Without physical interfaces that are not fitted here, and without the VLANs on them."""
    links = {link.name: link for link in wanted if link.kind in CREATED or link.name in now}
    while True:
        lost = [
            name for name, link in links.items() if link.parent and link.parent not in links and link.parent not in now
        ]
        if not lost:
            return links
        for name in lost:
            del links[name]


def _below_first(links: Mapping[str, LinkConfig]) -> list[str]:
    """Names, ports and parents before what rests on them. Raises PortError when some rest on each other."""
    order: list[str] = []
    left = dict(links)
    while left:
        free = sorted(name for name, link in left.items() if not left.keys() & {*link.ports, link.parent})
        if not free:
            raise PortError(
                f"{', '.join(sorted(left))} rest on each other: an interface cannot be its own port or parent"
            )
        order += free
        for name in free:
            del left[name]
    return order
