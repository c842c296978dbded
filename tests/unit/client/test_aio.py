"""The asyncio client against the stand-in server."""

import asyncio
import errno
import json
import socket

import pytest
from support.certificates import make_certificate, server_context
from support.scram_reference import ScramServer
from support.standin_server import StandIn

from middlewared.client import Client, ClientError, LoginError
from middlewared.client.endpoint import certificate_hash
from middlewared.errors import EHAUNAVAILABLE, ENOMETHOD, ENOTAUTHENTICATED, CallError, ValidationErrors


@pytest.fixture
async def client(server):
    async with Client(server.url) as client:
        yield client


async def test_options_come_first_and_choose_new_style_jobs(client, server):
    assert server.requests[0]["method"] == "core.set_options"
    assert server.called("core.set_options")[0][0]["legacy_jobs"] is False


async def test_calls_run_concurrently_and_answers_find_their_callers(client, server):
    arrived: list[int] = []

    async def when_all_are_here(number: int) -> int:
        arrived.append(number)
        while len(arrived) < 20:
            await asyncio.sleep(0)
        return number

    server.methods["test.value"] = when_all_are_here
    answers = await asyncio.gather(*(client.call("test.value", number) for number in range(20)))
    assert answers == list(range(20))


async def test_extended_json_in_both_directions(client, server):
    assert await client.call("test.echo", {"a", "b"}) == [{"a", "b"}]
    assert sorted(server.called("test.echo")[0][0]["$set"]) == ["a", "b"]


async def test_errors_are_those_of_the_server(client):
    with pytest.raises(CallError) as refused:
        await client.call("test.fail")
    assert refused.value.errno == EHAUNAVAILABLE
    assert (refused.value.message, refused.value.extra) == ("Not on this node", {"active": "B"})
    with pytest.raises(ValidationErrors) as wrong:
        await client.call("test.invalid")
    assert wrong.value.errors[0] == ("data.timeout", "Input should be less than or equal to 120", 22)
    assert wrong.value.errors[1] == (None, "Something is off", 2)
    with pytest.raises(CallError) as unknown:
        await client.call("no.such")
    assert unknown.value.errno == ENOMETHOD


async def test_an_error_without_an_id_fails_all_calls_but_not_the_connection(client, server):
    waiting = [asyncio.create_task(client.call("test.never")) for _ in range(2)]
    while len(server.called("test.never")) < 2:
        await asyncio.sleep(0)
    message = {"jsonrpc": "2.0", "id": None, "error": {"code": -32700, "message": "Invalid JSON"}}
    server.send_raw(json.dumps(message))
    for call in waiting:
        with pytest.raises(CallError, match="Invalid JSON"):
            await call
    assert await client.call("core.ping") == "pong"


async def test_a_call_has_a_limit_and_may_be_cancelled(client):
    with pytest.raises(ClientError, match="not answered in time"):
        await client.call("test.never", timeout_s=0.01)
    call = asyncio.create_task(client.call("test.never"))
    await client.call("core.ping")
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await client.call("core.ping") == "pong"


async def test_a_lost_connection_ends_everything_that_waits(client, server):
    call = asyncio.create_task(client.call("test.never"))
    async with client.subscribe("x") as events:
        waiting = asyncio.create_task(anext(events))
        await client.call("core.ping")
        await asyncio.to_thread(server.drop)
        with pytest.raises(ClientError, match="lost"):
            await call
        with pytest.raises(ClientError, match="lost"):
            await waiting
    assert "lost" in str(await client.wait_lost())
    assert not client.connected
    with pytest.raises(ClientError, match="lost"):
        await client.call("core.ping")


@pytest.mark.parametrize("text", ["{nonsense", "[]", '{"id": "x", "result": {"$date": "x"}}'])
async def test_nonsense_ends_the_connection(client, server, text):
    call = asyncio.create_task(client.call("test.never"))
    await client.call("core.ping")
    await asyncio.to_thread(server.send_raw, text)
    with pytest.raises(ClientError, match="something that is not JSON"):
        await call


@pytest.mark.parametrize(
    "text", ['{"id": "unknown", "result": 1}', '{"method": "news", "params": {}}', '{"method": "x"}']
)
async def test_unknown_messages_are_ignored(client, server, text):
    await asyncio.to_thread(server.send_raw, text)
    assert await client.call("core.ping") == "pong"


