"""All that a plugin may use: Plugin, @method, Call, Context.

A plugin is a class with handlers. What a method takes, returns, needs (roles) and is (job, private) stands in
`schemas/<file>.json`, never in code; the loader refuses to start when one of the two lacks the other.

    class Clock(Plugin):
        @method("clock.now")
        async def now(self, call: Call) -> int: ...
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from middlewared.alerts import Alerts
from middlewared.audit import AuditLog
from middlewared.auth.authenticator import Authenticator
from middlewared.auth.identity import Credential, Origin
from middlewared.bus import Bus
from middlewared.jobs import Job, Jobs
from middlewared.peer.link import PeerLink
from middlewared.ports import Ports
from middlewared.rpc.registry import Registry
from middlewared.rpc.session import Session
from middlewared.settings import Settings
from middlewared.store.database import Store

Handler = TypeVar("Handler", bound=Callable[..., Awaitable[Any]])


def method(name: str) -> Callable[[Handler], Handler]:
    """Mark a coroutine method as the handler of the API method `name`."""

    def mark(handler: Handler) -> Handler:
        handler.__api_method__ = name  # type: ignore[attr-defined]  # read back by the loader
        return handler

    return mark


@dataclass(slots=True)
class Call:
    """Who calls, and the job if the method is one. The first argument of every handler."""

    credential: Credential
    origin: Origin
    session: Session | None = None  # None: not from a websocket (internal, peer, upload)
    job: Job | None = None


class CallMethod(Protocol):
    async def __call__(self, name: str, *args: Any) -> Any: ...


@dataclass(slots=True)
class Context:
    """One daemon's parts, handed to every plugin."""

    settings: Settings
    ports: Ports
    store: Store
    bus: Bus
    jobs: Jobs
    alerts: Alerts
    audit: AuditLog
    authenticator: Authenticator
    peer: PeerLink
    registry: Registry
    call: CallMethod  # call any method of this daemon as the daemon itself; a job is waited for
    ready: bool = False  # start-up is over: plugins run and requests are served


class Plugin:
    """Base of all plugins. `start` runs after every plugin is built, `stop` in reverse order, each with a deadline."""

    def __init__(self, context: Context) -> None:
        self.context = context

    async def start(self) -> None: ...

    async def stop(self) -> None: ...
