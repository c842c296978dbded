"""Does the work of the engine's phases through the ports; reports how it ended and decides nothing."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import groupby

from middlewared.alerts import Alerts
from middlewared.errors import CallError
from middlewared.peer.link import PeerLink
from middlewared.plugins.failover.events import Done
from middlewared.plugins.failover.state import Phase
from middlewared.plugins.failover.unfinished import Unfinished
from middlewared.ports import FenceCode, NotYet, Pool, PortError, Ports
from middlewared.store.database import Store

log = logging.getLogger(__name__)

_HAND_OVER_TIMEOUT_S = 40.0  # a little less than Limits.ask_ms: the other's answer should win
_ASK_AGAIN_S = 0.1
_ORDERS = "SELECT name, start_order FROM service_config"


class Worker:
    """One coroutine a phase. A failure is a sentence in Done, never an exception.

    `services_ms`: the deadline of STARTING and STOPPING, of which each group of services gets its share. `unfinished`
    outlives this daemon.
    """

    def __init__(
        self,
        node: str,
        ports: Ports,
        store: Store,
        peer: PeerLink,
        alerts: Alerts,
        services_ms: int,
        unfinished: Unfinished,
    ) -> None:
        self.unfinished = unfinished
        self.found_none = False  # when it last looked for pools to import
        self._node = node
        self._ports = ports
        self._store = store
        self._peer = peer
        self._alerts = alerts
        self._services_ms = services_ms
        self._later: asyncio.Task[None] | None = None  # starts what is not critical
        self._phases: dict[Phase, Callable[[], Awaitable[str]]] = {
            Phase.ASKING: self._ask,
            Phase.IMPORTING: self._import,
            Phase.STARTING: self._start_services,
            Phase.OPENING: self._open,
            Phase.CLOSING: self._close,
            Phase.STOPPING: self._stop_services,
            Phase.EXPORTING: self._export,
            Phase.VERIFYING: self._verify,
            Phase.RELEASING: self._release,
        }

    async def perform(self, op: int, phase: Phase, *, forced: bool) -> Done:
        """Do it. `ok` is False with a sentence in `detail` when it failed."""
        try:
            if phase is Phase.FENCING:
                result = await self._ports.fencing.acquire(force=forced)
                return Done(op, result.code is FenceCode.OK, result.message, result.code)
            trouble = await self._phases[phase]()
        except (PortError, CallError) as error:
            trouble = str(error)
        except Exception as error:
            log.exception("%s broke", phase)
            trouble = f"{phase} broke: {error!r}"
        return Done(op, not trouble, trouble)

    async def _ask(self) -> str:
        await self._peer.call("failover.become_passive", [], timeout_s=_HAND_OVER_TIMEOUT_S, connect_timeout_s=2.0)
        return ""

    async def _import(self) -> str:
        """All pools at once. One that fails is an alert as long as another comes up."""
        if self.found_none:
            await self._stop_services()  # those that run began without a pool, and would not notice one
        pools = await _settled(self._ports.pools.pools)
        self.found_none = not pools
        wanted = [pool for pool in pools if not pool.imported]
        failures = await _all((pool.name, self._ports.pools.import_pool(pool.guid)) for pool in wanted)
        self._alerts.clear_except("failover.import.", [f"failover.import.{name}" for name in failures])
        for name, why in failures.items():
            text = f"Pool {name} could not be imported during the failover: {why}"
            self._alerts.set(f"failover.import.{name}", "CRITICAL", text, self._node)
        return _sentence(failures) if wanted and len(failures) == len(pools) else ""

    async def _start_services(self) -> str:
        """The critical ones, before traffic is let in."""
        failures = await self._start(critical=True)
        self._alerts.clear_except("failover.service.", [f"failover.service.{name}" for name in failures])
        return _sentence(failures)

    async def _start(self, *, critical: bool) -> dict[str, str]:
        rows = self._store.query(
            f"{_ORDERS} WHERE enabled = 1 AND critical = ? ORDER BY start_order, name", (int(critical),)
        )
        orders = {row["name"]: row["start_order"] for row in rows}
        failures = await self._in_order(list(orders), orders, self._ports.services.start)
        for name, why in failures.items():
            text = f"Service {name} did not start during the failover: {why}"
            self._alerts.set(f"failover.service.{name}", "CRITICAL" if critical else "WARNING", text, self._node)
        return failures

    async def _in_order(
        self, names: Sequence[str], orders: dict[str, int], act: Callable[[str], Awaitable[None]]
    ) -> dict[str, str]:
        """Those of the same order at once, group by group. One that hangs takes its group's share of the phase's
        deadline, never another's; what is left belongs to the last group, and its end is the engine's affair."""
        groups = [list(group) for _, group in groupby(names, lambda name: orders.get(name, 0))]
        failures: dict[str, str] = {}
        for number, group in enumerate(groups, start=1):
            limit_ms = self._services_ms // len(groups) if number < len(groups) else None
            failures |= await _all((name, _within(limit_ms, act(name))) for name in group)
        return failures

    async def _open(self) -> str:
        """Not on the strength of what was taken a while ago: the services may have needed minutes to start."""
        if not await self._held():
            return "the reservations on the disks were lost meanwhile"
        self.unfinished.note()
        await self._ports.firewall.allow()
        self._later = asyncio.create_task(self._start_the_rest())
        return ""

    async def _held(self) -> bool:
        """A keeper that is being restarted is waited for; the deadline of the phase ends that."""
        while True:
            try:
                return await self._ports.fencing.held()
            except PortError as error:
                log.info("before traffic is let in: %s", error)
                await asyncio.sleep(_ASK_AGAIN_S)

    def go_on(self) -> None:
        """In a daemon that was restarted on a MASTER: what the former one had yet to start."""
        if self.unfinished.noted:
            self._later = asyncio.create_task(self._start_the_rest())

    async def _start_the_rest(self) -> None:
        try:
            await self._start(critical=False)
        except Exception:
            log.exception("services that are not critical were not started")
        self.unfinished.strike()

    async def stop(self) -> None:
        """Start nothing more; what is under way at the service manager goes on, what is not is the next daemon's."""
        if self._later is not None:
            self._later.cancel()
            await asyncio.gather(self._later, return_exceptions=True)
            self._later = None

    async def _close(self) -> str:
        await self._ports.firewall.block()
        return ""

    async def _stop_services(self) -> str:
        """All that run or may run, the last started first: they keep pools busy."""
        await self.stop()
        self.unfinished.strike()
        orders = {row["name"]: row["start_order"] for row in self._store.query(_ORDERS)}
        running = [name for name, up in self._ports.services.states().items() if up]
        running.sort(key=lambda name: -orders.get(name, 0))
        return _sentence(await self._in_order(running, orders, self._ports.services.stop))

    async def _export(self) -> str:
        pools = await _settled(self._ports.pools.imported)
        return _sentence(await _all((pool.name, self._ports.pools.export_pool(pool.guid)) for pool in pools))

    async def _verify(self) -> str:
        """Re-read the authoritative state: what the kernel has, not what the export said (DESIGN S2)."""
        left = [pool.name for pool in await _settled(self._ports.pools.imported)]
        return f"still imported: {', '.join(left)}" if left else ""

    async def _release(self) -> str:
        await self._ports.fencing.release()
        return ""


