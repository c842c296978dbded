"""Long-running calls: their states, progress, locks and history (PROTOCOL 7).

A job is started by the dispatcher, tells everybody of every change through the bus, and is kept for a while after its
end. All bounds are at the top.
"""

import asyncio
import contextlib
import enum
import errno
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from middlewared.auth.identity import INTERNAL, Credential
from middlewared.bus import Bus, Event
from middlewared.errors import CallError, JobAborted, ValidationErrors, not_found
from middlewared.rpc import extjson, protocol
from middlewared.rpc.pipes import Output, Uploads

RUNNING_MAX = 64
UNFINISHED_MAX = 1000
UNFINISHED_PER_USER_MAX = 200
FINISHED_KEPT_MAX = 1000
JOINED_MAX = 100  # calls that wait for one job
LOG_LINES_MAX = 10_000
EXCERPT_LINES = 10

EVENT = "core.get_jobs"


class JobState(enum.StrEnum):
    WAITING = "WAITING"
    RUNNING = "RUNNING"
    SUCCESS = "SUCCESS"
    FAILED = "FAILED"
    ABORTED = "ABORTED"

    @property
    def finished(self) -> bool:
        return self not in (JobState.WAITING, JobState.RUNNING)


def _owner(credential: Credential | None) -> str | None:
    return None if credential is None or credential == INTERNAL else credential.username


Run = Callable[["Job"], Awaitable[Any]]


class Job:
    """One call in progress or finished. Handlers use set_progress, log, output and input_chunks; `Jobs` the rest."""

    def __init__(self, number: int, method: str, arguments: list[Any], credential: Credential | None) -> None:
        self.id = number
        self.method = method
        self.arguments = arguments  # masked
        self.credential = credential
        self.state = JobState.WAITING
        self.message_ids: list[Any] = []
        self.lock: str | None = None
        self.abortable = True
        self.transient = False
        self.light = False
        self.description: str | None = None
        self.progress: dict[str, Any] = {"percent": 0, "description": "", "extra": None}
        self.result: Any = None
        self.result_encoding_error: str | None = None
        self.failure: BaseException | None = None
        self.started_at = datetime.now(UTC)
        self.finished_at: datetime | None = None
        self._watchers: list[Callable[[Job], None]] = []
        self._uploads: Uploads | None = None
        self._output: Output | None = None
        self._log_head: list[str] = []
        self._log_lines: list[str] = []
        self._finished = asyncio.Event()

    # ------------------------------------------------------------------------------- for handlers

    def set_progress(self, percent: float | None = None, description: str | None = None, extra: Any = None) -> None:
        """Tell how far the job is; None leaves that part as it is. Percent is cut to an integer of 0..100."""
        progress = dict(self.progress)
        if percent is not None:
            progress["percent"] = max(0, min(100, int(percent)))
        if description is not None:
            progress["description"] = description
        if extra is not None:
            progress["extra"] = extra
        if progress != self.progress and not self.state.finished:
            self.progress = progress
            self.changed()

    def set_description(self, description: str) -> None:
        """Say what this job is about, in words for people."""
        self.description = description
        self.changed()

    def log(self, line: str) -> None:
        """Add a line to the job's log (`core.job_download_logs`); of a long one the beginning is forgotten."""
        if len(self._log_head) < EXCERPT_LINES:
            self._log_head.append(line)
        self._log_lines.append(line)
        if len(self._log_lines) > LOG_LINES_MAX:
            del self._log_lines[: LOG_LINES_MAX // 10]

    @property
    def output(self) -> Output:
        """The stream that is downloaded. Raises CallError when the caller opened none."""
        if self._output is None:
            raise CallError("Pipe 'output' is not open")
        return self._output

    @property
    def has_input(self) -> bool:
        return self._uploads is not None

    def input_files(self) -> AsyncIterator[Any]:
        """The uploaded files, each with `chunks()`. Raises CallError when nothing is uploaded."""
        if self._uploads is None:
            raise CallError("Pipe 'input' is not open")
        return self._uploads.files()

    async def input_chunks(self) -> AsyncIterator[bytes]:
        """The bytes of the first uploaded file. Raises CallError when nothing is uploaded."""
        async for file in self.input_files():
            async for chunk in file.chunks():
                yield chunk
            return

    # ----------------------------------------------------------------------------- for everybody

    @property
    def log_lines(self) -> list[str]:
        return list(self._log_lines)

    @property
    def owner(self) -> str | None:
        """The user who started it; None: the daemon itself."""
        return _owner(self.credential)

    def watch(self, watcher: Callable[["Job"], None]) -> Callable[[], None]:
        """Call `watcher` after every change; the returned function ends that."""
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher)

    def changed(self) -> None:
        """Tell the watchers."""
        for watcher in tuple(self._watchers):
            watcher(self)

    async def wait(self) -> Any:
        """The result. Raises the job's error, or JobAborted."""
        await self._finished.wait()
        if self.state is JobState.ABORTED:
            raise JobAborted
        if self.failure is not None:
            raise self.failure
        return self.result

    def to_wire(self) -> dict[str, Any]:
        """The job object (PROTOCOL 7.1), independent of what happens to the job later."""
        return {
            "id": self.id,
            "message_ids": list(self.message_ids),
            "method": self.method,
            "arguments": self.arguments,
            "transient": self.transient,
            "description": self.description,
            "abortable": self.abortable,
            "logs_path": None,
            "logs_excerpt": self._excerpt(),
            "progress": self.progress,
            "result": self.result,
            "result_encoding_error": self.result_encoding_error,
            **_failure_to_wire(self.failure),
            "state": self.state.value,
            "time_started": self.started_at,
            "time_finished": self.finished_at,
            "credentials": _credential_to_wire(self.credential),
        }

    def _excerpt(self) -> str | None:
        if not self._log_lines:
            return None
        tail = self._log_lines[-EXCERPT_LINES:] if len(self._log_lines) > EXCERPT_LINES else []
        return "\n".join([*self._log_head, *tail[-(len(self._log_lines) - EXCERPT_LINES) :]])

    def finish(self, state: JobState) -> None:
        """Enter a terminal state, tell, and let go of the streams and of everybody who waits."""
        self.state = state
        self.finished_at = datetime.now(UTC)
        if self._uploads is not None:
            self._uploads.abandon()
        if self._output is not None:
            self._output.close()
        self.changed()
        self._finished.set()

    def open_streams(self, uploads: Uploads | None, output: Output | None) -> None:
        self._uploads, self._output = uploads, output


