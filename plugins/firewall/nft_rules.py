"""The packet filter's rules as nft(8) reads and shows them. Pure.

A table of our own, changed in one transaction each, so that there is no moment between old and new rules:

    table inet middlewared {
        set open { type nf_proto; elements = { ipv4, ipv6 } }         while traffic is let in; else empty
        chain virtual {
            type filter hook prerouting priority raw; policy accept;
            meta nfproto @open accept
            ip daddr { 192.0.2.10 } drop
            icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
            ip6 daddr { 2001:db8::10 } drop
        }
    }

The hook is before connection tracking: what was established is kept out, too, and no entry of it is left over. ARP is
no matter of this family, and neighbour discovery (RFC 4861) passes, so that addresses can be announced and resolved
while their traffic is kept out. VRRP is sent to a group or to the controllers' own addresses.
"""

import ipaddress
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

TABLE = "middlewared"
_SET = f"inet {TABLE} open"
_CHAIN = f"inet {TABLE} virtual"
_TABLE = (f"add table inet {TABLE}", f"add set {_SET} {{ type nf_proto; }}")
_FRAME = (*_TABLE, f"add chain {_CHAIN} {{ type filter hook prerouting priority raw; policy accept; }}")


def guarding(addresses: Iterable[str]) -> str:
    """What `nft -f -` reads to guard these addresses (a prefix length is ignored); open stays open, blocked blocked.

    Raises ValueError for what is no address.
    """
    found = sorted({ipaddress.ip_interface(address).ip for address in addresses}, key=lambda one: (one.version, one))
    old = ", ".join(str(one) for one in found if one.version == 4)
    new = ", ".join(str(one) for one in found if one.version == 6)
    rules = ["meta nfproto @open accept"]
    if old:
        rules.append(f"ip daddr {{ {old} }} drop")
    if new:
        rules.append("icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept")
        rules.append(f"ip6 daddr {{ {new} }} drop")
    return _script(*_FRAME, f"flush chain {_CHAIN}", *(f"add rule {_CHAIN} {rule}" for rule in rules))


def blocking(addresses: Iterable[str]) -> str:
    """To guard these addresses, and to keep their traffic out. Raises ValueError."""
    return guarding(addresses) + _script(f"flush set {_SET}")


def allowing() -> str:
    """To let traffic in."""
    return _script(*_TABLE, f"add element {_SET} {{ ipv4, ipv6 }}")


@dataclass(frozen=True, slots=True)
class Shown:
    """What the kernel has of the table: traffic is let in; the chain is there; how many rules are in it."""

    is_open: bool
    chain: bool
    rules: int

    def guards(self, addresses: Iterable[str]) -> bool:
        """Nobody has removed anything. Raises ValueError for what is no address."""
        return self.chain and self.rules >= guarding(addresses).count("add rule")


def shown(listing: str) -> Shown:
    """Out of `nft -j list table`. Raises ValueError when it is not such a listing."""
    try:
        items: list[dict[str, Any]] = json.loads(listing)["nftables"]
        sets = [item["set"] for item in items if "set" in item]
        return Shown(
            is_open=any(one["name"] == "open" and bool(one.get("elem")) for one in sets),
            chain=any(item["chain"]["name"] == "virtual" for item in items if "chain" in item),
            rules=sum(item["rule"]["chain"] == "virtual" for item in items if "rule" in item),
        )
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"nft's listing lacks {error}") from error


def _script(*lines: str) -> str:
    return "".join(f"{line}\n" for line in lines)
