"""Makes this controller's interfaces follow the store: after a commit, at its deadline, and when the daemon starts."""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from middlewared.errors import CallError
from middlewared.plugin import Context
from middlewared.plugins.interface import generations
from middlewared.plugins.interface.config import bare, read_configs
from middlewared.plugins.interface.generations import Generations
from middlewared.plugins.interface.links import new_originals, on_node, used_physical
from middlewared.plugins.interface.record import Record, RecordFile
from middlewared.ports import LinkConfig, PortError
from middlewared.store.database import Transaction

log = logging.getLogger(__name__)

T = TypeVar("T")

CHECKIN_TIMEOUT_S_MAX = 3600
_RETRY_S = 5.0
_START_TIMEOUT_S = 10.0  # well within what a plugin has to start
_ALERT_WAITING = "interface.checkin"
_ALERT_FAILED = "interface.apply"


class Applier:
    """One controller's. `settle` may be called by anybody, at any time; one runs at a time."""

    def __init__(
        self,
        context: Context,
        *,
        wall_s: Callable[[], float] = time.time,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._context = context
        self._node = context.settings.node
        self._wall_s = wall_s
        self._clock_s = clock_s
        self._file = RecordFile(Path(context.settings.state_dir) / "interfaces.json")
        self._record: Record | None = None
        self._applied: list[LinkConfig] | None = None  # None: not known, look at the interfaces
        self._failed: tuple[list[LinkConfig], str] | None = None  # what was tried last, and why it failed
        self._turn = asyncio.Lock()
        self._news = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._due: tuple[int, float] | None = None  # the deadline, and when it is by the clock that nobody sets

    async def start(self) -> None:
        """Follow the store from now on. What fails is an alert, never an error: the daemon has more to do."""
        self._context.store.on_commit(self._on_commit)
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                await self.settle()
        except TimeoutError:
            log.error("the interfaces are not configured after %.0f s: the daemon starts without", _START_TIMEOUT_S)
            self._news.set()
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def stop(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

    def waiting_s(self) -> int | None:
        """Whole seconds until the last commit is undone; None when none waits to be checked in."""
        left_s = self._left_s(self._read())
        return None if left_s is None else max(0, round(left_s))

    async def settle(self, *, again: bool = False) -> str:
        """Make the interfaces as the store has them now; why that failed, a sentence, or an empty one.

        What failed before is tried again only if `again`.
        """
        async with self._turn:
            now = self._read()
            left_s = self._left_s(now)
            overdue = left_s is not None and left_s <= 0
            if overdue:
                log.warning("nobody checked in: the network goes back to what it was before the last commit")
            try:
                await self._follow(now, overdue=overdue, again=again)
                self._context.alerts.clear(_ALERT_FAILED)
                failure = ""
            except PortError as error:
                failure = str(error)
                text = f"The network configuration could not be applied here: {failure}"
                self._context.alerts.set(_ALERT_FAILED, "ERROR", text, self._node)
        if overdue:
            await self._write_back()
        self._tell_waiting(now, overdue=overdue)
        return failure

    # ------------------------------------------------------------------------------------------ following

    async def _follow(self, now: Generations, *, overdue: bool, again: bool) -> None:
        links = now.effective(overdue=overdue)
        record = await self._load()
        if not links and not record.owned and not record.originals:
            return  # nothing of this machine's network was ever ours
        port = self._context.ports.interfaces
        originals = record.originals
        fresh = used_physical(links) - {config.name for config in originals}
        if fresh:
            configs = read_configs(self._context.store.query).values()
            virtual = {bare(address) for config in configs for address in config.virtual_addresses}
            originals = new_originals(links, await port.present(), originals, virtual)
        wanted = on_node(links, self._node, originals)
        if wanted == self._applied:
            return
        if self._failed is not None and self._failed[0] == wanted and not again:
            raise PortError(self._failed[1])
        owned = (*record.owned, *(config for config in (*originals, *wanted) if config not in record.owned))
        await self._save(Record(originals, owned))  # before the first change: no crash may make it forget what is ours
        self._applied = None
        try:
            await port.apply(wanted, owned)
        except PortError as error:
            self._failed = (wanted, str(error))
            raise
        self._failed = None
        still = used_physical(links)
        kept = tuple(config for config in originals if config.name in still)
        ours = tuple(config for config in wanted if config.kind != "PHYSICAL" or config.name in still)
        await self._save(Record(kept, ours))
        self._applied = wanted

    async def _load(self) -> Record:
        if self._record is None:
            self._record = await _on_disk(self._file.load)
        return self._record

    async def _save(self, record: Record) -> None:
        if record != self._record:
            await _on_disk(lambda: self._file.save(record))
            self._record = record

    async def _write_back(self) -> None:
        """Whoever may write the store says that it went back; the other sees it there, or knows by its own clock."""

        def change(transaction: Transaction) -> None:
            seen = generations.read(transaction.execute)
            if seen.previous is not None and self._due is not None and seen.deadline_ms == self._due[0]:
                generations.go_back(transaction)

        try:
            await self._context.store.write(change)
        except CallError as error:
            log.info("the store still has the commit that was undone: %s", error)

    # ------------------------------------------------------------------------------------------ the deadline

    def _read(self) -> Generations:
        return generations.read(self._context.store.query)

    def _left_s(self, now: Generations) -> float | None:
        """Seconds until the deadline. It is put on the monotonic clock when it is first seen: setting the wall clock
        meanwhile neither hastens nor delays it."""
        if now.deadline_ms is None:
            self._due = None
            return None
        now_s = self._clock_s()
        if self._due is None or self._due[0] != now.deadline_ms:
            left_s = min(now.deadline_ms / 1000 - self._wall_s(), CHECKIN_TIMEOUT_S_MAX)
            self._due = (now.deadline_ms, now_s + left_s)
        return self._due[1] - now_s

    def _tell_waiting(self, now: Generations, *, overdue: bool) -> None:
        alerts = self._context.alerts
        if now.previous is None or overdue:
            alerts.clear(_ALERT_WAITING)
            return
        text = "A change of the network waits to be confirmed, and is undone otherwise: call interface.checkin."
        alerts.set(_ALERT_WAITING, "NOTICE", text, self._node)

    def _on_commit(self, tables: frozenset[str]) -> None:
        if "interface_links" in tables:
            self._news.set()

    async def _watch(self) -> None:
        while True:
            again = False
            try:
                async with asyncio.timeout(self._pause_s()):
                    await self._news.wait()
            except TimeoutError:
                again = True
            self._news.clear()
            try:
                await self.settle(again=again)
            except Exception:
                log.exception("the interfaces do not follow the configuration")
                await asyncio.sleep(_RETRY_S)

    def _pause_s(self) -> float | None:
        """How long nothing has to be done unless the store changes."""
        left_s = self._left_s(self._read())
        if left_s is not None and left_s <= 0:
            left_s = _RETRY_S  # done here, but the store does not say so yet
        if self._failed is not None:
            left_s = min(_RETRY_S, left_s or _RETRY_S)
        return left_s


async def _on_disk(work: Callable[[], T]) -> T:
    try:
        return await asyncio.to_thread(work)
    except OSError as error:
        raise PortError(f"what was done to the interfaces cannot be written down: {error}") from error
