"""One connection's state, without any socket: text in, texts out through a `Shell` (PROTOCOL 2, 5, 6, 14).

`Session` is what both dialects share; `RpcSession` and `LegacySession` know the frames.
"""

import errno
import uuid
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, Protocol

from middlewared.auth.identity import Credential, Origin
from middlewared.bus import Event
from middlewared.errors import CallError, JobAborted, ValidationErrors, invalid
from middlewared.rpc import access, extjson, legacy, protocol
from middlewared.rpc.dispatch import Dispatcher
from middlewared.rpc.hub import EVERYTHING, Hub
from middlewared.rpc.limits import (
    CALLS_OUTSTANDING_MAX,
    CALLS_RUNNING_MAX,
    REQUEST_CHARS_BEFORE_LOGIN_MAX,
    REQUEST_CHARS_MAX,
    SUBSCRIPTIONS_MAX,
)
from middlewared.rpc.schemas import EventSpec

CLOSE_INVALID_DATA = 1007
CLOSE_TOO_BIG = 1009

JOBS_EVENT = "core.get_jobs"
JOBS_OF_OTHERS = ("JOB_READ",)  # roles that see them


Work = Coroutine[Any, Any, None]


class Shell(Protocol):
    """What carries a session: it moves texts, runs calls side by side, and owns the socket."""

    def send(self, payload: bytes) -> None: ...

    def run(self, work: Work) -> None: ...

    def close(self, code: int) -> None: ...


@dataclass(slots=True)
class Options:
    """`core.set_options` (PROTOCOL 2.6)."""

    legacy_jobs: bool = True
    private_methods: bool = False
    py_exceptions: bool = False


