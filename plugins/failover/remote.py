"""Calls of the other controller's methods (`failover.call_remote`, PROTOCOL 12)."""

from collections.abc import Mapping
from typing import Any

from middlewared.jobs import Job
from middlewared.plugin import Call, Context

_JOB_TIMEOUT_S = 86_400.0  # a job ends when it ends; not even a day is waited for one that never does


async def call_remote(context: Context, call: Call, name: str, args: list[Any], options: Mapping[str, Any]) -> Any:
    """What the other answers. With `job`, a job here follows the one there, and its result is the answer, or with
    `job_return` its number. Raises CallError, ValidationErrors: the other's own, and those of PeerLink.call."""
    reach = {
        "connect_timeout_s": options["connect_timeout"],
        "raise_connect_error": options["raise_connect_error"],
    }
    if not (options["job"] or options["job_return"]):
        return await context.peer.call(name, args, timeout_s=options["timeout"], job_id_only=True, **reach)

    async def follow(job: Job) -> Any:
        return await context.peer.call(
            name, args, timeout_s=_JOB_TIMEOUT_S, on_progress=lambda progress: mirror(job, progress), **reach
        )

    job = context.jobs.start(
        "failover.call_remote",
        follow,
        arguments=[name],  # the others may be secret there
        credential=call.credential,
        description=f"{name} on the other controller",
        light=True,
    )
    return job.id if options["job_return"] else await job.wait()


def mirror(job: Job, progress: Any) -> None:
    """Show the progress of the other's job as that of ours. What a newer release says otherwise is left out."""
    if isinstance(progress, Mapping):
        percent, description = progress.get("percent"), progress.get("description")
        job.set_progress(
            percent if isinstance(percent, int | float) else None,
            description if isinstance(description, str) else None,
            progress.get("extra"),
        )
