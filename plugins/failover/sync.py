"""The pair's configuration on both controllers: whoever leads writes, and the other follows (replication.py).

Nothing that was acknowledged is lost (DESIGN S6). A change is on both controllers, or the one that has it says that the
other is behind; and a store with changes that the leader never saw is kept aside before the leader's replaces it.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from middlewared.alerts import Alerts
from middlewared.errors import EHAUNAVAILABLE, CallError
from middlewared.peer.link import PeerLink
from middlewared.plugins.failover import kept
from middlewared.plugins.failover.facts import Facts
from middlewared.plugins.failover.replication import Replicator
from middlewared.plugins.failover.state import Role
from middlewared.store import changelog
from middlewared.store.database import Store
from middlewared.store.errors import OutOfStep, StoreError
from middlewared.store.image import Data, Image
from middlewared.store.lineage import Position

log = logging.getLogger(__name__)

_ALERT = "failover.sync"


class ConfigSync:
    """Guards writes on the standby, lets the other follow on the leader, and takes over what the leader sends.

    `keep_aside` and `kept_files` may be replaced; they are called in a thread, and raise OSError.
    """

    def __init__(
        self,
        store: Store,
        peer: PeerLink,
        alerts: Alerts,
        mine: Callable[[], Facts],
        other: Callable[[], Facts | None],
        folder: Path,
    ) -> None:
        self._store = store
        self._peer = peer
        self._alerts = alerts
        self._mine = mine
        self._other = other
        self._receiving: set[asyncio.Task[None]] = set()
        self.replicator = Replicator(store, peer, self._leads, self._theirs, self._tell)
        kept_here = kept.Kept(folder)
        self.keep_aside: Callable[[Data, Position], str] = kept_here.keep
        self.kept_files: Callable[[], Sequence[str]] = kept_here.files
        store.guard = self.guard
        store.replicate = self.replicator.replicate

    async def start(self) -> None:
        """Say again what was kept aside before."""
        await self._tell_kept()

    async def stop(self) -> None:
        await self.replicator.stop()
        await asyncio.gather(*self._receiving, return_exceptions=True)

    # ------------------------------------------------------------------------------------------ who may change it

    def guard(self) -> None:
        """Refuse a configuration change that the other controller might never see. Raises CallError (EHAUNAVAILABLE).

        Where there is another controller the MASTER changes it, be they licensed as a pair or not. While neither leads
        node A does, as long as both have the same.
        """
        mine, other = self._mine(), self._other()
        if mine.role is Role.MASTER or not self._peer.paired:
            return
        refusal = self._refusal(mine, other)
        if refusal:
            raise CallError(refusal, EHAUNAVAILABLE)

    def _refusal(self, mine: Facts, other: Facts | None) -> str:
        addresses = ", ".join(_addresses(mine))
        if other is not None and other.role is Role.MASTER:
            return (
                f"This controller ({mine.node}) is the standby: make the change on controller {other.node} "
                f"({other.hostname}), or through a virtual IP: {addresses}."
            )
        if _moving(mine) or (other is not None and _moving(other)):
            return "A failover is running, or a controller is starting: try again shortly."
        if other is None:
            return (
                f"This controller ({mine.node}) does not lead, and cannot reach the other to know whether that one "
                f"does: make the change through a virtual IP ({addresses}); or, if the other is off, let this one lead "
                "first: failover.force_master."
            )
        if mine.node != "A":
            return f"Neither controller leads: make the change on controller {other.node} ({other.hostname})."
        if not self.replicator.is_current and self._theirs() != self._store.position:
            return (
                "Neither controller leads, and their configurations differ: it can be changed when one of them leads. "
                "failover.force_master on one of them makes its configuration the pair's."
            )
        return ""

    # ------------------------------------------------------------------------------------------ to the other

    async def push(self) -> None:
        """Give the other controller our whole configuration, acknowledged. Raises CallError."""
        await self.replicator.push()

    def reconcile(self) -> None:
        """Called on every change of facts: bring an other that differs up to date, in the background.

        The MASTER does. While neither leads the newer configuration wins, so that both agree on who is designated.
        """
        self.replicator.look()

    def _theirs(self) -> Position | None:
        other = self._other()
        return None if other is None else Position(other.epoch, other.position)

    def _leads(self) -> bool:
        """Our configuration is the pair's."""
        mine, other = self._mine(), self._other()
        if mine.role is Role.MASTER:
            return True
        if other is None or _moving(mine) or _moving(other) or other.role is Role.MASTER:
            return False
        return self._store.position > Position(other.epoch, other.position)

    def _tell(self, why: str) -> None:
        """Why the other lacks what a client was told of; "" when it has everything."""
        if not why:
            self._alerts.clear(_ALERT)
            return
        mine = self._mine()
        if mine.licensed and mine.virtual:
            text = (
                f"Configuration changes are not yet on the other controller ({why}); they follow as soon as they can."
            )
            self._alerts.set(_ALERT, "WARNING", text, mine.node)

    # ------------------------------------------------------------------------------------------ from the other

    async def receive_changes(self, data: bytes) -> None:
        """The other's changes, made here too. Raises CallError when we lead, or they do not follow on what is here."""
        entries = changelog.decode(data)
        self._check_follows()
        try:
            await self._store.apply(entries)
        except OutOfStep:
            raise
        except StoreError as error:
            raise CallError(error.message, EHAUNAVAILABLE) from error
        finally:
            self.replicator.forget()

    async def receive(self, image: Data) -> None:
        """The other's configuration replaces ours. Raises CallError when we lead, it does not fit, or what only we have
        could not be kept aside. Once begun it is finished, alerts included, also when the link is lost."""
        task = asyncio.create_task(self._receive(image))
        self._receiving.add(task)
        task.add_done_callback(self._received)
        await asyncio.shield(task)

    async def _receive(self, image: Data) -> None:
        self._check_follows()
        # No await between the check and this call: should a takeover end before the store gets to it, it refuses.
        try:
            await self._store.restore(image, self._keep)
        except StoreError as error:
            raise CallError(error.message, EHAUNAVAILABLE) from error
        finally:
            self.replicator.forget()
            await self._tell_kept()

    def _check_follows(self) -> None:
        mine = self._mine()
        if mine.role is Role.MASTER or (mine.ongoing and not mine.electing):
            raise CallError("This controller leads: its configuration is not overwritten.", EHAUNAVAILABLE)

    def _received(self, task: asyncio.Task[None]) -> None:
        self._receiving.discard(task)
        if not task.cancelled():
            task.exception()  # counts as seen, also when nobody waits any more

    def _keep(self, image: Image) -> None:
        """In the store's thread: nothing changes the store between this and what replaces it."""
        name = self.keep_aside(image.data, image.position)
        log.warning("changes that the other controller never saw are kept in %s", name)

    async def _tell_kept(self) -> None:
        files = await asyncio.to_thread(self.kept_files)
        if files:
            node = self._mine().node
            text = kept.sentence(files, node, "B" if node == "A" else "A")
            self._alerts.set(kept.ALERT, "WARNING", text, node)
        else:
            self._alerts.clear(kept.ALERT)


def _moving(facts: Facts) -> bool:
    """Who leads is being decided, or not yet found out."""
    return facts.ongoing or facts.role is Role.BOOTING


def _addresses(facts: Facts) -> list[str]:
    return [address.split("/")[0] for interface in facts.interfaces for address in interface.virtual_addresses] or [
        "none configured"
    ]