async def _settled(ask: Callable[[], Awaitable[Sequence[Pool]]]) -> Sequence[Pool]:
    """An import under way, of a former daemon or an administrator, is waited for, to the deadline of the phase."""
    while True:
        try:
            return await ask()
        except NotYet as error:
            log.info("%s", error)
            await asyncio.sleep(_ASK_AGAIN_S)


async def _within(limit_ms: int | None, work: Awaitable[None]) -> None:
    try:
        async with asyncio.timeout(None if limit_ms is None else limit_ms / 1000):
            await work
    except TimeoutError:
        raise PortError(f"no answer within {limit_ms} ms; it may yet end") from None


async def _all(work: Iterable[tuple[str, Awaitable[None]]]) -> dict[str, str]:
    """Everything in parallel; what failed and why, by name."""
    named = list(work)
    outcomes = await asyncio.gather(*(job for _, job in named), return_exceptions=True)
    failures: dict[str, str] = {}
    for (name, _), outcome in zip(named, outcomes, strict=True):
        if isinstance(outcome, PortError):
            failures[name] = str(outcome)
        elif isinstance(outcome, BaseException):
            raise outcome
    return failures


def _sentence(failures: dict[str, str]) -> str:
    return "; ".join(f"{name}: {why}" for name, why in failures.items())
