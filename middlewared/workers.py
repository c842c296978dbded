"""Threads for system calls that block: bounded, and written off when late, never waited for."""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

THREADS_MAX = 256  # as many as disks are worked on at once
STACK_BYTES = 256 << 10  # 8 MiB each, the default, would all be locked into memory

_Job = tuple[Callable[[], Any], asyncio.AbstractEventLoop, "asyncio.Future[Any]"]


class Workers:
    """A pool whose threads are made when needed, and do not keep the process from ending.

    concurrent.futures waits for its threads at exit: one that hangs in the kernel would keep a keeper alive that was
    told to end. A thread belongs to the network namespace of the one that handed in the job for which it was made.
    """

    def __init__(self, threads_max: int = THREADS_MAX, *, stack_bytes: int = STACK_BYTES) -> None:
        self._threads_max = threads_max
        self._stack_bytes = stack_bytes
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._threads = 0
        self._waiting = 0  # jobs that were handed in and have not come back

    def submit(self, function: Callable[[], T]) -> "asyncio.Future[T]":
        """Have `function` called in a thread, in its turn. The future may be given up: the thread goes on alone."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._waiting += 1
        if self._waiting > self._threads and self._threads < self._threads_max:
            self._threads += 1
            before = threading.stack_size(self._stack_bytes)
            threading.Thread(target=self._work, name=f"worker {self._threads}", daemon=True).start()
            threading.stack_size(before)
        self._jobs.put((function, loop, future))
        return future

    def _work(self) -> None:
        while True:
            function, loop, future = self._jobs.get()
            result, failure = None, None
            try:
                result = function()
            except Exception as error:  # handed to whoever waits
                failure = error
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._back, future, result, failure)
            del function, future, result, failure  # nothing is kept while the thread rests

    def _back(self, future: "asyncio.Future[Any]", result: Any, failure: Exception | None) -> None:
        self._waiting -= 1
        if future.done():
            return
        if failure is not None:
            future.set_exception(failure)
        else:
            future.set_result(result)


class Lane:
    """A share of the workers, one path's to a disk: while its calls hang, it occupies `late_max` threads, and no more.

    With `late_max` 1 they follow one another: none begins before an earlier one that is late has come back.
    """

    def __init__(self, workers: Workers, late_max: int = 2) -> None:
        self._workers = workers
        self._late_max = late_max
        self._late = 0

    async def run(self, function: Callable[[], T], timeout_ms: int) -> T:
        """Raises TimeoutError when the call does not come back in time, or earlier ones still have not.

        One whose caller gives up (cancels) is late, too.
        """
        if self._late >= self._late_max:
            raise TimeoutError
        running = self._workers.submit(function)
        try:
            await asyncio.wait([running], timeout=timeout_ms / 1000)
        finally:
            if not running.done():
                self._late += 1
                running.add_done_callback(self._returned)
        if not running.done():
            raise TimeoutError
        return running.result()

    def _returned(self, running: "asyncio.Future[Any]") -> None:
        self._late -= 1
        if not running.cancelled():
            running.exception()  # nobody waits for it
