"""`failover.sync_to_peer` and `failover.sync_from_peer`: everything that makes the other controller this one's equal.

All or nothing: files are brought over and wait there, then the configuration goes whole, and only then are the files
put in place, all at once. What fails before leaves the other as it was; doing it again does no harm.
"""

import asyncio
import dataclasses
import errno
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from middlewared.auth.identity import NODE
from middlewared.errors import EHAUNAVAILABLE, CallError
from middlewared.jobs import Job
from middlewared.peer.transfers import Sent
from middlewared.plugin import Call, Context
from middlewared.plugins.failover.belongings import INBOX, Belongings, Entry, entries_of
from middlewared.plugins.failover.controller import FailoverController
from middlewared.plugins.failover.remote import mirror
from middlewared.plugins.failover.state import Role

_TIMEOUT_S = 86_400.0  # of the whole on the other controller, whose steps have their own
_LOCK = "failover.sync"
_REBOOT_CAUSE = "configuration was synced from the other controller"

Report = Callable[[float, str], None]  # percent, what is done


class PairSync:
    """`files` None: no files belong to the pair."""

    def __init__(self, context: Context, controller: FailoverController, files: Belongings | None) -> None:
        self._context = context
        self._controller = controller
        self._files = files

    async def start(self) -> None:
        if self._files is not None:
            await asyncio.to_thread(self._files.recover)
            self._context.peer.transfers.inboxes[INBOX] = self._files.inbox

    # ------------------------------------------------------------------------------------------ jobs

    async def to_peer(self, call: Call, *, reboot: bool) -> None:
        """As a job in the history, waited for. Raises CallError."""
        self._refuse_stale_source(mine=True)

        async def work(job: Job) -> None:
            await self.push(job.set_progress, reboot=reboot)

        await self._as_job(call, "failover.sync_to_peer", work, lock=_LOCK)

    async def from_peer(self, call: Call) -> None:
        self._refuse_stale_source(mine=False)
        if self._controller.mine().role is Role.MASTER:
            return  # what is here is what the other has to have: nothing to fetch

        async def work(job: Job) -> None:
            await self._context.peer.call(
                "failover.sync",
                [{"reboot": False}],
                timeout_s=_TIMEOUT_S,
                on_progress=lambda progress: mirror(job, progress),
            )

        await self._as_job(call, "failover.sync_from_peer", work, lock=f"{_LOCK}_from_peer")

    async def _as_job(self, call: Call, name: str, work: Callable[[Job], Any], *, lock: str) -> None:
        """The caller gets what the work raises, and the work goes on without a caller."""
        await self._context.jobs.start(name, work, credential=call.credential, lock=lock).wait()

    # ------------------------------------------------------------------------------------------ the work

    async def push(self, report: Report, *, reboot: bool) -> None:
        """Raises CallError."""
        self._refuse_stale_source(mine=True)
        report(0, "Comparing files")
        entries = await self._bring(report)
        report(60, "Copying the configuration")
        await self._controller.sync.push()
        peer = self._context.peer
        if entries:
            report(80, "Putting files in place")
            await peer.call("failover.files_put", [_rows(entries)], timeout_s=120)
        report(90, "Handing over the keys of encrypted datasets")
        await self._context.call("pool.dataset.push_keys")
        if reboot:
            report(95, "Rebooting the other controller")
            await peer.call("system.reboot", [_REBOOT_CAUSE, {}])
        report(100, "Done")

    async def _bring(self, report: Report) -> list[Entry]:
        """The files that the other lacks wait there when this returns: what is to be put in place."""
        if self._files is None:
            return []
        found = await asyncio.to_thread(self._files.here)
        if not found:
            return []
        wanted = set(await self._context.peer.call("failover.files_wanted", [_rows([entry for entry, _ in found])]))
        lacking = [(entry, path) for entry, path in found if entry.name in wanted]
        whole_bytes = sum(entry.size_bytes for entry, _ in lacking) or 1
        before_bytes = 0
        for entry, path in lacking:
            await self._send(entry, path, report, before_bytes, whole_bytes)
            before_bytes += entry.size_bytes
        return [entry for entry, _ in lacking]

    async def _send(self, entry: Entry, path: Path, report: Report, before_bytes: int, whole_bytes: int) -> None:
        def tell(sent: Sent) -> None:
            percent = 5 + 55 * (before_bytes + sent.sent_bytes) / whole_bytes
            report(percent, f"Sending {entry.name} at {sent.bytes_per_s / 1e6:.0f} MB/s")

        await self._context.peer.transfers.send(path, INBOX, entry.sha256, sha256=entry.sha256, on_progress=tell)

    # ------------------------------------------------------------------------------------------ the other's half

    async def wanted(self, call: Call, rows: Sequence[dict[str, Any]]) -> list[str]:
        files = self._receiving(call)
        return await asyncio.to_thread(files.missing, entries_of(rows))

    async def put(self, call: Call, rows: Sequence[dict[str, Any]]) -> None:
        """Once begun it is finished, also when the caller has gone."""
        files = self._receiving(call)
        await asyncio.shield(asyncio.to_thread(files.install, entries_of(rows)))

    def _receiving(self, call: Call) -> Belongings:
        if call.credential != NODE:
            raise CallError("Only the other controller hands files over", errno.EACCES)
        if self._files is None:
            raise CallError("No files belong to the pair on this controller", errno.EPERM)
        if self._controller.mine().role is Role.MASTER:
            raise CallError("This controller leads: its files are not overwritten.", EHAUNAVAILABLE)
        return self._files

    def _refuse_stale_source(self, *, mine: bool) -> None:
        """Never overwrite the leader's newer configuration with the standby's older one."""
        controller = self._controller
        facts, other = controller.mine(), controller.other
        if other is None:
            raise CallError("The other controller cannot be reached over the heartbeat link.", errno.ECONNREFUSED)
        source, target = (facts, other) if mine else (other, facts)
        if target.role is Role.MASTER and (source.epoch, source.position) != (target.epoch, target.position):
            raise CallError(
                f"Controller {target.node} leads and has newer configuration than {source.node}: "
                "that copy would lose changes. Sync in the other direction.",
                errno.EBUSY,
            )


def _rows(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    return [dataclasses.asdict(entry) for entry in entries]
