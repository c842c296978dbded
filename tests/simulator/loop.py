"""An event loop in virtual time, whose callbacks belong to processes that can be frozen and killed.

Every handle runs in a context, and a context belongs to a process (the context variable PROCESS, inherited by all tasks
that a process starts). A frozen process's callbacks wait for the thaw; a dead one's never run. Time jumps to the next
timer: nothing here sleeps, and nothing else asks for the time.
"""

import asyncio
import contextvars
import gc
import heapq
import sys
import warnings
from collections import deque
from collections.abc import Callable
from typing import Any

from tests.simulator.streams import MemorySockets

PROCESS: contextvars.ContextVar["Process | None"] = contextvars.ContextVar("process", default=None)


_TICK_S = 1e-6  # a timer fires later than now, as a real clock's would: rounding must not stop time
_TURNS_MAX = 100_000  # callbacks at one instant; more are a loop without end


class Handle:
    """What asyncio expects of its Handle and TimerHandle."""

    __slots__ = ("args", "at_s", "callback", "context", "stopped")

    def __init__(
        self, callback: Callable[..., Any], args: tuple[Any, ...], context: contextvars.Context, at_s: float
    ) -> None:
        self.callback = callback
        self.args = args
        self.context = context
        self.at_s = at_s
        self.stopped = False

    def cancel(self) -> None:
        self.stopped = True
        self.args = ()

    def cancelled(self) -> bool:
        return self.stopped

    def when(self) -> float:
        return self.at_s


class Process:
    """A program of a simulated controller: it runs, stands still, or is dead for ever."""

    def __init__(self, loop: "VirtualLoop", name: str) -> None:
        self.loop = loop
        self.name = name
        self.alive = True
        self.stops = 0  # reasons to stand still: its own, and its controller's
        self.waiting: deque[Handle] = deque()
        self.on_death: list[Callable[[], None]] = []
        self.context = contextvars.copy_context()
        self.context.run(PROCESS.set, self)

    def start(self, work: Any) -> asyncio.Task[Any]:
        """Run a coroutine as this process."""
        return self.loop.create_task(work, context=self.context.copy())

    def call_soon(self, callback: Callable[..., Any], *args: Any) -> None:
        """Run a callback as this process; nothing if it is dead by then."""
        self.loop.call_soon(callback, *args, context=self.context)

    def freeze(self) -> None:
        self.stops += 1

    def thaw(self) -> None:
        self.stops -= 1
        if self.stops == 0:
            self.loop.ready.extend(self.waiting)
            self.waiting.clear()

    def kill(self) -> None:
        """SIGKILL, or the power is gone: not one more instruction."""
        if not self.alive:
            return
        self.alive = False
        self.loop.bury()
        self.waiting.clear()
        for tell in self.on_death:
            tell()


class VirtualLoop(asyncio.AbstractEventLoop):
    """As much of an event loop as the production code uses."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.ready: deque[Handle] = deque()
        self.sockets = MemorySockets(self)
        self.world = contextvars.Context()  # of what belongs to no process: cables, disks, time itself
        self.errors: list[str] = []
        self.on_error: Callable[[str], None] = self.errors.append
        self._timers: list[tuple[float, int, Handle]] = []
        self._sequence = 0
        self._graveyard: list[Any] = []  # tasks of the dead: were they collected, their `finally` would run
        self._stopping = False

    # ------------------------------------------------------------------------------------------ running

    def run_until(self, at_s: float) -> None:
        """Everything up to and including this time."""
        asyncio._set_running_loop(self)
        try:
            while not self._stopping:
                self._run_ready()
                if not self._timers or self._timers[0][0] > at_s:
                    break
                self.now_s = max(self.now_s, self._timers[0][0])
                while self._timers and self._timers[0][0] <= self.now_s:
                    handle = heapq.heappop(self._timers)[2]
                    if not handle.stopped:
                        self.ready.append(handle)
            self.now_s = max(self.now_s, at_s)
        finally:
            asyncio._set_running_loop(None)

    def _run_ready(self) -> None:
        ready, turns = self.ready, 0
        while ready:
            handle = ready.popleft()
            turns += 1
            if turns > _TURNS_MAX:
                self.on_error(f"time stands still: {handle.callback}")
                return
            if handle.stopped:
                continue
            process = handle.context.get(PROCESS)
            if process is not None:
                if not process.alive:
                    self._graveyard.append(handle.callback)  # perhaps the first step of a task
                    continue
                if process.stops:
                    process.waiting.append(handle)
                    continue
            try:
                handle.context.run(handle.callback, *handle.args)
            except Exception as error:
                self.on_error(f"{handle.callback} raised {error!r}")
            if self._stopping:
                return

    def bury(self) -> None:
        """Keep all tasks that exist from being collected."""
        self._graveyard.append(asyncio.all_tasks(self))

    def stop(self) -> None:
        self._stopping = True

    def forget(self) -> None:
        """Collect whatever never ended, here and now: what its `finally` does is nobody's news."""
        self.on_error = lambda text: None
        told, sys.unraisablehook = sys.unraisablehook, lambda unraisable: None
        asyncio._set_running_loop(self)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # coroutines that never began
                for waiting in (self.ready, self._timers, self._graveyard):
                    waiting.clear()
                gc.collect()
                self.ready.clear()
                gc.collect()  # what the first round's `finally` began
                self.ready.clear()
        finally:
            asyncio._set_running_loop(None)
            sys.unraisablehook = told

    # ------------------------------------------------------------------------------------------ asyncio's side

    def time(self) -> float:
        return self.now_s

    def call_soon(self, callback: Any, *args: Any, context: contextvars.Context | None = None) -> Any:
        handle = Handle(callback, args, context if context is not None else contextvars.copy_context(), self.now_s)
        self.ready.append(handle)
        return handle

    def call_later(self, delay: float, callback: Any, *args: Any, context: contextvars.Context | None = None) -> Any:
        when = self.now_s + (delay if delay > _TICK_S else _TICK_S)
        handle = Handle(callback, args, context if context is not None else contextvars.copy_context(), when)
        self._sequence += 1
        heapq.heappush(self._timers, (when, self._sequence, handle))
        return handle

    def call_at(self, when: float, callback: Any, *args: Any, context: contextvars.Context | None = None) -> Any:
        if when < self.now_s + _TICK_S:
            when = self.now_s + _TICK_S
        handle = Handle(callback, args, context if context is not None else contextvars.copy_context(), when)
        self._sequence += 1
        heapq.heappush(self._timers, (when, self._sequence, handle))
        return handle

    def create_future(self) -> Any:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: contextvars.Context | None = None) -> Any:
        return asyncio.Task(coro, loop=self, name=name, context=context)

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        """A thread's work takes no time here, but its result comes in a later turn."""
        future = self.create_future()
        try:
            result = func(*args)
        except Exception as error:
            self.call_soon(_settle, future, None, error)
        else:
            self.call_soon(_settle, future, result, None)
        return future

    async def create_unix_connection(self, protocol_factory: Any, path: Any = None, **options: Any) -> Any:
        return await self.sockets.connect(protocol_factory, str(path))

    async def create_unix_server(self, protocol_factory: Any, path: Any = None, **options: Any) -> Any:
        return self.sockets.listen(protocol_factory, str(options["sock"]))

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if "was destroyed" in str(context.get("message")):
            return  # of a dead process, collected at the end
        self.on_error(f"{context.get('message')}: {context.get('exception')!r} {context.get('task', '')}")


def _settle(future: Any, result: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
