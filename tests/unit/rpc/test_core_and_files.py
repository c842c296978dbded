"""The methods of `core` that take more than a frame: job_wait, bulk, uploads, downloads; and what is audited."""

import asyncio
import base64
import json
from typing import Any

import aiohttp
import pytest
from support.rpc_api import LOGIN, ROOT, Api, Client, Connect, Serve, login, method, param, service

from middlewared.auth.identity import LOCAL_ORIGIN, Credential
from middlewared.errors import CallError
from middlewared.jobs import JobState
from middlewared.plugin import Call
from middlewared.ports import PortError
from middlewared.rpc import downloads, files, limits
from middlewared.rpc.files import content_disposition

GUEST = Credential("LOGIN_PASSWORD", "guest")
NUMBER = [param("number", {"type": "integer"})]

DOCUMENT = {
    "services": [service("auth"), service("test")],
    "methods": [
        LOGIN,
        method("test.double", NUMBER),
        method("test.double_job", NUMBER, job=True),
        method("test.steps", job=True),
        method("test.receive", [param("number", {"type": "integer"}, required=False)], job=True, uploadable=True),
        method("test.ignore", job=True, uploadable=True),
        method("test.save", job=True, downloadable=True),
        method("test.change", [param("data", {"type": "object"})], audit=True, secret=["data.password"]),
        method("test.change_job", [param("data", {"type": "object"})], job=True, audit=True, secret=["data.password"]),
        method("test.port"),
    ],
}


class Machine:
    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.next_step = asyncio.Event()
        self.audited: list[dict[str, Any]] = []

    def record(self, **row: Any) -> None:
        self.audited.append(row)

    async def double(self, call: Call, number: int) -> int:
        if number > 100:
            raise CallError("Too much")
        return 2 * number

    async def steps(self, call: Call) -> str:
        assert call.job is not None
        call.job.set_progress(50, "half")
        await self.next_step.wait()
        return "done"

    async def receive(self, call: Call, number: int | None) -> int:
        assert call.job is not None
        async for file in call.job.input_files():
            self.received.append(b"".join([chunk async for chunk in file.chunks()]))
        return len(self.received)

    async def ignore(self, call: Call) -> None: ...

    async def save(self, call: Call) -> None:
        assert call.job is not None
        for _ in range(3):
            await call.job.output.write(b"x" * limits.TRANSFER_CHUNK_BYTES)

    async def change(self, call: Call, data: dict[str, Any]) -> bool:
        if data.get("fail"):
            raise CallError("No")
        return True

    async def port(self, call: Call) -> None:
        raise PortError("The cable is out; plug it in")


@pytest.fixture
async def machine() -> Machine:
    return Machine()


@pytest.fixture
async def api(serve: Serve, machine: Machine) -> Api:
    handlers = {
        "auth.login": login,
        "test.double": machine.double,
        "test.double_job": machine.double,
        "test.steps": machine.steps,
        "test.receive": machine.receive,
        "test.ignore": machine.ignore,
        "test.save": machine.save,
        "test.change": machine.change,
        "test.change_job": machine.change,
        "test.port": machine.port,
    }
    return await serve(DOCUMENT, handlers, audit=machine.record)


@pytest.fixture
async def root(api: Api, connect: Connect) -> Client:
    client = await connect(api, login=True)
    await client.call("core.set_options", {"legacy_jobs": False})
    return client


# -------------------------------------------------------------------------------------------------- jobs


async def test_job_wait_mirrors_progress_and_outcome(api: Api, machine: Machine, root: Client) -> None:
    target = await root.request("test.steps")
    while not (running := [job for job in api.jobs.all() if job.progress["percent"] == 50]):
        await asyncio.sleep(0)
    waiting = await root.request("core.job_wait", running[0].id)
    while not (
        mirrored := [job for job in api.jobs.all() if job.method == "core.job_wait" and job.progress["percent"]]
    ):
        await asyncio.sleep(0)
    assert mirrored[0].progress == {"percent": 50, "description": "half", "extra": None}
    machine.next_step.set()
    answers = [await root.receive(), await root.receive()]
    assert {frame["id"]: frame["result"] for frame in answers} == {target: "done", waiting: "done"}


