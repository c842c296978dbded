"""The blocking client: no asyncio, one connection; for programs that make a few calls and end."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self

from middlewared.client import login
from middlewared.client.conversation import JOB_EVENT, OPTIONS, Conversation, PendingCall, Progress, Subscriber
from middlewared.client.endpoint import certificate_hash, default_url, parse_url
from middlewared.client.errors import ClientError
from middlewared.client.websocket import WebSocket
from middlewared.errors import ENOTAUTHENTICATED, CallError

if TYPE_CHECKING:
    import ssl

CALL_TIMEOUT_S = 60.0
CONNECT_TIMEOUT_S = 10.0
JOB_LAST_WORD_S = 2.0  # how long a job's last notification may come after its answer
IDLE_S = 0.25  # how often `on_idle` runs while nothing comes


class BlockingClient:
    """Connected when built: `with BlockingClient(url) as client`. Arguments and errors as those of aio.Client."""

    def __init__(
        self,
        url: str | None = None,
        *,
        timeout_s: float = CALL_TIMEOUT_S,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        verify: "bool | ssl.SSLContext" = True,
    ) -> None:
        self.endpoint = parse_url(url or default_url())
        self._timeout_s = timeout_s
        self._conversation = Conversation()
        self._websocket = WebSocket(self.endpoint, verify=verify, timeout_s=connect_timeout_s)
        self._follows_jobs = False
        try:
            self.call("core.set_options", OPTIONS)
        except BaseException:
            self._websocket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._websocket.close()

    def call(self, method: str, *params: Any) -> Any:
        """Call a method and return its result; for a job, the job's result once it has ended."""
        return self.call_all([(method, params)])[0]

    def call_all(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        """Several calls in flight at once; their results in the order given. Raises the first error."""
        pending = [self._begin(method, params) for method, params in calls]
        deadline = time.monotonic() + self._timeout_s
        try:
            self._wait(lambda: all(call.done for call in pending), deadline, " and ".join(call[0] for call in calls))
            return [call.result() for call in pending]
        finally:
            for call in pending:
                self._conversation.forget(call)

    def call_job(
        self,
        method: str,
        *params: Any,
        on_progress: Progress,
        timeout_s: float | None = None,
        on_idle: Callable[[], None] | None = None,
    ) -> Any:
        """Call a job and wait for its end. `on_progress` gets the job at every notification, in order.

        `on_idle` runs after every message, and at least four times a second; it may make calls of its own, and may
        raise to end the waiting.

        Without `timeout_s` a job that has shown itself may take as long as the connection lives; a method that turns
        out to be no job is bounded like any call.
        """
        if not self._follows_jobs:
            try:
                self.call("core.subscribe", JOB_EVENT)
                self._follows_jobs = True
            except CallError as error:
                if error.errno != ENOTAUTHENTICATED:  # the few methods that need no login are no jobs
                    raise
        call = self._begin(method, params, on_progress)
        start = time.monotonic()
        self._wait(lambda: call.answered or call.job is not None, start + (timeout_s or self._timeout_s), method)
        self._wait(lambda: call.answered, None if timeout_s is None else start + timeout_s, method, on_idle)
        last_word = time.monotonic() + JOB_LAST_WORD_S
        while not call.done and time.monotonic() < last_word:
            self._pump(last_word)
        self._conversation.forget(call)
        return call.result()

    def events(self, event: str, timeout_s: float | None = None) -> Iterator[dict[str, Any]]:
        """Subscribe and yield the `params` of every event until `timeout_s` is over or the server ends it."""
        arrived: list[dict[str, Any]] = []
        ends: list[Exception | None] = []
        self._conversation.subscribers.append(Subscriber(event, arrived.append, ends.append))
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self.call("core.subscribe", event)
        while True:
            while arrived:
                yield arrived.pop(0)
            if ends and ends[0] is not None:
                raise ends[0]
            if ends or (deadline is not None and time.monotonic() >= deadline):
                return
            self._pump(deadline)

    def login_password(self, username: str, password: str, otp_token: str | None = None) -> None:
        self._login(login.with_password(username, password, otp_token))

    def login_api_key(self, api_key: str, username: str | None = None) -> None:
        certificate = self._websocket.peer_certificate()
        binding = None if certificate is None else certificate_hash(certificate)
        self._login(login.with_api_key(api_key, username, self.endpoint, binding))

    def _begin(self, method: str, params: Sequence[Any], on_progress: Progress | None = None) -> PendingCall:
        call, text = self._conversation.begin(method, params, on_progress=on_progress)
        self._websocket.send(text)
        return call

    def _wait(
        self,
        condition: Callable[[], bool],
        deadline: float | None,
        method: str,
        on_idle: Callable[[], None] | None = None,
    ) -> None:
        while not condition():
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                raise ClientError(f"{method} was not answered in time: what it did is unknown (--timeout waits longer)")
            if on_idle is None:
                self._pump(deadline)
            else:
                self._pump(now + IDLE_S if deadline is None else min(deadline, now + IDLE_S))
                on_idle()

    def _pump(self, deadline: float | None) -> None:
        """Take one message, or wait for one until the deadline."""
        text = self._websocket.receive(None if deadline is None else max(0.0, deadline - time.monotonic()))
        if text is not None:
            self._conversation.receive(text)

    def _login(self, dialogue: login.Dialogue) -> None:
        try:
            method, params = next(dialogue)
            while True:
                method, params = dialogue.send(self.call(method, *params))
        except StopIteration:
            return
