"""Commit, check in, go back: from what is staged to what both controllers follow."""

import errno
import time
from collections.abc import Callable

from middlewared.errors import CallError
from middlewared.plugin import Context
from middlewared.plugins.interface import generations, rules
from middlewared.plugins.interface.applier import Applier
from middlewared.plugins.interface.config import read_configs
from middlewared.store.database import Transaction

_PEER_TIMEOUT_S = 30.0


class Commits:
    def __init__(self, context: Context, applier: Applier, *, wall_s: Callable[[], float] = time.time) -> None:
        self._context = context
        self._applier = applier
        self._wall_s = wall_s

    async def commit(self, *, rollback: bool, timeout_s: int) -> None:
        """Make what is staged hold, on both controllers or on none. CallError says what stands in the way, or failed.

        Also without `rollback` there is a deadline until both have done it: a daemon that dies meanwhile goes back.
        """
        deadline_ms = int(self._wall_s() * 1000) + timeout_s * 1000

        def change(transaction: Transaction) -> None:
            self._check(transaction)
            generations.commit(transaction, deadline_ms)

        await self._context.store.write(change)
        failure = await self._settle_both()
        if failure:
            await self._context.store.write(lambda transaction: generations.go_back(transaction, keep_staged=True))
            await self._settle_both()
            raise CallError(f"Nothing was changed, the commit failed: {failure}", errno.EIO)
        if not rollback:
            await self.check_in()

    async def check_in(self) -> None:
        """The last commit stays. Nothing happens when none waits."""
        await self._context.store.write(generations.check_in)

    async def go_back(self) -> None:
        """Forget what is staged, and undo the last commit if it was not checked in. Raises CallError."""

        def change(transaction: Transaction) -> None:
            generations.go_back(transaction)
            generations.discard(transaction)

        await self._context.store.write(change)
        failure = await self._settle_both()
        if failure:
            raise CallError(f"The network could not go back to what it was: {failure}", errno.EIO)

    def _check(self, transaction: Transaction) -> None:
        now = generations.read(transaction.execute)
        if now.previous is not None:
            raise CallError(
                "The last commit still waits to be confirmed: call interface.checkin, or interface.rollback",
                errno.EBUSY,
            )
        if now.staged is None:
            raise CallError("There are no changes to commit", errno.ENOENT)
        names = rules.critical_touched(now.committed, now.staged, read_configs(transaction.execute))
        disabled = transaction.execute("SELECT disabled FROM failover_config WHERE id = 1")[0]["disabled"]
        licensed = self._context.ports.platform.identity().licensed
        if names and licensed and self._context.peer.paired and not disabled:
            raise CallError(
                f"The change would interrupt {', '.join(names)}, and a failover might follow. First disable failover: "
                "system failover control action=DISABLE options={}",
                errno.EBUSY,
            )

    async def _settle_both(self) -> str:
        """Why it failed, or an empty sentence. A standby that is not connected follows when it gets the store."""
        failure = await self._applier.settle()
        if failure or not self._context.peer.connected:
            return failure
        other = self._context.settings.other_node
        try:
            failure = await self._context.peer.call("interface.settle", [], timeout_s=_PEER_TIMEOUT_S)
        except CallError as error:
            return f"controller {other}: {error.message}"
        return f"controller {other}: {failure}" if failure else ""
