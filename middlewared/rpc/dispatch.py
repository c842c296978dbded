"""The one door to every method: sessions, uploads, the other controller and the daemon itself all call through here.

Here, and nowhere else, a caller's permission is checked, arguments are validated, jobs are started and changes audited.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from middlewared.auth.identity import INTERNAL, LOCAL_ORIGIN, Credential, Origin
from middlewared.auth.ratelimit import MinuteLimiter
from middlewared.errors import CallError
from middlewared.rpc import access, protocol, validation
from middlewared.rpc.downloads import Downloads
from middlewared.rpc.pipes import Output, Uploads
from middlewared.rpc.registry import Registry
from middlewared.rpc.schemas import MethodSpec


class JobStarter(Protocol):
    """What the dispatcher needs of `middlewared.jobs.Jobs`."""

    def start(
        self,
        method: str,
        run: Callable[[Any], Awaitable[Any]],
        *,
        arguments: Sequence[Any],
        credential: Credential | None,
        message_id: Any,
        lock: str | None,
        abortable: bool,
        transient: bool,
        light: bool,
        joinable: bool,
        uploads: Uploads | None,
        output: Output | None,
    ) -> Any: ...


class Audit(Protocol):
    """What the dispatcher needs of `middlewared.audit.AuditLog.record`."""

    def __call__(
        self, *, username: str, address: str, method: str, arguments: Any, success: bool, error: str | None = None
    ) -> None: ...


class Dispatcher:
    """Calls methods by name. `make_call(credential, origin, session, job)` makes a handler's first argument."""

    def __init__(
        self,
        registry: Registry,
        jobs: JobStarter,
        make_call: Callable[[Any, Origin, Any, Any], Any],
        audit: Audit | None = None,
        anonymous: MinuteLimiter | None = None,
    ) -> None:
        """`anonymous` bounds the calls without a login, by address."""
        self.registry = registry
        self.downloads = Downloads()
        self._jobs = jobs
        self._make_call = make_call
        self._audit = audit
        self._anonymous = anonymous

    async def call(
        self,
        name: str,
        params: Sequence[Any],
        *,
        credential: Credential | None,
        origin: Origin,
        session: Any = None,
        message_id: Any = None,
        job_id_only: bool = False,
        special: bool = True,
    ) -> Any:
        """Call a method and return its result; a job is waited for, unless `job_id_only`.

        `special`: the arguments came as plain JSON and may hold extended JSON. Raises MethodNotFound, CallError (207,
        EACCES, the method's own), ValidationErrors, JobAborted, or whatever else the method raised.
        """
        method = self.method(name)
        if method.job:
            job = self.start_job(
                name,
                params,
                credential=credential,
                origin=origin,
                session=session,
                message_id=message_id,
                special=special,
            )
            return job.id if job_id_only else await job.wait()
        access.require(credential, method.auth, method.roles)
        if credential is None and self._anonymous is not None:
            self._count(name, origin)
        arguments = validation.check_arguments(method.params, params, special=special)
        call = self._make_call(credential, origin, session, None)
        if method.audited:
            return await self._audited(method, call, arguments)
        return await self.registry.handlers[name](call, *arguments)

    def _count(self, name: str, origin: Origin) -> None:
        """Stock clients begin with set_options; logins have a limit of their own, which spares those that succeed."""
        if self._anonymous is None or origin.is_unix or name == "core.set_options" or name.startswith("auth.login"):
            return
        self._anonymous.check(origin.address)
        self._anonymous.count(origin.address)

    async def call_internal(self, name: str, *params: Any) -> Any:
        """Call as the daemon itself."""
        return await self.call(name, params, credential=INTERNAL, origin=LOCAL_ORIGIN, special=False)

    def method(self, name: str) -> MethodSpec:
        method = self.registry.methods.get(name)
        if method is None or name not in self.registry.handlers:
            raise protocol.MethodNotFound
        return method

    def start_job(
        self,
        name: str,
        params: Sequence[Any],
        *,
        credential: Credential | None,
        origin: Origin,
        session: Any = None,
        message_id: Any = None,
        special: bool = True,
        uploads: Uploads | None = None,
        output: Output | None = None,
    ) -> Any:
        """Start the job that a method is; `uploads` and `output` are its streams. Raises as `call` does."""
        method = self.method(name)
        access.require(credential, method.auth, method.roles)
        if not method.job:
            raise CallError(f"{name} is not a job")
        if uploads is not None and not method.flag("uploadable"):
            raise CallError(f"{name} takes no upload")
        if output is not None and not method.flag("downloadable"):
            raise CallError(f"{name} offers no download")
        if output is None and method.flag("downloadable"):
            raise CallError("Pipe 'output' is not open")  # the CLI knows this text (PROTOCOL 7.5)
        arguments = validation.check_arguments(method.params, params, special=special)

        async def run(job: Any) -> Any:
            return await self._audited(method, self._make_call(credential, origin, session, job), arguments)

        return self._jobs.start(
            name,
            run,
            arguments=validation.masked(method.params, arguments, method.secrets),
            credential=credential,
            message_id=message_id,
            lock=method.spec.get("x-job-lock"),
            abortable=method.flag("abortable", True),
            transient=method.flag("transient"),
            light=method.flag("job-light"),
            joinable=not method.secrets and uploads is None and output is None,
            uploads=uploads,
            output=output,
        )

    async def _audited(self, method: MethodSpec, call: Any, arguments: Sequence[Any]) -> Any:
        handler = self.registry.handlers[method.name]
        if not method.audited or self._audit is None or call.credential == INTERNAL:
            return await handler(call, *arguments)
        error: str | None = "aborted"
        try:
            result = await handler(call, *arguments)
            error = None
            return result
        except Exception as failure:
            error = str(failure)
            raise
        finally:
            self._audit(
                username=call.credential.username if call.credential is not None else "",
                address=call.origin.address,
                method=method.name,
                arguments=validation.masked(method.params, arguments, method.secrets),
                success=error is None,
                error=error,
            )