async def test_connecting_to_nothing(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ClientError, match="did not answer in time"):
            await Client(f"ws://127.0.0.1:{port}", connect_timeout_s=0.05).connect()
    with pytest.raises(ClientError, match="nobody is listening"):
        await Client(f"ws://127.0.0.1:{port}").connect()
    with pytest.raises(ClientError, match="there is no socket"):
        await Client(str(tmp_path / "none.sock")).connect()
    with pytest.raises(ClientError, match="not connected"):
        await Client("ws://127.0.0.1").call("core.ping")


async def test_connecting_to_the_wrong_server(server):
    with pytest.raises(ClientError, match="has no API at /x"):
        await Client(server.url + "/x").connect()
    with pytest.raises(ClientError, match="no TLS with"):
        await Client(server.url.replace("ws:", "wss:")).connect()


async def test_unix_socket(tmp_path):
    with StandIn(tmp_path / "x.sock") as standin:
        async with Client(standin.url) as client:
            assert await client.call("failover.node") == "A"


# ---------------------------------------------------------------------------------------------- jobs


def progress_of(seen: list[dict]) -> list[tuple]:
    return [(job["state"], job["progress"]["percent"], job["progress"]["description"]) for job in seen]


@pytest.mark.parametrize("answer_first", [False, True])
async def test_a_job_shows_every_step_in_order(client, server, answer_first):
    server.answer_before_last_notice = answer_first
    server.job_progress = [(percent, "work") for percent in range(100)]
    server.job_result = {"done": True}
    seen: list[dict] = []
    assert await client.call_job("test.job", on_progress=seen.append) == {"done": True}
    steps = progress_of(seen)
    assert steps[:2] == [("WAITING", 0, ""), ("RUNNING", 0, "")]
    assert [percent for _, percent, _ in steps[2:-1]] == list(range(100))
    assert steps[-1] == ("SUCCESS", 99, "work")


async def test_job_subscription_is_made_once(client, server):
    await asyncio.gather(*(client.call_job("test.job") for _ in range(3)))
    assert server.called("core.subscribe") == [["core.get_jobs"]]


async def test_failed_and_aborted_jobs_raise(client, server):
    with pytest.raises(CallError, match="Standby Controller is not ready"):
        await client.call_job("test.job", "FAILED")
    with pytest.raises(ValidationErrors, match="Bad train"):
        await client.call_job("test.job", "INVALID")
    server.answer_before_last_notice = True
    with pytest.raises(CallError) as aborted:
        await client.call_job("test.job", "ABORTED")
    assert aborted.value.errno == errno.ECANCELED


async def test_a_mistake_in_the_progress_callback_is_the_callers_alone(client):
    with pytest.raises(ZeroDivisionError):
        await client.call_job("test.job", on_progress=lambda job: 1 / 0)
    assert await client.call("core.ping") == "pong"


async def test_jobs_of_other_connections_are_not_ours(client, server):
    seen: list[dict] = []
    async with Client(server.url) as other, other.subscribe("core.get_jobs"):
        await asyncio.gather(client.call_job("test.job", on_progress=seen.append), other.call_job("test.job"))
    own = {request["id"] for request in server.requests if request["method"] == "test.job"}
    assert len({job["message_ids"][0] for job in seen}) == 1
    assert len(own) == 2


# ---------------------------------------------------------------------------------------------- subscriptions


async def test_events_arrive_in_order_and_only_those_asked_for(client, server):
    async with client.subscribe("failover.status") as events, client.subscribe("*") as everything:
        for number in range(3):
            await asyncio.to_thread(server.emit, "failover.status", msg="changed", fields={"status": number})
        await asyncio.to_thread(server.emit, "other", msg="added", id=None)
        assert [(await events.next())["fields"]["status"] for _ in range(3)] == [0, 1, 2]
        seen = [await everything.next() for _ in range(4)]
        assert seen[3] == {"collection": "other", "msg": "added", "id": None}
        with pytest.raises(TimeoutError):
            await events.next(timeout_s=0.01)
    assert server.called("core.unsubscribe") == [["subscription-*"], ["subscription-failover.status"]]


async def test_a_bare_loop_subscribes_and_ends_with_the_subscription(client, server):
    async def collect() -> list[int]:
        return [event["fields"]["n"] async for event in client.subscribe("x")]

    reader = asyncio.create_task(collect())
    await asyncio.to_thread(server.wait_for, "core.subscribe")
    await asyncio.to_thread(server.emit, "x", msg="changed", fields={"n": 1})
    end = {"method": "notify_unsubscribed", "params": {"collection": "x", "error": None}}
    await asyncio.to_thread(server.send_raw, json.dumps(end))
    assert await reader == [1]


