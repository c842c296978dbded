"""The asyncio client, on the websockets library."""

import asyncio
import collections
import contextlib
import ssl
from types import TracebackType
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect, unix_connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus, WebSocketException

from middlewared.client import login
from middlewared.client.conversation import JOB_EVENT, OPTIONS, Conversation, PendingCall, Progress, Subscriber
from middlewared.client.endpoint import certificate_hash, default_url, explain, parse_url, refused_upgrade, tls_context
from middlewared.client.errors import ClientError
from middlewared.errors import ENOTAUTHENTICATED, CallError

CALL_TIMEOUT_S = 60.0
CONNECT_TIMEOUT_S = 10.0
JOB_LAST_WORD_S = 2.0  # how long a job's last notification may come after its answer
PING_INTERVAL_S = 20.0
MESSAGE_BYTES_MAX = 64 << 20
EVENTS_QUEUED_MAX = 1024


class Client:
    """One connection: `async with Client(url) as client`. Calls may run concurrently.

    `url`: ws://, wss://, ws+unix:///path; default $MIDDLEWARED_URL or this machine's daemon. `verify`: False or an
    SSLContext for wss://. `timeout_s` bounds every call that does not say otherwise. A server that has not answered a
    ping for `ping_interval_s` is lost. What the daemon refuses is raised
    as CallError or ValidationErrors; trouble with the connection as ClientError, by every pending call and
    subscription.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        timeout_s: float = CALL_TIMEOUT_S,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        verify: bool | ssl.SSLContext = True,
        ping_interval_s: float = PING_INTERVAL_S,
    ) -> None:
        self.endpoint = parse_url(url or default_url())
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._verify = verify
        self._ping_interval_s = ping_interval_s
        self._conversation = Conversation()
        self._websocket: ClientConnection | None = None
        self._reading: asyncio.Task[None] | None = None
        self._lost: ClientError | None = None
        self._jobs_subscription: asyncio.Task[Any] | None = None

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def connected(self) -> bool:
        return self._websocket is not None and self._lost is None

    async def connect(self) -> None:
        """Connect once and choose the options of the connection. Raises ClientError with a remedy."""
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                self._websocket = await self._open()
        except InvalidStatus as error:
            raise refused_upgrade(self.endpoint, error.response.status_code) from error
        except InvalidMessage as error:
            hint = "" if self.endpoint.tls else ": if it speaks TLS, write wss://"
            raise ClientError(f"{self.endpoint.url} did not answer like an HTTP server{hint}") from error
        except InvalidHandshake as error:
            raise ClientError(f"{self.endpoint.url} does not speak websocket: {error}") from error
        except OSError as error:  # TimeoutError and SSLError too
            raise explain(self.endpoint, error) from error
        self._reading = asyncio.create_task(self._read(self._websocket))
        try:
            await self.call("core.set_options", OPTIONS, timeout_s=self._connect_timeout_s)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close the connection; what is still pending fails with ClientError."""
        if self._websocket is not None:
            self._lose(ClientError("the connection was closed"))
            await self._websocket.close()
        tasks = [task for task in (self._reading, self._jobs_subscription) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def wait_lost(self) -> ClientError:
        """Wait until the connection is gone, and say why."""
        if self._reading is not None:
            await asyncio.wait([self._reading])
        return self._lost or ClientError("not connected")

    async def call(self, method: str, *params: Any, timeout_s: float | None = None) -> Any:
        """Call a method and return its result; for a job, the job's result once it has ended."""
        return await self._call(method, params, None, timeout_s or self._timeout_s, job_timeout_s=None)

    async def call_job(
        self, method: str, *params: Any, on_progress: Progress | None = None, timeout_s: float | None = None
    ) -> Any:
        """Call a job and wait for its end, however long it takes unless `timeout_s` is given.

        `on_progress` gets the job (PROTOCOL 7.1) at every notification, in order, the last included. An aborted job
        raises CallError with ECANCELED.
        """
        await self._follow_jobs()
        watch = on_progress or (lambda job: None)
        return await self._call(method, params, watch, timeout_s or self._timeout_s, job_timeout_s=timeout_s)

    def subscribe(self, event: str, *, queued_max: int = EVENTS_QUEUED_MAX) -> "Subscription":
        """`async for params in client.subscribe("failover.status")`; see Subscription."""
        return Subscription(self, self._conversation, event, queued_max)

    async def login_password(self, username: str, password: str, otp_token: str | None = None) -> dict[str, Any] | None:
        """Log in and return the user's record (PROTOCOL 5.6). Raises LoginError."""
        return await self._login(login.with_password(username, password, otp_token))

    async def login_api_key(self, api_key: str, username: str | None = None) -> dict[str, Any] | None:
        """Log in with an API key: SCRAM when the user is named and the server offers it, see login.py."""
        binding = None
        if self.endpoint.tls and self._websocket is not None:
            tls = self._websocket.transport.get_extra_info("ssl_object")
            binding = certificate_hash(tls.getpeercert(binary_form=True))
        return await self._login(login.with_api_key(api_key, username, self.endpoint, binding))

    async def login_token(self, token: str) -> dict[str, Any] | None:
        return await self._login(login.with_token(token))

    async def _follow_jobs(self) -> None:
        """Subscribe to jobs, once a connection; concurrent callers share the attempt."""
        if self._jobs_subscription is None:
            self._jobs_subscription = asyncio.create_task(self.call("core.subscribe", JOB_EVENT))
        try:
            await asyncio.shield(self._jobs_subscription)
        except CallError as error:
            self._jobs_subscription = None  # the next job tries again
            if error.errno != ENOTAUTHENTICATED:  # the few methods that need no login are no jobs
                raise

    async def _open(self) -> ClientConnection:
        options: dict[str, Any] = {
            "compression": None,  # answers are small, and the daemon has better things to do
            "proxy": None,
            "open_timeout": None,  # ours
            "close_timeout": 1,
            "max_size": MESSAGE_BYTES_MAX,
            "ping_interval": self._ping_interval_s,
            "ping_timeout": self._ping_interval_s,
        }
        if self.endpoint.socket_path:
            return await unix_connect(self.endpoint.socket_path, f"ws://localhost{self.endpoint.path}", **options)
        if self.endpoint.tls:
            options["ssl"] = tls_context(self._verify)
        return await connect(self.endpoint.websocket_url, **options)

    async def _call(
        self,
        method: str,
        params: tuple[Any, ...],
        watch: Progress | None,
        timeout_s: float,
        job_timeout_s: float | None,
    ) -> Any:
        if self._websocket is None or self._lost is not None:
            raise self._lost or ClientError("not connected")
        changed = asyncio.Event()
        call, text = self._conversation.begin(method, params, changed.set, watch)
        try:
            with contextlib.suppress(ConnectionClosed):  # the reader fails the call, and knows why
                await self._websocket.send(text)
            await self._wait(call, changed, timeout_s, job_timeout_s)
            return call.result()
        finally:
            self._conversation.forget(call)

    async def _wait(
        self, call: PendingCall, changed: asyncio.Event, timeout_s: float, job_timeout_s: float | None
    ) -> None:
        """Until the call is done. A job that has shown itself is waited for by its own limit."""
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        try:
            async with asyncio.timeout(timeout_s) as limit:
                while not call.done:
                    await changed.wait()
                    changed.clear()
                    if call.answered:
                        limit.reschedule(loop.time() + JOB_LAST_WORD_S)
                    elif call.job is not None and call.on_progress is not None:
                        limit.reschedule(None if job_timeout_s is None else start_s + job_timeout_s)
        except TimeoutError:
            if not call.answered:
                raise ClientError(f"{call.method} was not answered in time: what it did is unknown") from None

    async def _login(self, dialogue: login.Dialogue) -> dict[str, Any] | None:
        try:
            request = next(dialogue)
            while True:
                method, params = request
                request = dialogue.send(await self.call(method, *params))
        except StopIteration as end:
            user: dict[str, Any] | None = end.value
            return user

    async def _read(self, websocket: ClientConnection) -> None:
        try:
            async for text in websocket:
                self._conversation.receive(text)
            self._lose(_closed(websocket))
        except ClientError as error:
            self._lose(error)
            await websocket.close(1002)
        except WebSocketException:
            self._lose(_closed(websocket))

    def _lose(self, error: ClientError) -> None:
        if self._lost is None:
            self._lost = error
            self._conversation.fail(error)


def _closed(websocket: ClientConnection) -> ClientError:
    code, reason = websocket.close_code, websocket.close_reason
    if code in (None, 1006):
        return ClientError("the connection to the daemon was lost")
    return ClientError(f"the daemon closed the connection ({code}{': ' + reason if reason else ''})")


class Subscription:
    """Events of one collection (`*` for all) as `params` of collection_update (PROTOCOL 6.2), in order.

    `async with client.subscribe(event) as events` has subscribed when its body begins and unsubscribes at its end; a
    bare `async for` subscribes at the first event asked for. Iteration ends when the server ends the subscription, and
    raises ClientError when the connection is lost or the reader fell `queued_max` events behind.
    """

    def __init__(self, client: Client, conversation: Conversation, event: str, queued_max: int) -> None:
        self._client = client
        self._conversation = conversation
        self._events: collections.deque[dict[str, Any]] = collections.deque()
        self._queued_max = queued_max
        self._subscriber = Subscriber(event, self._deliver, self._end)
        self._id: str | None = None
        self._changed = asyncio.Event()
        self._over = False
        self._error: Exception | None = None

    async def __aenter__(self) -> Self:
        if self._id is None:
            self._conversation.subscribers.append(self._subscriber)  # first: the first event may overtake the answer
            try:
                self._id = await self._client.call("core.subscribe", self._subscriber.event)
            except BaseException:
                self._leave()
                raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()
        if self._id is not None and self._client.connected:
            await self._client.call("core.unsubscribe", self._id)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> dict[str, Any]:
        await self.__aenter__()
        while not self._events and not self._over:
            self._changed.clear()
            await self._changed.wait()
        if self._events:
            return self._events.popleft()
        if self._error is not None:
            raise self._error
        raise StopAsyncIteration

    async def next(self, timeout_s: float = 10) -> dict[str, Any]:
        """The next event. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            return await anext(self)

    def _deliver(self, params: dict[str, Any]) -> None:
        if len(self._events) >= self._queued_max:
            self._leave()
            self._end(ClientError(f"the reader of {self._subscriber.event} fell too far behind"))
        else:
            self._events.append(params)
            self._changed.set()

    def _end(self, error: Exception | None) -> None:
        self._error = error
        self._over = True
        self._changed.set()

    def _leave(self) -> None:
        if self._subscriber in self._conversation.subscribers:
            self._conversation.subscribers.remove(self._subscriber)
