"""Disks that are gone for good: neither controller sees them any more, so that the keeper need not count them.

Until then the keeper counts a disk that has vanished as one that a takeover would miss, since it may be its own cable
that is out, and the MASTER may be writing to that disk.
"""

import asyncio
import logging
from collections.abc import Collection, Sequence

from middlewared.plugins.failover.facts import Facts
from middlewared.plugins.failover.state import Role
from middlewared.ports import Pool, PortError, Ports

log = logging.getLogger(__name__)

GONE_MS = 3_000  # a disk is gone that nobody has seen for so long: a shelf whose expander restarts is back before


def gone(
    mine: Facts, other: Facts | None, failed: Collection[str], visible: Collection[str], pools: Sequence[Pool]
) -> frozenset[str]:
    """Serials of the disks that the keeper misses here and that neither controller sees; empty unless one of the two
    leads without them and the other stands by, or neither has anything imported.

    `failed`: what the keeper misses; `visible`: what this machine sees, working or not; `pools`: its own. Where the
    other leads, it goes first: it alone knows whether its pools are suspended for want of the disks.
    """
    if other is None or not (_sees(mine) and _sees(other)):
        return frozenset()
    if Role.MASTER in (mine.role, other.role):
        leader, standby = (mine, other) if mine.role is Role.MASTER else (other, mine)
        suspended = any(pool.suspended for pool in pools) if leader is mine else leader.too_few_disks
        fit = _leads(leader) and standby.role is Role.BACKUP and not suspended
    else:
        fit = _rests(mine) and _rests(other)
    return frozenset(failed) - frozenset(visible) - frozenset(other.disks) if fit else frozenset()


def _sees(facts: Facts) -> bool:
    """What it says of the disks can be believed."""
    return facts.ready and facts.fence_running and bool(facts.disks)


def _leads(facts: Facts) -> bool:
    return facts.fence_held and bool(facts.pools) and all(pool.imported for pool in facts.pools)


def _rests(facts: Facts) -> bool:
    return (facts.role in (Role.BACKUP, Role.ERROR) or facts.electing) and not facts.imported and not facts.fence_held


class Gone:
    """Tells the keeper, once they were gone for GONE_MS; again, as long as it does not listen."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self._serials: frozenset[str] = frozenset()
        self._timer: asyncio.TimerHandle | None = None
        self._telling: asyncio.Task[None] | None = None

    def look(self, mine: Facts, other: Facts | None, pools: Sequence[Pool]) -> None:
        """After each change of anybody's facts."""
        visible = {disk.serial for disk in self._ports.disks.disks()}
        serials = gone(mine, other, self._ports.fencing.state().disks_failed, visible, pools)
        if serials != self._serials:
            self._serials = serials
            self._wait()

    async def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._telling is not None:
            self._telling.cancel()
            await asyncio.gather(self._telling, return_exceptions=True)

    def _wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._serials:
            self._timer = asyncio.get_running_loop().call_later(GONE_MS / 1000, self._begin)

    def _begin(self) -> None:
        if self._telling is None or self._telling.done():
            self._telling = asyncio.create_task(self._tell(self._serials))
        self._wait()

    async def _tell(self, serials: frozenset[str]) -> None:
        try:
            await self._ports.fencing.forget(sorted(serials))
        except PortError as error:
            log.warning("the keeper still counts %s: %s", ", ".join(sorted(serials)), error)