def _credential_to_wire(credential: Credential | None) -> dict[str, Any] | None:
    if credential is None or credential == INTERNAL:
        return None
    return {"type": credential.kind, "data": {"username": credential.username}}


def _failure_to_wire(failure: BaseException | None) -> dict[str, Any]:
    if failure is None:
        return {"error": None, "exception": None, "exc_info": None}
    extra = protocol.triples(failure) if isinstance(failure, ValidationErrors) else getattr(failure, "extra", None)
    return {
        "error": protocol.reason_of(failure),
        "exception": protocol.formatted(failure),
        "exc_info": {
            "repr": protocol.repr_of(failure),
            "type": "VALIDATION" if isinstance(failure, ValidationErrors) else protocol.kind_of(failure),
            "errno": getattr(failure, "errno", None),
            "extra": extra,
        },
    }


class Jobs:
    """All jobs of this daemon since it started; the finished ones as far as history goes back."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._jobs: dict[int, Job] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._last_id = 0
        self._slots = asyncio.Semaphore(RUNNING_MAX)
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def start(
        self,
        method: str,
        run: Run,
        *,
        arguments: Iterable[Any] = (),
        credential: Credential | None = None,
        message_id: Any = None,
        lock: str | None = None,
        abortable: bool = True,
        transient: bool = False,
        description: str | None = None,
        light: bool = False,
        joinable: bool = True,
        uploads: Uploads | None = None,
        output: Output | None = None,
    ) -> Job:
        """Start a job, or join one that waits for the same lock with the same arguments; `added` is out on return.

        `light`: it only waits for other jobs, and so needs no place among the running ones (it could wait for ever for
        what waits for it). Raises CallError EBUSY when too many jobs are unfinished.
        """
        arguments = list(arguments)
        if lock is not None and joinable:
            waiting = self._waiting_twin(lock, method, arguments, credential)
            if waiting is not None:
                if len(waiting.message_ids) >= JOINED_MAX:
                    raise CallError("Too many calls wait for this job; try again when it has ended", errno.EBUSY)
                if message_id is not None:
                    waiting.message_ids.append(message_id)
                waiting.changed()
                return waiting
        self._check_room(credential)
        self._last_id += 1
        job = Job(self._last_id, method, arguments, credential)
        job.lock, job.abortable, job.transient = lock, abortable, transient
        job.description, job.light = description, light
        job.open_streams(uploads, output)
        if message_id is not None:
            job.message_ids.append(message_id)
        job.watch(self._tell)
        self._jobs[job.id] = job
        self._emit("added", job)
        task = self._tasks[job.id] = asyncio.create_task(self._run(job, run), name=f"job {job.id} {method}")
        task.add_done_callback(lambda _task: self._ended(job))
        return job

    def get(self, number: int) -> Job:
        """Raises ValidationErrors (ENOENT) for a job that never was or is forgotten."""
        if number not in self._jobs:
            raise not_found(f"Job {number} does not exist")
        return self._jobs[number]

    def all(self) -> list[Job]:
        return list(self._jobs.values())

    def abort(self, number: int) -> None:
        """Ask a job to end. Raises CallError for one that cannot be aborted; a finished one is left alone."""
        job = self.get(number)
        if job.state.finished:
            return
        if not job.abortable:
            raise CallError(f"Job {number} ({job.method}) cannot be aborted", errno.EOPNOTSUPP)
        self._tasks[number].cancel()

    async def stop(self) -> None:
        """Abort everything, for the end of the daemon."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, job: Job, run: Run) -> None:
        try:
            async with self._place(job):
                job.state = JobState.RUNNING
                job.changed()
                job.result = await run(job)
            self._check_result(job)
            job.finish(JobState.SUCCESS)
        except asyncio.CancelledError:
            job.finish(JobState.ABORTED)
        except JobAborted:  # it waited for another one, which was
            job.finish(JobState.ABORTED)
        except Exception as error:
            job.failure = protocol.describe(error)
            job.finish(JobState.FAILED)

    def _ended(self, job: Job) -> None:
        if not job.state.finished:  # cancelled before its first step, which then never ran
            job.finish(JobState.ABORTED)
        del self._tasks[job.id]
        while len(self._jobs) - len(self._tasks) > FINISHED_KEPT_MAX:
            oldest = next(number for number, kept in self._jobs.items() if kept.state.finished)
            del self._jobs[oldest]

    @contextlib.asynccontextmanager
    async def _place(self, job: Job) -> AsyncIterator[None]:
        """The lock first, then a running slot: jobs that wait for a lock hold nobody else up."""
        async with contextlib.AsyncExitStack() as stack:
            if job.lock is not None:
                await stack.enter_async_context(self._locks[job.lock])
            if not job.light:
                await stack.enter_async_context(self._slots)
            yield

    @staticmethod
    def _check_result(job: Job) -> None:
        try:
            extjson.dumps(job.result)
        except TypeError as error:
            job.result, job.result_encoding_error = None, str(error)

    def _waiting_twin(self, lock: str, method: str, arguments: list[Any], credential: Credential | None) -> Job | None:
        """A job of the same user that waits for the lock and would do just what is asked for."""
        if not self._locks[lock].locked():
            return None
        wanted = (JobState.WAITING, lock, method, _owner(credential), arguments)
        unfinished = (self._jobs[number] for number in self._tasks)
        same = (job for job in unfinished if (job.state, job.lock, job.method, job.owner, job.arguments) == wanted)
        return next(same, None)

    def _check_room(self, credential: Credential | None) -> None:
        unfinished = [self._jobs[number] for number in self._tasks]
        if len(unfinished) >= UNFINISHED_MAX:
            raise CallError("Too many jobs are waiting; try again when some have ended", errno.EBUSY)
        owner = _owner(credential)
        if owner is not None and sum(job.owner == owner for job in unfinished) >= UNFINISHED_PER_USER_MAX:
            raise CallError("Too many of your jobs are waiting; try again when some have ended", errno.EBUSY)

    def _tell(self, job: Job) -> None:
        self._emit("changed", job)

    def _emit(self, message: Any, job: Job) -> None:
        if not job.transient:
            self._bus.emit(Event(EVENT, message, job.to_wire(), job.id))
