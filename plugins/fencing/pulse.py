"""The keeper's sense of time: it beats, and notices when it could not."""

import asyncio
from collections.abc import Callable


class Pulse:
    """The loop's clock, and whether time was lost.

    A controller that was frozen (a stopped virtual machine, stuck firmware) finds its next beat long overdue. Whatever
    it believed before proves nothing any more: `lapses` counts up and `on_lapse` is called. Call `notice` wherever time
    may have passed, before acting on anything learnt earlier.
    """

    def __init__(self, beat_ms: int, late_ms: int, on_lapse: Callable[[float], None]) -> None:
        self.lapses = 0
        self._beat_ms = beat_ms
        self._late_ms = late_ms
        self._on_lapse = on_lapse
        self._due_ms = self.now_ms() + beat_ms

    def now_ms(self) -> float:
        return asyncio.get_running_loop().time() * 1000

    def notice(self) -> int:
        """Look at the clock; `lapses` after that."""
        late_ms = self.now_ms() - self._due_ms
        if late_ms > self._late_ms:
            self.lapses += 1
            self._due_ms = self.now_ms() + self._beat_ms
            self._on_lapse(late_ms)
        return self.lapses

    def beat(self) -> None:
        """A beat came; the next is due beat_ms from now."""
        self.notice()
        self._due_ms = self.now_ms() + self._beat_ms
