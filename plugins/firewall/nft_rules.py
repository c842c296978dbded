"""The packet filter's rules as nft(8) reads and shows them. Pure.

One chain in a table of our own, its rules replaced in one transaction: there is no moment between old and new.

    table inet middlewared {
        chain virtual {
            type filter hook prerouting priority raw; policy accept;
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
from collections.abc import Iterable, Sequence
from typing import Any

TABLE = "middlewared"
_CHAIN = "virtual"
_OPEN = "traffic is let in"  # the comment of the only rule of a chain that keeps nothing out


def render(addresses: Iterable[str], *, is_open: bool) -> str:
    """What `nft -f -` reads: one transaction. `addresses` may have a prefix length. Raises ValueError for nonsense."""
    found = sorted({ipaddress.ip_interface(address).ip for address in addresses}, key=lambda one: (one.version, one))
    rules = [f'counter comment "{_OPEN}"'] if is_open else _drops(list(map(str, found)))
    chain = f"inet {TABLE} {_CHAIN}"
    # Emptied and filled, not deleted and made: that would cost the kernel several milliseconds more.
    return "\n".join(
        [
            f"add table inet {TABLE}",
            f"add chain {chain} {{ type filter hook prerouting priority raw; policy accept; }}",
            f"flush chain {chain}",
            *(f"add rule {chain} {rule}" for rule in rules),
            "",
        ]
    )


def _drops(addresses: Sequence[str]) -> list[str]:
    old = [address for address in addresses if ":" not in address]
    new = [address for address in addresses if ":" in address]
    rules = [f"ip daddr {{ {', '.join(old)} }} drop"] if old else []
    if new:
        rules.append("icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept")
        rules.append(f"ip6 daddr {{ {', '.join(new)} }} drop")
    return rules


def is_open(shown: str) -> bool:
    """What `nft -j list table` shows lets traffic in. Raises ValueError when it is not such a listing."""
    try:
        items: list[dict[str, Any]] = json.loads(shown)["nftables"]
        return any(item["rule"].get("comment") == _OPEN for item in items if "rule" in item)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"nft's listing lacks {error}") from error
