"""Events to sessions: one encoding for all who get the same text (PROTOCOL 6)."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Protocol

from middlewared.auth.identity import Credential
from middlewared.bus import Bus, Event
from middlewared.rpc.registry import Registry

log = logging.getLogger(__name__)

EVERYTHING = "*"


class Codec(Protocol):
    """A dialect's frames: the modules `protocol` and `legacy`."""

    def encode_event(self, event: Event, collection: str) -> bytes: ...


class Subscriber(Protocol):
    """What the hub needs of a session."""

    credential: Credential | None

    @property
    def codec(self) -> Codec: ...

    def sees(self, event: Event) -> bool: ...

    def send(self, payload: bytes) -> None: ...

    def close(self, code: int) -> None: ...


class Hub:
    """Every session of the daemon, and who of them wants which event."""

    def __init__(self, bus: Bus, registry: Registry) -> None:
        self.registry = registry
        self.sessions: set[Subscriber] = set()
        self._wanted: defaultdict[str, set[Subscriber]] = defaultdict(set)
        self._with_arguments: defaultdict[str, set[str]] = defaultdict(set)  # full names by event name
        self.close = bus.listen(self.publish)

    def subscribe(self, session: Subscriber, name: str) -> None:
        """`name`: an event, an event with arguments after a colon, or `*`. Repeated calls change nothing."""
        self._wanted[name].add(session)
        event, colon, _ = name.partition(":")
        if colon:
            self._with_arguments[event].add(name)

    def unsubscribe(self, session: Subscriber, name: str) -> None:
        wanted = self._wanted.get(name)
        if wanted is None:
            return
        wanted.discard(session)
        if not wanted:
            del self._wanted[name]
            event = name.partition(":")[0]
            self._with_arguments[event].discard(name)
            if not self._with_arguments[event]:
                del self._with_arguments[event]

    def publish(self, event: Event) -> None:
        """Hand an event to every session that wants and may see it: once each, whatever it subscribed to."""
        served: set[Subscriber] = set()
        for name in self._names(event.collection):
            collection = event.collection if name == EVERYTHING else name
            payloads: dict[Codec, bytes] = {}
            for session in tuple(self._wanted.get(name, ())):
                if session in served or not session.sees(event):
                    continue
                served.add(session)
                payload = payloads.get(session.codec)
                if payload is None:
                    payload = payloads[session.codec] = session.codec.encode_event(event, collection)
                session.send(payload)

    def refresh(self, current: Callable[[Credential], Credential | None]) -> None:
        """Accounts have changed: give every session what its credential is worth now."""
        for session in tuple(self.sessions):
            if session.credential is not None:
                fresh = current(session.credential)
                if fresh != session.credential:
                    session.credential = fresh

    def _names(self, collection: str) -> Iterator[str]:
        yield collection
        yield from tuple(self._with_arguments.get(collection, ()))
        yield EVERYTHING