async def test_job_wait_for_an_aborted_job_is_aborted(api: Api, root: Client) -> None:
    await root.request("test.steps")
    waiting = await root.request("core.job_wait", 1)
    while len(api.jobs.all()) < 2 or api.jobs.get(1).state is not JobState.RUNNING:
        await asyncio.sleep(0)
    await root.request("core.job_abort", 1)
    assert {(await root.receive())["id"] for _ in range(3)} >= {waiting}
    assert api.jobs.get(2).state is JobState.ABORTED
    assert (await root.answer("core.job_wait", 99))["error"]["code"] == -32602


async def test_bulk_tells_of_each_call(api: Api, root: Client) -> None:
    plain = await root.call("core.bulk", "test.double", [[1], ["x"], [101]], "Doubling {0}")
    assert [item["result"] for item in plain] == [2, None, None]
    assert [item["job_id"] for item in plain] == [None] * 3
    assert plain[1]["error"].startswith("[EINVAL] number")
    assert plain[2]["error"] == "[EFAULT] Too much"
    jobs = await root.call("core.bulk", "test.double_job", [[2], [102], []])
    assert [(item["job_id"] is None, item["result"]) for item in jobs] == [(False, 4), (False, None), (True, None)]
    bulk = api.jobs.get(1)
    assert (bulk.arguments[1], bulk.progress["description"]) == ("********", "Doubling 101")


@pytest.mark.parametrize("inner", ["core.bulk", "nothing.at_all"])
async def test_bulk_refuses(root: Client, inner: str) -> None:
    assert (await root.answer("core.bulk", inner, [[]]))["error"]["code"] in (-32001, -32601)


async def test_bulk_and_download_check_the_inner_method(api: Api, connect: Connect) -> None:
    guest = await connect(api)
    await guest.call("auth.login", "guest", "x")
    await guest.call("core.set_options", {"legacy_jobs": False})
    for name, params in (("core.bulk", ["test.double", [[1]]]), ("core.download", ["test.save", [], "f"])):
        assert (await guest.answer(name, *params))["error"]["data"]["errname"] == "EACCES"


async def test_old_style_jobs_answer_with_their_number(api: Api, connect: Connect) -> None:
    client = await connect(api, login=True)
    assert await client.call("test.double_job", 4) == 1
    assert await api.jobs.get(1).wait() == 8


async def test_calls_from_inside_need_no_login_and_wait_for_jobs(api: Api) -> None:
    assert await api.dispatcher.call_internal("test.double_job", 4) == 8
    assert api.jobs.get(1).to_wire()["credentials"] is None


async def test_introspection_over_the_wire(api: Api, root: Client, connect: Connect) -> None:
    assert "test.double" in await root.call("core.get_methods", None, "CLI")
    assert set(await root.call("core.get_services", "CLI")) == {"auth", "test"}
    assert set(await root.call("core.get_events")) == {"core.get_jobs"}
    assert (await (await connect(api)).call("rpc.discover"))["openrpc"].startswith("1.3")


# ------------------------------------------------------------------------------------- audit and errors


async def test_changes_are_audited_without_their_secrets(api: Api, machine: Machine, root: Client) -> None:
    for name in ("test.change", "test.change_job"):
        await root.call(name, {"password": "hunter2", "name": "n"})
        await root.answer(name, {"fail": True})
        await api.dispatcher.call_internal(name, {})
    shown = [(row["method"], row["arguments"], row["success"], row["error"]) for row in machine.audited]
    expected: list[tuple[str, Any, bool, str | None]] = []
    for name in ("test.change", "test.change_job"):
        expected += [
            (name, [{"password": "********", "name": "n"}], True, None),
            (name, [{"fail": True}], False, "[EFAULT] No"),
        ]
    assert shown == expected
    assert {(row["username"], row["address"]) for row in machine.audited} == {("root", "127.0.0.1")}
    assert "hunter2" not in json.dumps([job.arguments for job in api.jobs.all()])


