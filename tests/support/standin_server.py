"""A small server that speaks the frames of PROTOCOL appendix Z, for testing clients without the daemon.

It runs in a thread of its own, since the CLI under test blocks. What it says is written by hand as JSON objects, with
none of the project's own code, so that a mistake there cannot cancel itself out here.
"""

import asyncio
import contextlib
import json
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from websockets.asyncio.server import Server, ServerConnection, serve, unix_serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from support.standin_api import METHODS, RESULTS, SERVICES

OPEN_METHODS = {
    "core.set_options",
    "core.ping",
    "auth.login_ex",
    "auth.login_ex_continue",
    "auth.login_with_api_key",
    "auth.mechanism_choices",
}
JOB_PROGRESS = [(0, ""), (0, "Ensuring the Standby Controller is booted"), (0, "Activating new boot environment")]
NOT_LOGGED_IN = {"error": 207, "errname": "ENOTAUTHENTICATED", "reason": "[ENOTAUTHENTICATED] Not authenticated"}

Method = Callable[..., Any]


class Refused(Exception):
    """Raised by a method of the stand-in: the JSON-RPC error object to send."""

    def __init__(self, code: int, message: str, data: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.error: dict[str, Any] = {"code": code, "message": message}
        if data is not None:
            self.error["data"] = {"trace": None, "extra": None, **data}


def call_error(number: int, name: str, text: str, extra: Any = None) -> Refused:
    return Refused(
        -32001, "Method call error", {"error": number, "errname": name, "reason": f"[{name}] {text}", "extra": extra}
    )


def invalid(*triples: tuple[str | None, str, int]) -> Refused:
    return Refused(
        -32602, "Invalid params", {"error": 22, "errname": "EINVAL", "reason": "…", "extra": list(map(list, triples))}
    )


class Session:
    """One connection."""

    def __init__(self, connection: ServerConnection, *, trusted: bool) -> None:
        self.connection = connection
        self.logged_in = trusted
        self.events: set[str] = set()

    async def send(self, message: dict[str, Any]) -> None:
        await self.connection.send(json.dumps({"jsonrpc": "2.0", **message}))

    async def notify(self, **params: Any) -> None:
        await self.send({"method": "collection_update", "params": params})


class StandIn:
    """`with StandIn() as server`: `server.url`, and knobs to turn before or while clients are connected.

    `methods` maps a name to a function of the parameters (plain or async; may raise Refused) or to a fixed result.
    """

    def __init__(self, socket: Path | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.methods: dict[str, Any] = {**RESULTS, **self._own_methods()}
        self.other: dict[str, Any] = {"failover.status": "BACKUP"}  # what the other controller answers
        self.password = "lab"
        self.trusted = socket is not None
        self.requests: list[dict[str, Any]] = []
        self.sessions: list[Session] = []
        self.job_progress: list[tuple[int | None, str | None]] = list(JOB_PROGRESS)
        self.job_result: Any = None
        self.hold_jobs = False  # a job waits after its progress, until `release_jobs` or core.job_abort
        self.answer_before_last_notice = False
        self.refuse_upgrade: int | None = None
        self.url = ""
        self._socket = socket
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._progress = asyncio.Event()
        self._released = asyncio.Event()
        self._aborted = False
        self._answered: set[str] = set()
        self._asked: set[str] = set()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._main(),), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10), "the stand-in does not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        self._loop.close()

    def run(self, work: Any) -> Any:
        """Run a coroutine in the server's loop and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def emit(self, collection: str, **more: Any) -> None:
        """Send an event to all who subscribed to it."""

        async def send() -> None:
            for session in self.sessions:
                if session.events & {collection, "*"}:
                    with contextlib.suppress(ConnectionClosed):
                        await session.notify(collection=collection, **more)

        self.run(send())

    def send_raw(self, text: str) -> None:
        async def send() -> None:
            for session in self.sessions:
                await session.connection.send(text)

        self.run(send())

    def wait_for(self, method: str) -> None:
        """Wait until a call of the method has been answered."""

        async def wait() -> None:
            while method not in self._answered:
                self._progress.clear()
                await self._progress.wait()

        self.run(wait())

    def drop(self) -> None:
        """Cut all connections as a power loss does: no goodbye."""

        async def abort() -> None:
            for session in self.sessions:
                session.connection.transport.abort()

        self.run(abort())

    def wait_until_asked(self, method: str) -> None:
        """Wait until a call of the method has arrived."""

        async def wait() -> None:
            while method not in self._asked:
                self._progress.clear()
                await self._progress.wait()

        self.run(wait())

    def release_jobs(self) -> None:
        self._loop.call_soon_threadsafe(self._released.set)

    def called(self, method: str) -> list[Any]:
        """The `params` of every call of a method."""
        return [request["params"] for request in self.requests if request["method"] == method]

    async def _main(self) -> None:
        options: dict[str, Any] = {"process_request": self._upgrade, "compression": None}
        async with await self._listen(options) as server:
            if self._socket is None:
                port = next(iter(server.sockets)).getsockname()[1]
                self.url = f"{'wss' if self._tls else 'ws'}://127.0.0.1:{port}"
            self._ready.set()
            await self._stop.wait()
            for session in self.sessions:
                session.connection.transport.abort()

    async def _listen(self, options: dict[str, Any]) -> Server:
        if self._socket is None:
            return await serve(self._serve, "127.0.0.1", 0, ssl=self._tls, **options)
        self.url = f"ws+unix://{self._socket}"
        return await unix_serve(self._serve, str(self._socket), **options)

    def _upgrade(self, connection: ServerConnection, request: Request) -> Response | None:
        if request.path != "/api/current":
            return connection.respond(404, "nothing here\n")
        return connection.respond(self.refuse_upgrade, "no\n") if self.refuse_upgrade else None

    async def _serve(self, connection: ServerConnection) -> None:
        session = Session(connection, trusted=self.trusted)
        self.sessions.append(session)
        tasks: set[asyncio.Task[None]] = set()
        try:
            async for text in connection:
                request = json.loads(text)
                self.requests.append(request)
                self._asked.add(request["method"])
                self._progress.set()
                task = asyncio.create_task(self._answer(session, request))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        except ConnectionClosed:
            pass
        finally:
            for task in tasks:
                task.cancel()

    async def _answer(self, session: Session, request: dict[str, Any]) -> None:
        name, params, request_id = request["method"], request["params"], request["id"]
        try:
            if name not in OPEN_METHODS and not session.logged_in:
                raise Refused(-32001, "Method call error", NOT_LOGGED_IN)
            if name in ("failover.upgrade_finish", "test.job"):
                await self._job(session, request_id, name, params)
                return
            if name == "core.subscribe":
                session.events.add(params[0])
                result: Any = f"subscription-{params[0]}"
            elif name == "auth.login_ex":
                result = self.methods[name](*params)
                session.logged_in = result["response_type"] == "SUCCESS" or "v=" in result.get("rfc_str", "")
            elif name == "auth.login_with_api_key":
                result = session.logged_in = params == ["1-secret"]
            elif name in self.methods:
                found = self.methods[name]
                result = found(*params) if callable(found) else found
                result = await result if asyncio.iscoroutine(result) else result
            else:
                raise Refused(-32601, "Method does not exist")
            await session.send({"result": result, "id": request_id})
        except Refused as refused:
            await session.send({"error": refused.error, "id": request_id})
        self._answered.add(name)
        self._progress.set()

    async def _job(self, session: Session, request_id: str, name: str, params: list[Any]) -> None:
        """A job's life on the wire (PROTOCOL 7.2); `test.job ENDING` ends as told."""
        ending = params[0] if params else "SUCCESS"
        job: dict[str, Any] = {"id": 1, "message_ids": [request_id], "method": name, "arguments": params}
        job |= {"progress": {"percent": 0, "description": "", "extra": None}, "state": "WAITING", "result": None}
        job |= {"error": None, "exception": None, "exc_info": None}

        async def notify(msg: str, **changes: Any) -> None:
            job.update(changes)
            if "core.get_jobs" in session.events:
                await session.notify(msg=msg, collection="core.get_jobs", id=1, fields=dict(job))

        await notify("added")
        await notify("changed", state="RUNNING")
        for percent, description in self.job_progress:
            await notify("changed", progress={"percent": percent, "description": description, "extra": None})
        if self.hold_jobs:
            await self._released.wait()
        if self._aborted:
            ending = "ABORTED"
        response: dict[str, Any] = {"result": self.job_result if ending == "SUCCESS" else None}
        if ending == "FAILED":
            response = {"error": call_error(14, "EFAULT", "Standby Controller is not ready.").error}
        if ending == "INVALID":
            response = {"error": invalid(("failover_upgrade.train", "Bad train", 22)).error}
        last = {"state": "FAILED" if ending == "INVALID" else ending, "result": response.get("result")}
        if self.answer_before_last_notice:
            await session.send({**response, "id": request_id})
            await notify("changed", **last)
        else:
            await notify("changed", **last)
            await session.send({**response, "id": request_id})

    def _own_methods(self) -> dict[str, Method]:
        def fail() -> None:
            raise call_error(210, "EHAUNAVAILABLE", "Not on this node", {"active": "B"})

        def be_invalid() -> None:
            raise invalid(
                ("data.timeout", "Input should be less than or equal to 120", 22), (None, "Something is off", 2)
            )

        def login(request: dict[str, Any]) -> dict[str, Any]:
            good = request.get("password") == self.password
            return (
                {"response_type": "SUCCESS", "user_info": {"pw_name": "admin"}}
                if good
                else {"response_type": "AUTH_ERR"}
            )

        def abort(job: int) -> None:
            self._aborted = True
            self._released.set()

        async def never() -> None:
            await asyncio.Event().wait()

        def ask_other(method: str, params: list[Any], options: dict[str, Any]) -> Any:
            if method not in self.other:
                raise Refused(-32601, "Method does not exist")
            return self.other[method]

        return {
            "failover.call_remote": ask_other,
            "core.set_options": lambda options: options,
            "core.ping": lambda: "pong",
            "core.job_abort": abort,
            "core.unsubscribe": lambda subscription: None,
            "core.get_services": lambda target: SERVICES,
            "core.get_methods": lambda service, target: METHODS,
            "auth.login_ex": login,
            "auth.mechanism_choices": lambda: ["PASSWORD_PLAIN", "API_KEY_PLAIN"],
            "test.echo": lambda *params: list(params),
            "test.fail": fail,
            "test.invalid": be_invalid,
            "test.never": never,
        }
