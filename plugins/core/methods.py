"""Handlers of `core` and `rpc`; what they do is in the RPC layer, this is only the way to it."""

import errno
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from middlewared.auth.identity import Credential
from middlewared.errors import CallError, JobAborted
from middlewared.jobs import Job
from middlewared.plugin import Call, Plugin, method
from middlewared.rpc import access, extjson, protocol, query
from middlewared.rpc.limits import DOWNLOAD_TOKEN_TTL_S
from middlewared.rpc.pipes import Output, Pipe, Spool
from middlewared.rpc.session import JOBS_OF_OTHERS, Session

ABORT_JOBS_OF_OTHERS = ()  # roles that may; full administrators always


class Core(Plugin):
    """Everything a client needs before it knows what this daemon is for."""

    # ------------------------------------------------------------------------------------- sessions

    @method("core.ping")
    async def ping(self, call: Call) -> str:
        return "pong"

    @method("core.set_options")
    async def set_options(self, call: Call, options: dict[str, Any]) -> dict[str, Any]:
        current = _session(call).options
        for name in asdict(current).keys() & options.keys():
            setattr(current, name, options[name])
        return asdict(current)

    @method("core.subscribe")
    async def subscribe(self, call: Call, event: str) -> str:
        return _session(call).subscribe(event)

    @method("core.unsubscribe")
    async def unsubscribe(self, call: Call, id: str) -> None:
        _session(call).unsubscribe(id)

    # ----------------------------------------------------------------------------------------- jobs

    @method("core.get_jobs")
    async def get_jobs(self, call: Call, filters: list[Any], options: dict[str, Any]) -> Any:
        rows = [job.to_wire() for job in self.context.jobs.all() if _may(call, job, JOBS_OF_OTHERS)]
        return query.apply(rows, filters, options)

    @method("core.job_wait")
    async def job_wait(self, call: Call, id: int) -> Any:
        target, me = self._job(call, id, JOBS_OF_OTHERS), _job(call)
        if target is me:
            raise CallError("A job cannot wait for itself", errno.EDEADLK)

        def mirror(job: Job) -> None:
            me.set_progress(**job.progress)

        unwatch = target.watch(mirror)
        try:
            mirror(target)
            return await target.wait()
        finally:
            unwatch()

    @method("core.job_abort")
    async def job_abort(self, call: Call, id: int) -> None:
        self.context.jobs.abort(self._job(call, id, ABORT_JOBS_OF_OTHERS).id)

    @method("core.job_download_logs")
    async def job_download_logs(self, call: Call, id: int, filename: str, buffered: bool) -> str:
        target = self._job(call, id, JOBS_OF_OTHERS)
        text = "".join(f"{line}\n" for line in target.log_lines).encode()

        async def write(job: Job) -> None:
            await job.output.write(text)

        output = _output(buffered)
        job = self.context.jobs.start(
            "core.job_download_logs",
            write,
            arguments=[id, filename, buffered],
            credential=call.credential,
            transient=True,
            output=output,
        )
        return self._offer(call, job, output, filename, buffered)

    @method("core.download")
    async def download(
        self, call: Call, method: str, args: list[Any], filename: str, buffered: bool
    ) -> tuple[int, str]:
        session, output = _session(call), _output(buffered)
        job = session.dispatcher.start_job(
            method, args, credential=call.credential, origin=call.origin, session=session, special=False, output=output
        )
        return job.id, self._offer(call, job, output, filename, buffered)

    @method("core.bulk")
    async def bulk(
        self, call: Call, method: str, params: list[list[Any]], description: str | None
    ) -> list[dict[str, Any]]:
        me, dispatcher = _job(call), _session(call).dispatcher
        spec = dispatcher.method(method)
        access.require(call.credential, spec.auth, spec.roles)
        if method == "core.bulk":
            raise CallError("core.bulk cannot call itself", errno.EINVAL)
        start = self._start_job if spec.job else self._call_plainly
        results = []
        for number, arguments in enumerate(params):
            me.set_progress(100 * number / len(params), _bulk_description(description, arguments))
            results.append(await start(call, method, arguments))
        return results

    async def _call_plainly(self, call: Call, name: str, arguments: list[Any]) -> dict[str, Any]:
        session = _session(call)
        work = session.dispatcher.call(
            name, arguments, credential=call.credential, origin=call.origin, session=session, special=False
        )
        return await _one_result(None, lambda: work)

    async def _start_job(self, call: Call, name: str, arguments: list[Any]) -> dict[str, Any]:
        session = _session(call)
        try:
            job = session.dispatcher.start_job(
                name, arguments, credential=call.credential, origin=call.origin, session=session, special=False
            )
        except Exception as error:
            return {"job_id": None, "result": None, "error": str(protocol.describe(error))}
        return await _one_result(job.id, job.wait)

    def _job(self, call: Call, number: int, roles: tuple[str, ...]) -> Job:
        """Somebody's job, if the caller may touch it. Raises ValidationErrors (ENOENT), CallError EPERM."""
        job = self.context.jobs.get(number)
        if not _may(call, job, roles):
            raise CallError(f"Job {number} is not yours", errno.EPERM)
        return job

    def _offer(self, call: Call, job: Job, output: Output, filename: str, buffered: bool) -> str:
        _session(call).dispatcher.downloads.offer(job.id, output, filename, buffered=buffered)
        token = self.context.authenticator.generate_token(
            call.credential,
            call.origin,
            ttl_s=DOWNLOAD_TOKEN_TTL_S,
            attrs={"job": job.id},
            match_origin=not call.origin.is_unix,
            single_use=True,
        )
        return f"/_download/{job.id}?auth_token={token}"

    # -------------------------------------------------------------------------------- introspection

    @method("core.get_methods")
    async def get_methods(self, call: Call, service: str | None, target: str) -> dict[str, Any]:
        return self.context.registry.get_methods(service, target, call.credential)

    @method("core.get_services")
    async def get_services(self, call: Call, target: str) -> dict[str, Any]:
        return self.context.registry.get_services(target)

    @method("core.get_events")
    async def get_events(self, call: Call) -> dict[str, Any]:
        return self.context.registry.get_events(call.credential)

    @method("rpc.discover")
    async def discover(self, call: Call) -> dict[str, Any]:
        return self.context.registry.openrpc


def _session(call: Call) -> Session:
    if call.session is None:
        raise CallError("This method is for connections only", errno.EOPNOTSUPP)
    return call.session


def _job(call: Call) -> Job:
    if call.job is None:
        raise CallError("This method is a job", errno.EINVAL)
    return call.job


def _may(call: Call, job: Job, roles: tuple[str, ...]) -> bool:
    credential: Credential = call.credential
    return credential.may(roles) or job.owner == credential.username


def _output(buffered: bool) -> Output:
    return Spool() if buffered else Pipe()


def _bulk_description(template: str | None, arguments: list[Any]) -> str | None:
    """`{0}` is the first argument. Plain replacement: str.format would let clients look into our objects."""
    if template is None:
        return None
    for number, argument in enumerate(arguments):
        template = template.replace(f"{{{number}}}", str(argument))
    return template


async def _one_result(job_id: int | None, work: Callable[[], Any]) -> dict[str, Any]:
    try:
        return {"job_id": job_id, "result": extjson.plain(await work()), "error": None}
    except JobAborted:
        return {"job_id": job_id, "result": None, "error": "Aborted"}
    except Exception as error:
        return {"job_id": job_id, "result": None, "error": str(protocol.describe(error))}