async def test_a_subscription_that_the_server_refuses_later_raises(client, server):
    async with client.subscribe("x") as events:
        error = {"error": 22, "errname": "EINVAL", "reason": "[EINVAL] bad argument", "trace": None, "extra": None}
        end = {"method": "notify_unsubscribed", "params": {"collection": "x", "error": error}}
        await asyncio.to_thread(server.send_raw, json.dumps(end))
        with pytest.raises(CallError, match="bad argument"):
            await events.next()


async def test_a_reader_that_falls_behind_is_told(client, server):
    async with client.subscribe("x", queued_max=2) as events:
        for number in range(3):
            await asyncio.to_thread(server.emit, "x", msg="changed", fields={"n": number})
        await client.call("core.ping")
        assert [(await events.next())["fields"]["n"] for _ in range(2)] == [0, 1]
        with pytest.raises(ClientError, match="too far behind"):
            await events.next()


async def test_a_refused_subscription_raises(client, server):
    server.sessions[0].logged_in = False
    with pytest.raises(CallError) as refused:
        await client.subscribe("x").__aenter__()
    assert refused.value.errno == ENOTAUTHENTICATED


# ---------------------------------------------------------------------------------------------- logins


async def test_password(client, server):
    assert await client.login_password("admin", "lab") == {"pw_name": "admin"}
    with pytest.raises(LoginError, match="wrong user name or password") as refused:
        await client.login_password("admin", "no")
    assert refused.value.response_type == "AUTH_ERR"


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({"response_type": "OTP_REQUIRED", "username": "admin"}, "one-time code"),
        ({"response_type": "EXPIRED"}, "has expired"),
        ({"response_type": "DENIED"}, "may not use the API"),
        ({"response_type": "REDIRECT", "urls": ["http://a", "http://b"]}, "log in at http://a or http://b"),
    ],
)
async def test_refusals_are_explained(client, server, answer, text):
    server.methods["auth.login_ex"] = lambda request: answer
    with pytest.raises(LoginError, match=text):
        await client.login_password("admin", "lab")


async def test_second_factor(client, server):
    server.methods["auth.login_ex"] = lambda request: {"response_type": "OTP_REQUIRED", "username": "admin"}
    server.methods["auth.login_ex_continue"] = lambda request: (
        {"response_type": "SUCCESS", "user_info": None}
        if request["otp_token"] == "123456"
        else {"response_type": "AUTH_ERR"}
    )
    assert await client.login_password("admin", "lab", otp_token="123456") is None


async def test_token(client, server):
    server.methods["auth.login_ex"] = lambda request: (
        {"response_type": "SUCCESS", "user_info": None} if request["token"] == "t" else {"response_type": "AUTH_ERR"}
    )
    assert await client.login_token("t") is None
    with pytest.raises(LoginError, match="token is wrong"):
        await client.login_token("u")


def offer_scram(server: StandIn, reference: ScramServer) -> None:
    server.methods["auth.mechanism_choices"] = ["API_KEY_PLAIN", "SCRAM"]
    server.methods["auth.login_ex"] = reference.login_ex


async def test_api_key_over_scram_never_sends_the_key(client, server):
    reference = ScramServer("admin", "7-TopSecret")
    offer_scram(server, reference)
    assert await client.login_api_key("7-TopSecret", "admin") == {"pw_name": "admin"}
    assert "TopSecret" not in str(server.requests)
    for key, user in (("7-Wrong", "admin"), ("8-TopSecret", "admin"), ("7-TopSecret", "eve")):
        with pytest.raises(LoginError, match="was not accepted"):
            await client.login_api_key(key, user)
    reference.lies = True
    with pytest.raises(ClientError, match="could not prove"):
        await client.login_api_key("7-TopSecret", "admin")
    reference.iterations = 10
    with pytest.raises(ClientError, match="out of bounds"):
        await client.login_api_key("7-TopSecret", "admin")


async def test_tls_is_checked_and_bound_to_the_login(tmp_path, monkeypatch):
    pem = make_certificate(tmp_path)
    context = server_context(pem)
    with StandIn(tls=context) as standin:
        with pytest.raises(ClientError, match="is not trusted"):
            await Client(standin.url).connect()
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
        async with Client(standin.url) as client:
            tls = client._websocket.transport.get_extra_info("ssl_object")
            binding = certificate_hash(tls.getpeercert(binary_form=True))
            assert len(binding) == 48  # signed with SHA-384 (RFC 5929 section 4.1)
            offer_scram(standin, ScramServer("admin", "7-Secret", binding=binding))
            assert await client.login_api_key("7-Secret", "admin") == {"pw_name": "admin"}
        monkeypatch.delenv("SSL_CERT_FILE")
        async with Client(standin.url, verify=False) as client:
            assert await client.call("core.ping") == "pong"