async def test_what_a_driver_says_is_for_the_caller(root: Client) -> None:
    data = (await root.answer("test.port"))["error"]["data"]
    assert (data["reason"], data["trace"]["class"]) == ("[EFAULT] The cable is out; plug it in", "CallError")


# ----------------------------------------------------------------------------------------------- uploads


def form(data: Any, *contents: bytes, names: tuple[str, ...] = ()) -> aiohttp.FormData:
    result = aiohttp.FormData()
    result.add_field("data", data if isinstance(data, str) else json.dumps(data), content_type="application/json")
    for number, content in enumerate(contents):
        result.add_field(names[number] if names else "file", content, filename="f")
    return result


RECEIVE = {"method": "test.receive"}


async def post(
    api: Api, http: aiohttp.ClientSession, body: Any, token: str | None = None, **headers: str
) -> tuple[int, Any]:
    """Upload with a fresh token, or as `headers` say."""
    if token is None and not headers:
        token = api.authenticator.generate_token(ROOT, LOCAL_ORIGIN, attrs={})
    parameters = {} if token is None else {"auth_token": token}
    async with http.post(api.http + "/_upload/x", data=body, params=parameters, headers=headers) as response:
        text = await response.text()
        return response.status, json.loads(text) if response.status == 200 else text


async def test_uploads_reach_the_job(api: Api, machine: Machine, http: aiohttp.ClientSession) -> None:
    contents = [b"", b"abc", b"x" * 3_000_000]
    assert await post(api, http, form(RECEIVE | {"params": [1]}, *contents)) == (200, {"job_id": 1})
    assert await api.jobs.get(1).wait() == 3
    assert machine.received == contents
    assert api.jobs.get(1).message_ids == []


async def test_an_upload_that_the_job_does_not_read_is_let_by(api: Api, http: aiohttp.ClientSession) -> None:
    status, answer = await post(api, http, form({"method": "test.ignore"}, b"x" * 5_000_000))
    assert status == 200
    assert await api.jobs.get(answer["job_id"]).wait() is None


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (form("{", b"x"), 400),
        (form("[]", b"x"), 400),
        (form({"method": "test.receive", "params": {}}, b"x"), 400),
        (form({"params": []}, b"x"), 422),
        (form({"method": "test.nothing"}, b"x"), 422),
        (form({"method": "test.receive", "params": ["x"]}, b"x"), 422),
        (form({"method": "test.double", "params": [1]}, b"x"), 412),
        (form({"method": "test.double_job", "params": [1]}, b"x"), 412),
        (form(RECEIVE), 405),
        (form(RECEIVE, b"x", names=("other",)), 405),
        (form(RECEIVE, b"x", b"y", names=("file", "other")), 405),
        (form(RECEIVE, *[b"x"] * 6), 405),
        (b"nothing", 405),
        (form("x" * 70_000, b"x"), 413),
    ],
)
async def test_uploads_that_are_refused(api: Api, http: aiohttp.ClientSession, body: Any, status: int) -> None:
    assert (await post(api, http, body))[0] == status


async def test_an_upload_of_too_much(api: Api, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "UPLOAD_BYTES_MAX", 1000)
    assert (await post(api, http, form(RECEIVE, b"x" * 1001)))[0] == 413
    with pytest.raises(CallError, match="broke off"):
        await api.jobs.get(1).wait()


async def test_an_upload_that_stands_still(
    api: Api, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "TRANSFER_IDLE_TIMEOUT_S", 0.5)
    body = b'--b\r\nContent-Disposition: form-data; name="data"\r\n\r\n{"method": "test.receive"}\r\n--b\r\n'
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    token = api.authenticator.generate_token(ROOT, LOCAL_ORIGIN, attrs={})
    head = f"POST /_upload/?auth_token={token} HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n"
    writer.write(f"{head}Content-Type: multipart/form-data; boundary=b\r\n\r\n".encode() + body)
    writer.write(b'Content-Disposition: form-data; name="file"; filename="f"\r\n\r\n' + b"x" * 1_000_000)
    async with asyncio.timeout(10):
        assert b"408" in await reader.readline()
    writer.close()
    with pytest.raises(CallError, match="broke off"):
        await api.jobs.get(1).wait()


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (basic("root:x"), 200),
        (basic("root:y"), 401),
        (basic("root"), 400),
        ("Basic ?", 400),
        ("Bearer 1-abc", 200),
        ("Bearer 1-xyz", 401),
        ("Token none", 403),
        ("Digest x", 401),
    ],
)
async def test_credentials_of_uploads(api: Api, http: aiohttp.ClientSession, header: str, status: int) -> None:
    assert (await post(api, http, form(RECEIVE, b"x"), Authorization=header))[0] == status