class Session:
    """State of one connection. `auth_state` belongs to whoever conducts a login of several steps."""

    codec: ClassVar[Any]
    job_ids_only: ClassVar[bool] = False

    def __init__(
        self, hub: Hub, dispatcher: Dispatcher, origin: Origin, shell: Shell, credential: Credential | None = None
    ) -> None:
        self.id = str(uuid.uuid4())
        self.hub = hub
        self.dispatcher = dispatcher
        self.origin = origin
        self.options = Options()
        self.opened_at = datetime.now(UTC)
        self.auth_state: Any = None
        self.subscriptions: dict[str, str] = {}  # event name by subscription id
        self._shell = shell
        self._credential = credential
        self._closed = False
        self._outstanding = 0
        self._running = 0
        self._waiting: deque[Work] = deque()
        self._after_reply: list[bytes] = []
        hub.sessions.add(self)

    # ------------------------------------------------------------------------------------- the shell's

    def receive(self, text: str) -> Work | None:
        """One text frame. Never raises; the shell gets the answers, now or from the work that it is asked to run."""
        limit = REQUEST_CHARS_BEFORE_LOGIN_MAX if self._credential is None else REQUEST_CHARS_MAX
        if len(text) > limit:
            self.close(self.too_big_code)
        elif not self._closed:
            return self._handle(text)
        return None

    @property
    def too_big_code(self) -> int:
        """How a frame beyond the limit is punished (PROTOCOL 2.5)."""
        return CLOSE_INVALID_DATA if self._credential is None else CLOSE_TOO_BIG

    def closed(self) -> None:
        """The connection has ended. Calls in flight run to their end; nobody hears of it."""
        self._closed = True
        self.hub.sessions.discard(self)
        for name in set(self.subscriptions.values()):
            self.hub.unsubscribe(self, name)
        self.subscriptions.clear()
        while self._waiting:
            self._waiting.popleft().close()

    def _handle(self, text: str) -> Work | None:
        raise NotImplementedError

    # --------------------------------------------------------------------------------------- handlers'

    @property
    def credential(self) -> Credential | None:
        """Who has logged in; None: nobody. Setting it ends the subscriptions that the new one does not permit."""
        return self._credential

    @credential.setter
    def credential(self, credential: Credential | None) -> None:
        self._credential = credential
        for name in set(self.subscriptions.values()):
            error = self._refusal(name)
            if error is not None:
                self._end_subscription(name)
                self.send(self.codec.encode_unsubscribed(name, error))

    def close(self, code: int) -> None:
        """End the connection with a websocket close code."""
        if not self._closed:
            self._closed = True
            self._shell.close(code)

    def subscribe(self, name: str, subscription_id: str | None = None) -> str:
        """Subscribe to an event (PROTOCOL 6.1); the subscription's id. Raises CallError."""
        error = self._refusal(name)
        if error is not None:
            raise error
        if len(self.subscriptions) >= SUBSCRIPTIONS_MAX:
            raise CallError(f"A connection may have {SUBSCRIPTIONS_MAX} subscriptions", errno.EBUSY)
        number = subscription_id or str(uuid.uuid4())
        wrong = self._wrong_arguments(name)
        if wrong is not None:  # reported as the end of a subscription that did begin (PROTOCOL 6.3)
            self._after_reply.append(self.codec.encode_unsubscribed(name, wrong))
            return number
        self.unsubscribe(number)  # the legacy dialect lets clients choose ids, even one twice
        self.subscriptions[number] = name
        self.hub.subscribe(self, name)
        return number

    def unsubscribe(self, subscription_id: str) -> None:
        """An unknown id is no error."""
        name = self.subscriptions.pop(subscription_id, None)
        if name is not None and name not in self.subscriptions.values():
            self.hub.unsubscribe(self, name)

    # ------------------------------------------------------------------------------------------- hub's

    def sees(self, event: Event) -> bool:
        """Whether this session may have an event that it subscribed to, by whatever name."""
        credential = self._credential
        spec = self.hub.registry.events.get(event.collection.partition(":")[0])
        if spec is None or not access.may(credential, spec.auth, spec.roles):
            return False
        if event.collection != JOBS_EVENT:
            return True
        if credential is None or event.fields is None:
            return False
        owner = event.fields["credentials"]
        return credential.may(JOBS_OF_OTHERS) or (
            owner is not None and owner["data"]["username"] == credential.username
        )

    # -------------------------------------------------------------------------------------- internals

    def send(self, payload: bytes) -> None:
        """One text frame, unless the connection has ended."""
        if not self._closed:
            self._shell.send(payload)

    def _event(self, name: str) -> EventSpec | None:
        return self.hub.registry.events.get(name.partition(":")[0])

    def _refusal(self, name: str) -> CallError | None:
        """Why this session may not subscribe to `name`; None: it may."""
        try:
            if name == EVERYTHING:
                access.require(self._credential, "login", ())
                return None
            event = self._event(name)
            if event is None:
                access.require(self._credential, "login", ())
                return CallError(f"Event {name.partition(':')[0]} does not exist", errno.ENOENT)
            access.require(self._credential, event.auth, event.roles)
        except CallError as error:
            return error
        return None

    def _wrong_arguments(self, name: str) -> ValidationErrors | None:
        _, colon, text = name.partition(":")
        event = self._event(name)
        if not colon or event is None:
            return None
        try:
            arguments = extjson.loads(text)
        except ValueError:
            return invalid("arguments", "Not valid JSON")
        if event.arguments is None:
            return None if arguments == {} else invalid("arguments", f"{event.name} takes no arguments")
        findings = event.arguments.findings(arguments)
        return ValidationErrors(findings) if findings else None

    def _end_subscription(self, name: str) -> None:
        self.hub.unsubscribe(self, name)
        for number in [number for number, other in self.subscriptions.items() if other == name]:
            del self.subscriptions[number]

    def _accept(self, request: protocol.Request) -> Work | None:
        """The call, to be run now; None: it will be when one of those that run has ended. Raises TooManyCalls."""
        if self._outstanding >= CALLS_OUTSTANDING_MAX:
            raise protocol.TooManyCalls
        self._outstanding += 1
        work = self._call(request)
        if self._running < CALLS_RUNNING_MAX:
            self._running += 1
            return work
        self._waiting.append(work)
        return None

    async def _call(self, request: protocol.Request) -> None:
        has_id = request.id is not protocol.NO_REQUEST_ID
        reply = b""
        try:
            result = await self.dispatcher.call(
                request.method,
                request.params,
                credential=self._credential,
                origin=self.origin,
                session=self,
                message_id=request.id if has_id else None,
                job_id_only=self.job_ids_only or self.options.legacy_jobs,
            )
            if has_id:
                reply = self.codec.encode_result(request.id, result)
        except JobAborted:
            reply = self.codec.encode_result(request.id, None) if has_id else b""  # PROTOCOL 7.2
        except Exception as error:  # whatever it is, this caller is told and nobody else is troubled
            reply = self.codec.encode_error(request.id, error) if has_id else b""
        finally:
            self._outstanding -= 1
            if self._waiting:
                self._shell.run(self._waiting.popleft())
            else:
                self._running -= 1
        if has_id:
            self.send(reply)
        if self._after_reply:
            self._send_after_reply()

    def _send_after_reply(self) -> None:
        while self._after_reply:
            self.send(self._after_reply.pop(0))


