"""The links of one simulated kernel: NICs, and the bridges, aggregations and VLANs made of them.

It refuses what Linux refuses, in the same order of events: an aggregation takes only ports that are down, a VLAN
vanishes with its parent, and an MTU does not exceed that of the interface below.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

_MTU_MIN = 68
_MTU_MAX = 9216
_NAME_BYTES_MAX = 15  # IFNAMSIZ less its terminating zero
_LINKS_MAX = 256


class LinkError(Exception):
    """The kernel refuses; the message is its word for it."""


@dataclass(slots=True)
class _Link:
    name: str
    kind: str
    mac: str
    up: bool = False
    mtu: int = 1500
    description: str = ""
    addresses: list[str] = field(default_factory=list)
    ports: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)  # stp, protocol, xmit_hash, lacp_rate, parent, tag, pcp
    own_mtu: int = 1500  # what a port of an aggregation goes back to


class Links:
    """`addresses` and `macs`: of the NICs, by name. `carrier(nic)`: whether the wire of a NIC is connected."""

    def __init__(self, addresses: Mapping[str, str], macs: Mapping[str, str], carrier: Callable[[str], bool]) -> None:
        self._carrier = carrier
        self._links = {
            name: _Link(name, "PHYSICAL", macs[name], up=True, addresses=[address])
            for name, address in addresses.items()
        }

    def rows(self, fitted: Collection[str]) -> list[dict[str, Any]]:
        """Every link that is there, as the drivers see it; NICs that are not fitted are left out."""
        return [
            {
                "name": link.name,
                "kind": link.kind,
                "mac": link.mac,
                "link_up": self._link_up(link, fitted),
                "up": link.up,
                "mtu": link.mtu,
                "description": link.description,
                "addresses": list(link.addresses),
                "ports": sorted(link.ports),
                **link.options,
            }
            for link in self._links.values()
            if link.kind != "PHYSICAL" or link.name in fitted
        ]

    def change(self, what: str, args: Mapping[str, Any]) -> None:
        """One change: Create, Delete, Join, Leave, Set, AddAddress, RemoveAddress. Raises LinkError."""
        match what:
            case "Create":
                self._create(args["link"])
            case "Delete":
                self._delete(args["link"]["name"])
            case "Join":
                self._join(self._find(args["port"]), self._find(args["master"]))
            case "Leave":
                self._leave(self._find(args["port"]), self._find(args["master"]))
            case "Set":
                self._set(self._find(args["name"]), args["attribute"], args["after"])
            case "AddAddress":
                link = self._find(args["name"])
                if args["address"] in link.addresses:
                    raise LinkError("File exists")
                link.addresses.append(args["address"])
            case "RemoveAddress":
                link = self._find(args["name"])
                if args["address"] not in link.addresses:
                    raise LinkError("Cannot assign requested address")
                link.addresses.remove(args["address"])
            case _:
                raise LinkError(f"unknown change {what!r}")

    def _link_up(self, link: _Link, fitted: Collection[str]) -> bool:
        if not link.up:
            return False
        if link.kind == "PHYSICAL":
            return link.name in fitted and self._carrier(link.name)
        below = [self._links[name] for name in self._below(link) if name in self._links]
        return any(self._link_up(item, fitted) for item in below)

    @staticmethod
    def _below(link: _Link) -> list[str]:
        return [*link.ports, *([link.options["parent"]] if link.options.get("parent") else [])]

    def _find(self, name: str) -> _Link:
        if name not in self._links:
            raise LinkError(f"Cannot find device {name!r}")
        return self._links[name]

    def _master(self, port: _Link) -> _Link | None:
        return next((link for link in self._links.values() if port.name in link.ports), None)

    def _create(self, row: Mapping[str, Any]) -> None:
        name, kind = row["name"], row["kind"]
        if name in self._links:
            raise LinkError("File exists")
        if not 0 < len(name.encode()) <= _NAME_BYTES_MAX or len(self._links) >= _LINKS_MAX:
            raise LinkError("Numerical result out of range")
        if kind == "VLAN":
            parent = self._find(row["parent"])
            if row["mtu"] > parent.mtu:
                raise LinkError("Numerical result out of range")
            taken = [link.options for link in self._links.values() if link.kind == "VLAN"]
            if any((other["parent"], other["tag"]) == (parent.name, row["tag"]) for other in taken):
                raise LinkError("File exists")
        options = {key: row[key] for key in ("stp", "protocol", "xmit_hash", "lacp_rate", "parent", "tag", "pcp")}
        mac = f"02:00:00:01:00:{len(self._links):02x}"
        self._links[name] = _Link(name, kind, mac, mtu=row["mtu"], description=row["description"], options=options)

    def _delete(self, name: str) -> None:
        link = self._find(name)
        if link.kind == "PHYSICAL":
            raise LinkError("Operation not supported")
        for port in list(link.ports):
            self._leave(self._find(port), link)
        master = self._master(link)
        if master is not None:
            self._leave(link, master)
        del self._links[name]
        for above in [other.name for other in self._links.values() if other.options.get("parent") == name]:
            self._delete(above)

    def _join(self, port: _Link, master: _Link) -> None:
        if self._master(port) is not None or port is master or master.kind not in ("BRIDGE", "LINK_AGGREGATION"):
            raise LinkError("Device or resource busy")
        if master.kind == "LINK_AGGREGATION":
            if port.up:
                raise LinkError("Device can not be enslaved while up.")
            port.own_mtu, port.mtu, port.up = port.mtu, master.mtu, True
        master.ports.append(port.name)

    def _leave(self, port: _Link, master: _Link) -> None:
        if port.name not in master.ports:
            raise LinkError("Invalid argument")
        master.ports.remove(port.name)
        if master.kind == "LINK_AGGREGATION":
            port.mtu, port.up = port.own_mtu, False

    def _set(self, link: _Link, attribute: str, value: Any) -> None:
        match attribute:
            case "up":
                parent = self._links.get(link.options.get("parent", ""))
                if value and parent is not None and not parent.up:
                    raise LinkError("Network is down")
                link.up = value
                if not value:
                    self._take_down_vlans(link.name)
            case "mtu":
                self._set_mtu(link, value)
            case "description":
                link.description = value
            case "stp" | "xmit_hash":
                link.options[attribute] = value
            case _:
                raise LinkError("Operation not supported")

    def _set_mtu(self, link: _Link, mtu: int) -> None:
        parent = self._links.get(link.options.get("parent", ""))
        if not _MTU_MIN <= mtu <= (_MTU_MAX if parent is None else parent.mtu):
            raise LinkError("Numerical result out of range")
        link.mtu = mtu
        for name in link.ports if link.kind == "LINK_AGGREGATION" else ():
            self._links[name].mtu = mtu
        for other in self._links.values():
            if other.options.get("parent") == link.name:
                other.mtu = min(other.mtu, mtu)

    def _take_down_vlans(self, name: str) -> None:
        for other in self._links.values():
            if other.options.get("parent") == name:
                other.up = False
                self._take_down_vlans(other.name)
