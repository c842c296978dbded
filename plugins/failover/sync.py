"""The pair's configuration on both controllers: whoever leads writes, and pushes what it wrote to the other."""

import asyncio
import logging
from collections.abc import Callable

from middlewared.alerts import Alerts
from middlewared.errors import EHAUNAVAILABLE, CallError
from middlewared.peer.link import PeerLink
from middlewared.plugins.failover.facts import Facts
from middlewared.plugins.failover.state import Role
from middlewared.store.database import Position, Store, StoreError

log = logging.getLogger(__name__)

_PUSH_TIMEOUT_S = 10.0
_RETRY_MS = 1000
_ALERT = "failover.sync"


class ConfigSync:
    """Guards writes on the standby, pushes the store from the leader, and knows whether the other is behind."""

    def __init__(
        self, store: Store, peer: PeerLink, alerts: Alerts, mine: Callable[[], Facts], other: Callable[[], Facts | None]
    ) -> None:
        self._store = store
        self._peer = peer
        self._alerts = alerts
        self._mine = mine
        self._other = other
        self._pushing = asyncio.Lock()
        self._reconciling: asyncio.Task[None] | None = None
        self._acknowledged: Position | None = None  # what the other is known to have
        store.guard = self.guard
        store.replicate = self._replicate

    def guard(self) -> None:
        """Refuse a configuration change here when the other controller leads. Raises CallError (EHAUNAVAILABLE)."""
        mine, other = self._mine(), self._other()
        if not mine.licensed or not mine.virtual or mine.role is Role.MASTER:
            return
        if other is not None and other.role is Role.MASTER:
            raise CallError(
                f"This controller ({mine.node}) is the standby: make the change on controller {other.node} "
                f"({other.hostname}), or through a virtual IP: {', '.join(_addresses(mine))}.",
                EHAUNAVAILABLE,
            )
        if mine.ongoing or (other is not None and other.ongoing):
            raise CallError("A failover is running: try again when it is over.", EHAUNAVAILABLE)
        if mine.rival_moving:
            raise CallError(
                f"The other controller leads but cannot be reached from here: make the change through a virtual IP: "
                f"{', '.join(_addresses(mine))}.",
                EHAUNAVAILABLE,
            )

    async def push(self) -> None:
        """Give the other controller our whole configuration, acknowledged. Raises CallError."""
        async with self._pushing:
            image = await self._store.snapshot()
            position = self._store.position
            await self._peer.send_snapshot(image, timeout_s=_PUSH_TIMEOUT_S)
            self._acknowledged = position

    async def receive(self, image: bytes) -> None:
        """The other's configuration replaces ours. Raises CallError when we lead, or it does not fit."""
        mine = self._mine()
        if mine.role is Role.MASTER or (mine.ongoing and not mine.electing):
            raise CallError("This controller leads: its configuration is not overwritten.", EHAUNAVAILABLE)
        try:
            await self._store.restore(image)
        except StoreError as error:
            raise CallError(str(error), EHAUNAVAILABLE) from error

    def reconcile(self) -> None:
        """Called on every change of facts: as MASTER, bring an other that differs up to date, in the background."""
        other = self._other()
        if other is None or self._mine().role is not Role.MASTER:
            return
        theirs = Position(other.epoch, other.position)
        if theirs == self._store.position:
            self._acknowledged = theirs
            self._alerts.clear(_ALERT)
        elif self._reconciling is None or self._reconciling.done():
            self._reconciling = asyncio.create_task(self._catch_up())

    async def stop(self) -> None:
        if self._reconciling is not None:
            self._reconciling.cancel()
            await asyncio.gather(self._reconciling, return_exceptions=True)

    @property
    def other_is_current(self) -> bool:
        """The other has acknowledged everything that we have."""
        return self._acknowledged == self._store.position

    async def _replicate(self) -> None:
        """After a local write: on the other too before the client hears of it, or known to be behind (DESIGN S6)."""
        if self._peer.connected:
            try:
                await self.push()
                return
            except CallError as error:
                log.warning("the change is not on the other controller: %s", error)
        self._say_behind()

    async def _catch_up(self) -> None:
        while self._mine().role is Role.MASTER and self._peer.connected and not self.other_is_current:
            try:
                await self.push()
                self._alerts.clear(_ALERT)
                return
            except CallError as error:
                log.warning("the other controller's configuration stays behind: %s", error)
                self._say_behind()
                await asyncio.sleep(_RETRY_MS / 1000)

    def _say_behind(self) -> None:
        mine = self._mine()
        if mine.licensed and mine.virtual:
            text = "Configuration changes are not yet on the other controller; they follow when it is reachable."
            self._alerts.set(_ALERT, "WARNING", text, mine.node)


def _addresses(facts: Facts) -> list[str]:
    return [address.split("/")[0] for interface in facts.interfaces for address in interface.virtual_addresses] or [
        "none configured"
    ]
