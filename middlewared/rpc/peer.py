"""How calls of the other controller run here."""

import errno
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from middlewared.auth.identity import LOCAL_ORIGIN, NODE
from middlewared.errors import ENOMETHOD, CallError, JobAborted
from middlewared.rpc.dispatch import Dispatcher
from middlewared.rpc.protocol import MethodNotFound

OnProgress = Callable[[Mapping[str, Any]], None]


class PeerCalls:
    """Serves a link's calls. A job is waited for and its progress told; who gives up waiting does not end it."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    async def __call__(self, method: str, args: Sequence[Any], on_progress: OnProgress | None) -> Any:
        """`on_progress` None: of a job its number is wanted, at once. Raises CallError, ValidationErrors."""
        try:
            if on_progress is not None and self._dispatcher.method(method).job:
                return await self._job(method, args, on_progress)
            return await self._dispatcher.call(
                method, args, credential=NODE, origin=LOCAL_ORIGIN, job_id_only=on_progress is None
            )
        except MethodNotFound as error:
            text = f"The other controller knows no method {method}: does it run the same version?"
            raise CallError(text, ENOMETHOD) from error
        except JobAborted as error:
            raise CallError(f"{method} was aborted on the other controller", errno.ECANCELED) from error

    async def _job(self, method: str, args: Sequence[Any], on_progress: OnProgress) -> Any:
        job = self._dispatcher.start_job(method, args, credential=NODE, origin=LOCAL_ORIGIN)
        unwatch = job.watch(lambda changed: on_progress(changed.progress))
        try:
            on_progress(job.progress)
            return await job.wait()
        finally:
            unwatch()
