"""Calls over one connection, in both directions."""

import asyncio
import contextlib
import errno
import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from middlewared.errors import EREMOTENODEERROR, CallError, ValidationErrors
from middlewared.peer.codec import (
    Call,
    Cancel,
    Changes,
    CodecError,
    Failure,
    Progress,
    Result,
    encode,
    error_of,
    failure_of,
)
from middlewared.peer.outbox import Message, Outbox, link_lost

log = logging.getLogger(__name__)

CALLS_MAX = 64  # in flight, in each direction
ERROR_CHARS_MAX = 500

ProgressCallback = Callable[[Any], None]
# method, arguments, who is told of its progress; None: nobody, and of a job the number is wanted at once
ServeCall = Callable[[str, list[Any], ProgressCallback | None], Awaitable[Any]]
ServeChanges = Callable[[bytes], Awaitable[None]]


def cancelled_from_outside() -> bool:
    """Inside `except CancelledError`: was this task cancelled, or did what it awaited merely end so?"""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


@dataclass(slots=True)
class _Pending:
    answer: asyncio.Future[Any]
    on_progress: ProgressCallback | None


class Calls:
    """Our calls and changes that wait for an answer, and the other's that we run."""

    def __init__(self, outbox: Outbox, ids: Iterator[int], serve: ServeCall, serve_changes: ServeChanges) -> None:
        self._outbox = outbox
        self._ids = ids
        self._serve = serve
        self._serve_changes = serve_changes
        self._pending: dict[int, _Pending] = {}
        self._serving: dict[int, asyncio.Task[None]] = {}

    async def call(
        self,
        method: str,
        args: list[Any],
        *,
        timeout_s: float,
        on_progress: ProgressCallback | None = None,
        job_id_only: bool = False,
    ) -> Any:
        """Run a method on the other controller. Raises CallError, ValidationErrors."""
        number = next(self._ids)
        try:
            request = encode(Call(number, method, args, job_id_only))
        except CodecError as error:
            raise CallError(f"The arguments of {method} cannot be sent: {error}", errno.EINVAL) from error
        return await self._ask(number, request, timeout_s, on_progress)

    async def send_changes(self, data: bytes, *, timeout_s: float) -> None:
        """Returns once the other controller applied the changes. Raises CallError."""
        number = next(self._ids)
        await self._ask(number, encode(Changes(number, data)), timeout_s, None)

    async def _ask(self, number: int, request: Message, timeout_s: float, on_progress: ProgressCallback | None) -> Any:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._pending[number] = _Pending(answer, on_progress)
        try:
            async with asyncio.timeout(timeout_s):
                await self._outbox.put(request)
                return await answer
        except TimeoutError as error:
            raise CallError("Call timeout", errno.EFAULT) from error
        finally:
            if self._pending.pop(number, None) is not None:  # no answer came
                self._give_up(number)
            if answer.done() and not answer.cancelled():
                answer.exception()  # it counts as seen even when something else ended the wait

    def _give_up(self, number: int) -> None:
        with contextlib.suppress(CallError):  # the link is gone, and the other side cancels by itself
            self._outbox.put_now(encode(Cancel(number)))

    def on_call(self, frame: Call | Changes) -> None:
        if frame.id in self._serving:
            raise CodecError(f"call {frame.id} is still running")
        if len(self._serving) >= CALLS_MAX:
            busy = CallError(f"The other controller already runs {CALLS_MAX} calls", errno.EBUSY)
            self._outbox.put_now(encode(failure_of(frame.id, busy)))
            return
        task = asyncio.create_task(self._answer(frame))
        self._serving[frame.id] = task
        task.add_done_callback(lambda _task: self._serving.pop(frame.id, None))

    def on_cancel(self, frame: Cancel) -> None:
        if (task := self._serving.get(frame.id)) is not None:
            task.cancel()

    def on_progress(self, frame: Progress) -> None:
        pending = self._pending.get(frame.id)
        if pending is None or pending.on_progress is None:
            return
        try:
            pending.on_progress(frame.progress)
        except Exception:
            log.exception("a progress callback failed")

    def on_answer(self, frame: Result | Failure) -> None:
        pending = self._pending.pop(frame.id, None)
        if pending is None or pending.answer.done():
            return  # answered after its deadline: the caller has gone
        if isinstance(frame, Result):
            pending.answer.set_result(frame.result)
        else:
            pending.answer.set_exception(error_of(frame))

    def close(self) -> None:
        """The connection ended: our callers are told at once, the other's calls are cancelled."""
        pending, self._pending = self._pending, {}
        for each in pending.values():
            if not each.answer.done():
                each.answer.set_exception(link_lost())
        for task in self._serving.values():
            task.cancel()

    async def _answer(self, frame: Call | Changes) -> None:
        try:
            reply = encode(Result(frame.id, await self._run(frame)))
        except asyncio.CancelledError:
            if cancelled_from_outside():
                raise  # nobody waits for an answer
            reply = encode(failure_of(frame.id, CallError(f"{_name(frame)} was aborted", errno.ECANCELED)))
        except Exception as error:
            reply = _refusal(frame.id, _name(frame), error)
        with contextlib.suppress(CallError):  # the link is gone; the caller knows
            await self._outbox.put(reply)

    async def _run(self, frame: Call | Changes) -> Any:
        if isinstance(frame, Changes):
            return await self._serve_changes(frame.data)
        on_progress = None if frame.job_id_only else lambda value: self._report(frame, value)
        return await self._serve(frame.method, frame.args, on_progress)

    def _report(self, frame: Call, value: Any) -> None:
        """Progress is news, not a promise: it is dropped when there is no room, or nobody to tell."""
        try:
            self._outbox.put_now(encode(Progress(frame.id, value)))
        except CallError:
            pass
        except CodecError as error:
            log.warning("progress of %s cannot be sent: %s", frame.method, error)


def _name(frame: Call | Changes) -> str:
    return frame.method if isinstance(frame, Call) else "applying changes"


def _refusal(number: int, name: str, error: Exception) -> Message:
    if isinstance(error, CallError | ValidationErrors):
        try:
            return encode(failure_of(number, error))
        except CodecError as unfit:  # an extra without a JSON form, or a text beyond bounds
            log.warning("the error of %s cannot be sent whole: %s", name, unfit)
            return encode(failure_of(number, CallError(str(error)[:ERROR_CHARS_MAX])))
    if isinstance(error, CodecError):
        text = f"The result of {name} cannot be sent: {error}"
    else:
        log.error("%s, called by the other controller, failed", name, exc_info=error)
        text = f"{name} failed on the other controller: {type(error).__name__}: {error}"
    return encode(failure_of(number, CallError(text[:ERROR_CHARS_MAX], EREMOTENODEERROR)))
