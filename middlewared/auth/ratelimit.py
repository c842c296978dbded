"""Who does something too often within a minute has to wait: fail to log in, or call without a login."""

import errno
import ipaddress
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from middlewared.errors import CallError

WINDOW_S = 60
ADDRESSES_MAX = 4096
IPV6_SITE_BITS = 64  # one site holds at least a /64: its addresses count as one


class MinuteLimiter:
    """Counts by address over the last minute. Memory is bounded: the addresses quiet for longest are forgotten."""

    def __init__(
        self,
        per_minute_max: int,
        clock_s: Callable[[], float] = time.monotonic,
        *,
        refusal: str = "Too many failed logins from this address; wait a minute",
    ) -> None:
        self._max = per_minute_max
        self._clock_s = clock_s
        self._refusal = refusal
        self._counted: OrderedDict[str, deque[float]] = OrderedDict()

    def check(self, address: str, underway: int = 0) -> None:
        """Raise EBUSY if `address` has used up its minute; what is still `underway` counts already."""
        if self._recent(limit_key(address)) + underway >= self._max:
            raise CallError(self._refusal, errno.EBUSY)

    def count(self, address: str) -> None:
        key = limit_key(address)
        times = self._counted.setdefault(key, deque(maxlen=self._max))
        times.append(self._clock_s())
        self._counted.move_to_end(key)
        if len(self._counted) > ADDRESSES_MAX:
            self._counted.popitem(last=False)

    def _recent(self, key: str) -> int:
        times = self._counted.get(key)
        if times is None:
            return 0
        horizon_s = self._clock_s() - WINDOW_S
        while times and times[0] <= horizon_s:
            times.popleft()
        if not times:
            del self._counted[key]
        return len(times)


def limit_key(address: str) -> str:
    """What counts as one place: an IPv4 address, an IPv6 /64, or the text itself."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, IPV6_SITE_BITS), strict=False))
    return str(parsed)
