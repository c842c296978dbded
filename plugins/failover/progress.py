"""Every change of role is a job: its phases are the progress, its end the result."""

import asyncio

from middlewared.errors import CallError
from middlewared.jobs import Job, Jobs
from middlewared.plugins.failover.state import Phase, Role, State

_PERCENT = {
    Phase.ASKING: (5, "Asking the other controller to hand over"),
    Phase.FENCING: (20, "Taking the reservations on the disks"),
    Phase.IMPORTING: (40, "Importing pools"),
    Phase.STARTING: (70, "Starting services"),
    Phase.OPENING: (90, "Letting traffic in"),
    Phase.CLOSING: (10, "Keeping traffic out"),
    Phase.STOPPING: (20, "Stopping services"),
    Phase.EXPORTING: (40, "Exporting pools"),
    Phase.VERIFYING: (80, "Verifying that nothing is imported"),
    Phase.RELEASING: (90, "Releasing the reservations"),
}


class Progress:
    """Opens a job when the engine leaves a resting role, and ends it when it rests again."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._job: Job | None = None
        self._end: asyncio.Future[str] | None = None

    def follow(self, before: State, after: State) -> None:
        moving = after.role in (Role.TAKING, Role.YIELDING)
        if moving and self._end is None:
            self._begin("failover.takeover" if after.role is Role.TAKING else "failover.handover", after)
        if moving and self._job is not None and after.phase is not None and before.phase is not after.phase:
            percent, text = _PERCENT[after.phase]
            self._job.set_progress(percent, text)
        if not moving and self._end is not None:
            if not self._end.done():
                self._end.set_result(after.error if after.role is Role.ERROR else "")
            self._job = self._end = None

    def _begin(self, name: str, state: State) -> None:
        end: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        role = "becoming MASTER" if state.role is Role.TAKING else "giving up"

        async def run(job: Job) -> None:
            trouble = await end
            if trouble:
                raise CallError(trouble)

        self._end = end
        self._job = self._jobs.start(name, run, description=f"{role}: {state.cause}", abortable=False)
