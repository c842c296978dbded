"""The shell around the engine: moves events in and actions out, and decides nothing."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine

from middlewared.plugins.failover.actions import Action, Answer, CloseTraffic, Participate, Perform, Reset
from middlewared.plugins.failover.engine import next_wake_ms, step
from middlewared.plugins.failover.events import Asked, Event, Tick, Wish
from middlewared.plugins.failover.state import Limits, Role, State
from middlewared.plugins.failover.worker import Worker
from middlewared.ports import PortError, Ports

log = logging.getLogger(__name__)

_PARTICIPATE_RETRY_MS = 200
_CLOSE_RETRY_MS = 200


class Runner:
    """Runs one engine on the asyncio loop; `on_step(before, event, after)` is told after every step."""

    def __init__(
        self, ports: Ports, worker: Worker, limits: Limits, on_step: Callable[[State, Event, State], None]
    ) -> None:
        self.state = State(limits=limits)
        self._ports = ports
        self._worker = worker
        self._on_step = on_step
        self._events: deque[Event] = deque()
        self._pumping = False
        self._timer: asyncio.TimerHandle | None = None
        self._work: asyncio.Task[None] | None = None  # of the current phase; a new one replaces it
        self._errands: set[asyncio.Task[None]] = set()
        self._answers: dict[int, asyncio.Future[Answer]] = {}
        self._last_request = 0
        self._participate_wanted: bool | None = None

    def post(self, event: Event) -> None:
        """Hand an event to the engine; events raised by its actions wait for their turn."""
        self._events.append(event)
        if self._pumping:
            return
        self._pumping = True
        try:
            while self._events:
                self._step(self._events.popleft())
        finally:
            self._pumping = False
        self._arm()

    async def ask(self, wish: Wish, cause: str, timeout_s: float) -> Answer:
        """An operator's request; its outcome. TimeoutError when it takes too long (it goes on all the same)."""
        self._last_request += 1
        number = self._last_request
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        try:
            self.post(Asked(number, wish, cause))
            async with asyncio.timeout(timeout_s):
                return await answer
        finally:
            self._answers.pop(number, None)

    async def stop(self) -> None:
        """End without touching anything: what runs on this machine outlives the daemon (DESIGN S5)."""
        if self._timer is not None:
            self._timer.cancel()
        tasks = [*self._errands, *([self._work] if self._work is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._worker.stop()

    def _now_ms(self) -> int:
        return int(asyncio.get_running_loop().time() * 1000)

    def _step(self, event: Event) -> None:
        before = self.state
        self.state, actions = step(before, event, self._now_ms())
        if before.role is not self.state.role or before.phase is not self.state.phase:
            log.info(
                "%s %s -> %s %s (%s)", before.role, before.phase or "", self.state.role, self.state.phase or "",
                self.state.error or self.state.cause,
            )  # fmt: skip
        for action in actions:
            self._act(action)
        self._on_step(before, event, self.state)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at_ms = next_wake_ms(self.state)
        if at_ms is not None:
            # One millisecond late rather than early: an early Tick would find nothing due and spin.
            delay_s = max(0, at_ms - self._now_ms() + 1) / 1000
            self._timer = asyncio.get_running_loop().call_later(delay_s, self.post, Tick())

    def _act(self, action: Action) -> None:
        match action:
            case Perform():
                if self._work is not None:
                    self._work.cancel()
                self._work = asyncio.create_task(self._perform(action))
            case Participate(wanted):
                self._participate_wanted = wanted
                self._errand(self._participate(wanted))
            case CloseTraffic():
                self._errand(self._close_traffic())
            case Reset(reason):  # says why itself: a log might wait for a stuck disk
                self._ports.power.reset(reason)
            case Answer(request):
                future = self._answers.get(request)
                if future is not None and not future.done():
                    future.set_result(action)

    async def _perform(self, action: Perform) -> None:
        done = await self._worker.perform(action.op, action.phase, forced=action.forced)
        if not done.ok:
            log.warning("%s: %s", action.phase, done.detail)
        self.post(done)

    def _errand(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)

    async def _participate(self, wanted: bool) -> None:
        """Tell the VRRP speaker; keep telling a speaker that does not answer, until the wish changes."""
        while self._participate_wanted is wanted:
            try:
                await self._ports.virtual_ips.participate(wanted)
                return
            except PortError as error:
                log.warning("the VRRP speaker does not answer: %s", error)
                await asyncio.sleep(_PARTICIPATE_RETRY_MS / 1000)

    async def _close_traffic(self) -> None:
        """Keep trying while this controller rests: who is elected next must not be reached before it is fit."""
        while True:
            try:
                await self._ports.firewall.block()
                return
            except PortError as error:
                log.error("traffic to the virtual addresses could not be blocked: %s", error)
            await asyncio.sleep(_CLOSE_RETRY_MS / 1000)
            if self.state.role not in (Role.BACKUP, Role.ERROR):
                return
