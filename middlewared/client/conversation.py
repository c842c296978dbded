"""One client's side of a connection, without I/O: frames in, answers and events out (PROTOCOL 2, 6 and 7).

A shell (aio.py, blocking.py) sends the text that `begin` makes, gives every text it receives to `receive`, and calls
`fail` once when the connection is gone. Nothing here waits.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

from middlewared.client import extended_json
from middlewared.client.errors import ClientError
from middlewared.errors import ENOMETHOD, CallError, ValidationErrors, errname

METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
JOB_EVENT = "core.get_jobs"
JOB_FINISHED = ("SUCCESS", "FAILED", "ABORTED")
OPTIONS = {"legacy_jobs": False, "private_methods": True, "py_exceptions": False}

Progress = Callable[[dict[str, Any]], None]  # gets the job (PROTOCOL 7.1) whenever it changed, in order
Listener = Callable[[dict[str, Any]], None]  # gets the `params` of collection_update (PROTOCOL 6.2)


class PendingCall:
    """One request on its way. `on_change` is the shell's: it runs whenever `answered`, `job` or `done` may differ."""

    def __init__(self, request_id: str, method: str, on_change: Callable[[], None], on_progress: Progress | None):
        self.id = request_id
        self.method = method
        self.on_change = on_change
        self.on_progress = on_progress
        self.answered = False
        self.job: dict[str, Any] | None = None
        self._result: Any = None
        self._error: Exception | None = None
        self._settled = False

    @property
    def done(self) -> bool:
        """Answered, and the job's last notification is here too: it may come after the answer (PROTOCOL 7.2)."""
        last_seen = self.job is None or self.on_progress is None or self.job.get("state") in JOB_FINISHED
        return self.answered and (last_seen or self._settled or self._error is not None)

    def settle(self) -> None:
        """The answer has to do: no more notifications will come."""
        self._settled = True
        self.on_change()

    def answer(self, result: Any = None, error: Exception | None = None) -> None:
        self.answered, self._result, self._error = True, result, error
        self.on_change()

    def result(self) -> Any:
        """What the method returned. Raises its error; an aborted job is a CallError with ECANCELED."""
        if self._error is not None:
            raise self._error
        if self.job is not None and self.job.get("state") == "ABORTED":
            import errno

            raise CallError(f"{self.method} was aborted", errno.ECANCELED)
        return self._result

    def update_job(self, fields: dict[str, Any]) -> None:
        self.job = {**(self.job or {}), **fields}
        if self.on_progress is not None:
            try:
                self.on_progress(self.job)
            except Exception as error:  # the caller's own mistake: only its call fails, not the connection
                self.answer(error=error)
        self.on_change()


class Subscriber:
    """Somebody who wants events of one collection, or of all (`*`)."""

    def __init__(self, event: str, deliver: Listener, ended: Callable[[Exception | None], None]) -> None:
        self.event = event
        self.deliver = deliver
        self.ended = ended


class Conversation:
    def __init__(self) -> None:
        # Job notifications name requests of all connections: ours must not look like anybody else's.
        self._prefix = os.urandom(6).hex()
        self._count = 0
        self._calls: dict[str, PendingCall] = {}
        self.subscribers: list[Subscriber] = []

    def begin(
        self,
        method: str,
        params: Sequence[Any],
        on_change: Callable[[], None] = lambda: None,
        on_progress: Progress | None = None,
    ) -> tuple[PendingCall, str]:
        """A new call and the frame that makes it."""
        self._count += 1
        call = PendingCall(f"{self._prefix}-{self._count}", method, on_change, on_progress)
        request = {"jsonrpc": "2.0", "method": method, "id": call.id, "params": list(params)}
        text = extended_json.dumps(request)
        self._calls[call.id] = call
        return call, text

    def forget(self, call: PendingCall) -> None:
        """Nobody waits for this call any more."""
        self._calls.pop(call.id, None)

    def fail(self, error: Exception) -> None:
        """The connection is gone: so is everything that depended on it."""
        calls, self._calls = self._calls, {}
        for call in calls.values():
            if call.answered:
                call.settle()
            else:
                call.answer(error=error)
        subscribers, self.subscribers = self.subscribers, []
        for subscriber in subscribers:
            subscriber.ended(error)

    def receive(self, text: str | bytes) -> None:
        """Take one frame. Raises ClientError when it is not the protocol: the connection is of no use then."""
        try:
            message = extended_json.loads(text)
        except ValueError as error:
            raise ClientError(f"the server sent something that is not JSON: {error}") from error
        if not isinstance(message, dict):
            raise ClientError("the server sent something that is not JSON-RPC")
        if "method" in message:
            self._notified(message["method"], message.get("params") or {})
        elif message.get("id") is None:
            self._fail_calls(_error(message.get("error") or {}, "the connection"))
        elif (call := self._calls.get(message["id"])) and not call.answered:
            if "error" in message:
                call.answer(error=_error(message["error"], call.method))
            else:
                call.answer(message.get("result"))

    def _fail_calls(self, error: Exception) -> None:
        """The server could not tell which request was wrong (PROTOCOL 2.1): no call may wait for ever."""
        for call in list(self._calls.values()):
            if not call.answered:
                call.answer(error=error)

    def _notified(self, method: str, params: dict[str, Any]) -> None:
        event = params.get("collection", "")
        if method == "notify_unsubscribed":
            data = params.get("error")
            error = None if data is None else CallError(_plain(data), data.get("error") or 0, data.get("extra"))
            for subscriber in [each for each in self.subscribers if each.event == event]:
                self.subscribers.remove(subscriber)
                subscriber.ended(error)
        elif method == "collection_update":
            if event == JOB_EVENT:
                self._job_changed(params.get("fields") or {})
            for subscriber in list(self.subscribers):
                if subscriber.event in (event, "*"):
                    subscriber.deliver(params)

    def _job_changed(self, fields: dict[str, Any]) -> None:
        ours = set(fields.get("message_ids") or ())
        for call in list(self._calls.values()):
            if call.id in ours:
                call.update_job(fields)


def _plain(data: dict[str, Any]) -> str:
    """The text without its `[ERRNAME] `, which CallError puts there again."""
    reason = str(data.get("reason") or data.get("errname") or "no reason given")
    return reason.removeprefix(f"[{data.get('errname') or errname(data.get('error') or 0)}] ")


def _error(error: dict[str, Any], method: str) -> Exception:
    """A JSON-RPC error object as the exception that the server raised (PROTOCOL 2.4)."""
    import errno

    code, data = error.get("code"), error.get("data") or {}
    if code == INVALID_PARAMS and isinstance(data.get("extra"), list):
        return ValidationErrors((attribute or None, text, number) for attribute, text, number in data["extra"])
    if code == METHOD_NOT_FOUND:
        return CallError(f"{method}: {error.get('message')}", ENOMETHOD)
    if data:
        return CallError(_plain(data), data.get("error") or errno.EFAULT, data.get("extra"))
    return CallError(f"{method}: {error.get('message') or 'refused without a reason'}", errno.EFAULT)
