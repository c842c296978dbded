"""Notices that the daemon stood still: a machine that was frozen must not go on as if nothing had happened."""

import asyncio

_BEAT_MS = 25
_LATE_MS = 150


class Pulse:
    """Beats on the event loop; `late` is true from the moment a beat is overdue until the next one came.

    After a freeze the first code that runs may serve a client. The keeper will find out within milliseconds whether the
    reservations were lost meanwhile; until the loop has gone round, nothing is let in on a virtual address.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._due_s = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def late(self) -> bool:
        return self._loop.time() - self._due_s > _LATE_MS / 1000

    def start(self) -> None:
        self._due_s = self._loop.time() + _BEAT_MS / 1000
        self._timer = self._loop.call_at(self._due_s, self.start)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