class RpcSession(Session):
    """JSON-RPC 2.0, on `/api/...`."""

    codec: ClassVar[Any] = protocol

    def _handle(self, text: str) -> Work | None:
        try:
            request = protocol.parse_request(text)
        except protocol.RequestError as error:
            if error.request_id is not protocol.NO_REQUEST_ID:
                self.send(protocol.encode_error(error.request_id, error))
            return None
        try:
            return self._accept(request)
        except protocol.TooManyCalls as error:
            if request.id is not protocol.NO_REQUEST_ID:
                self.send(protocol.encode_error(request.id, error))
            return None


class LegacySession(Session):
    """The dialect of `/websocket`. Jobs are always answered with their ids."""

    codec: ClassVar[Any] = legacy
    job_ids_only: ClassVar[bool] = True

    def _handle(self, text: str) -> Work | None:
        try:
            message = extjson.loads(text)
        except ValueError:
            self.close(CLOSE_INVALID_DATA)
            return None
        if not isinstance(message, dict):
            self.close(CLOSE_INVALID_DATA)
            return None
        match message.get("msg"):
            case "connect":
                known = message.get("version") == legacy.VERSION
                self.send(legacy.connected(self.id) if known else legacy.refused())
            case "method":
                return self._handle_method(message)
            case "sub":
                self._handle_sub(message)
            case "unsub":
                self.unsubscribe(str(message.get("id")))
            case "ping":
                self.send(legacy.pong(message.get("id")))
            case _:
                error = CallError("Unknown message", errno.EINVAL)
                self.send(legacy.encode_error(message.get("id"), error))
        return None

    def _handle_method(self, message: dict[str, Any]) -> Work | None:
        method, params = message.get("method"), message.get("params") or []
        request_id = message.get("id", protocol.NO_REQUEST_ID)
        shown_id = None if request_id is protocol.NO_REQUEST_ID else request_id
        if not isinstance(method, str) or not isinstance(params, list):
            error = CallError("method must be a string and params a list", errno.EINVAL)
            self.send(legacy.encode_error(shown_id, error))
            return None
        try:
            return self._accept(protocol.Request(method, params, request_id))
        except protocol.TooManyCalls as error:
            self.send(legacy.encode_error(shown_id, error))
            return None

    def _handle_sub(self, message: dict[str, Any]) -> None:
        number, name = message.get("id"), message.get("name")
        if not isinstance(number, str) or not isinstance(name, str):
            self.send(legacy.encode_error(number, CallError("id and name must be strings", errno.EINVAL)))
            return
        try:
            self.subscribe(name, number)
        except CallError as error:
            self.send(legacy.encode_error(number, error))
            return
        self.send(legacy.ready(number))
        self._send_after_reply()