async def test_tokens_of_uploads(api: Api, http: aiohttp.ClientSession) -> None:
    async with http.post(api.http + "/_upload/", data=form(RECEIVE, b"x")) as response:
        assert response.status == 401
    for_something_else = api.authenticator.generate_token(ROOT, LOCAL_ORIGIN, attrs={"job": 1})
    of_a_guest = api.authenticator.generate_token(GUEST, LOCAL_ORIGIN, attrs={})
    for token in ("wrong", for_something_else, of_a_guest):
        assert (await post(api, http, form(RECEIVE, b"x"), token))[0] == 403


# --------------------------------------------------------------------------------------------- downloads


@pytest.mark.parametrize("buffered", [False, True])
async def test_a_download_can_be_fetched_once(
    api: Api, root: Client, http: aiohttp.ClientSession, buffered: bool
) -> None:
    number, path = await root.call("core.download", "test.save", [], 'a"b\r\n.bin', buffered)
    if buffered:
        await api.jobs.get(number).wait()
    async with http.get(api.http + path) as response:
        assert response.status == 200
        assert response.content_type == "application/octet-stream"
        assert response.headers["Content-Disposition"] == 'attachment; filename="a_b__.bin"'
        assert len(await response.read()) == 3 * limits.TRANSFER_CHUNK_BYTES
    async with http.get(api.http + path) as response:
        assert response.status == 410


async def test_a_download_needs_its_own_token(api: Api, root: Client, http: aiohttp.ClientSession) -> None:
    (first, path), (second, _) = [await root.call("core.download", "test.save", [], "f") for _ in range(2)]
    token = path.partition("=")[2]
    for target in (f"/_download/{second}?auth_token={token}", f"/_download/{first}?auth_token=wrong"):
        async with http.get(api.http + target) as response:
            assert response.status == 401


async def test_a_download_that_is_not_fetched(
    api: Api, root: Client, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "DOWNLOAD_BEGIN_TIMEOUT_S", 0)
    number, path = await root.call("core.download", "test.save", [], "f")
    await asyncio.wait([asyncio.ensure_future(api.jobs.get(number).wait())])
    async with http.get(api.http + path) as response:
        assert response.status == 410


async def test_downloads_kept_are_bounded(api: Api, root: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "OFFERS_MAX", 1)
    await root.call("core.download", "test.save", [], "f")
    error = (await root.answer("core.download", "test.save", [], "f"))["error"]
    assert error["data"]["errname"] == "EBUSY"


async def test_the_log_of_a_job(api: Api, root: Client, http: aiohttp.ClientSession) -> None:
    async def run(job: Any) -> None:
        job.log("first")
        job.log("second")

    job = api.jobs.start("m.run", run)
    await job.wait()
    path = await root.call("core.job_download_logs", job.id, "job.log")
    async with http.get(api.http + path) as response:
        assert await response.text() == "first\nsecond\n"


async def test_a_job_with_output_cannot_be_called_plainly(root: Client) -> None:
    error = (await root.answer("test.save"))["error"]
    assert error["data"]["reason"] == "[EFAULT] Pipe 'output' is not open"
    for name in ("test.double", "test.double_job"):
        assert (await root.answer("core.download", name, [1], "f"))["error"]["code"] == -32001


def test_file_names_cannot_break_the_header() -> None:
    assert content_disposition('x"; a=\\"\n\u00e9') == 'attachment; filename="x_; a=____"'
