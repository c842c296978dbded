"""Does the work of the engine's phases through the ports; reports how it ended and decides nothing."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

from middlewared.alerts import Alerts
from middlewared.errors import CallError
from middlewared.peer.link import PeerLink
from middlewared.plugins.failover.events import Done
from middlewared.plugins.failover.state import Phase
from middlewared.ports import FenceCode, PortError, Ports
from middlewared.store.database import Store

log = logging.getLogger(__name__)

_HAND_OVER_TIMEOUT_S = 40.0  # a little less than Limits.ask_ms: the other's answer should win


class Worker:
    """One coroutine a phase. A failure is a sentence in Done, never an exception."""

    def __init__(self, node: str, ports: Ports, store: Store, peer: PeerLink, alerts: Alerts) -> None:
        self._node = node
        self._ports = ports
        self._store = store
        self._peer = peer
        self._alerts = alerts
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
        pools = await self._ports.pools.pools()
        wanted = [pool for pool in pools if not pool.imported]
        failures = await _all((pool.name, self._ports.pools.import_pool(pool.guid)) for pool in wanted)
        self._alerts.clear_except("failover.import.", [f"failover.import.{name}" for name in failures])
        for name, why in failures.items():
            text = f"Pool {name} could not be imported during the failover: {why}"
            self._alerts.set(f"failover.import.{name}", "CRITICAL", text, self._node)
        return _sentence(failures) if wanted and len(failures) == len(pools) else ""

    async def _start_services(self) -> str:
        rows = self._store.query("SELECT name FROM service_config WHERE enabled = 1 ORDER BY name")
        failures = await _all((row["name"], self._ports.services.start(row["name"])) for row in rows)
        self._alerts.clear_except("failover.service.", [f"failover.service.{name}" for name in failures])
        for name, why in failures.items():
            text = f"Service {name} did not start during the failover: {why}"
            self._alerts.set(f"failover.service.{name}", "CRITICAL", text, self._node)
        return _sentence(failures)

    async def _open(self) -> str:
        await self._ports.firewall.allow()
        return ""

    async def _close(self) -> str:
        await self._ports.firewall.block()
        return ""

    async def _stop_services(self) -> str:
        running = [name for name, up in self._ports.services.states().items() if up]
        return _sentence(await _all((name, self._ports.services.stop(name)) for name in running))

    async def _export(self) -> str:
        pools = [pool for pool in await self._ports.pools.pools() if pool.imported]
        return _sentence(await _all((pool.name, self._ports.pools.export_pool(pool.guid)) for pool in pools))

    async def _verify(self) -> str:
        """Re-read the authoritative state: what the kernel has, not what the export said (DESIGN S2)."""
        left = [pool.name for pool in await self._ports.pools.pools() if pool.imported]
        return f"still imported: {', '.join(left)}" if left else ""

    async def _release(self) -> str:
        await self._ports.fencing.release()
        return ""


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
