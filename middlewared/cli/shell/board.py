"""What is known of both controllers: some calls, repeated when an event says that their answer has changed.

An event comes only from the controller that we are connected to. What the other one says, and what has no event at
all, is asked for again every few seconds.
"""

import asyncio
import contextlib
import errno
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from middlewared.cli.shell.session import Session
from middlewared.client.errors import ClientError
from middlewared.errors import CallError

AGAIN_S = 3.0
ANSWER_S = 5.0
SETTLE_S = 0.05  # events come in bursts: one round of calls for each
TO_OTHER = {"timeout": 2, "connect_timeout": 2.0}


class Source(NamedTuple):
    """One call. `events`: ask again when one of them comes. `again`: ask again every few seconds, too."""

    method: str
    params: tuple[Any, ...] = ()
    events: tuple[str, ...] = ()
    again: bool = False


CHANGES = ("failover.status", "failover.disabled.reasons", "failover.history")

STATUS = {
    "node": Source("failover.node"),
    "status": Source("failover.status", events=CHANGES),
    "other": Source("failover.call_remote", ("failover.status", [], TO_OTHER), events=CHANGES, again=True),
    "reasons": Source("failover.disabled.reasons", events=CHANGES),
    "ongoing": Source("failover.in_progress", events=CHANGES, again=True),
}


class Board:
    """`answers`: the last one by name; None where none came; not there where this user may not ask.

    `run` keeps it fresh.
    """

    def __init__(self, session: Session, sources: dict[str, Source], on_change: Callable[[], None]) -> None:
        self._session = session
        self._sources = sources
        self._on_change = on_change
        self.answers: dict[str, Any] = {}

    async def run(self) -> None:
        """Until it is cancelled; over lost connections."""
        while True:
            await self._session.wait_connected()
            self._on_change()
            with contextlib.suppress(ClientError):
                await self._follow()
            self.answers = {}
            self._on_change()

    async def _follow(self) -> None:
        """As long as the connection lives. Raises ClientError when it is lost."""
        connection = self._session.connects
        due: set[str] = set(self._sources)
        woken = asyncio.Event()
        woken.set()
        listeners = [
            asyncio.create_task(self._listen(event, due, woken))
            for event in {event for source in self._sources.values() for event in source.events}
        ]
        try:
            while self._session.connected and self._session.connects == connection:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(AGAIN_S):
                        await woken.wait()
                    await asyncio.sleep(SETTLE_S)
                woken.clear()
                asked = due or {name for name, source in self._sources.items() if source.again}
                due.difference_update(asked := set(asked))
                await self._ask(asked)
        finally:
            for listener in listeners:
                listener.cancel()
            await asyncio.gather(*listeners, return_exceptions=True)

    async def _listen(self, event: str, due: set[str], woken: asyncio.Event) -> None:
        try:
            async for _ in self._session.subscribe(event):
                due.update(name for name, source in self._sources.items() if event in source.events)
                woken.set()
        except ClientError:
            woken.set()  # the connection is lost
        except CallError:
            pass  # not for this user

    async def _ask(self, names: Iterable[str]) -> None:
        before = dict(self.answers)
        await asyncio.gather(*(self._ask_one(name) for name in names))
        if self.answers != before:
            self._on_change()

    async def _ask_one(self, name: str) -> None:
        source = self._sources[name]
        try:
            self.answers[name] = await self._session.call(source.method, *source.params, timeout_s=ANSWER_S)
        except CallError as error:
            self.answers[name] = None
            if error.errno in (errno.EPERM, errno.EACCES):
                del self.answers[name]
        except ClientError:
            self.answers[name] = None
