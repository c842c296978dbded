"""Events inside one daemon: who emits does not know who listens."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

log = logging.getLogger(__name__)

NO_ID: Any = object()  # the event has no `id` member at all (None is an id, of value null)


@dataclass(frozen=True, slots=True)
class Event:
    """One notification (PROTOCOL 6.2). `fields` is what subscribers get; it is not changed after it was emitted."""

    collection: str
    msg: Literal["added", "changed", "removed"]
    fields: dict[str, Any] | None = None
    id: Any = NO_ID


class Bus:
    """Synchronous fan-out: listeners are quick, and queue what takes time."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[Event], None]] = []

    def listen(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Call `listener` for every event; the returned function ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def emit(self, event: Event) -> None:
        for listener in list(self._listeners):
            try:
                listener(event)
            except Exception:
                log.exception("a listener failed on %s", event.collection)
