"""Sessions without any socket: text in, texts out."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.rpc_api import LOGIN, ROOT, Api, event, login, method, service

from middlewared.auth.identity import Credential, Origin
from middlewared.bus import Event
from middlewared.plugin import Call
from middlewared.rpc.limits import CALLS_OUTSTANDING_MAX, CALLS_RUNNING_MAX, SUBSCRIPTIONS_MAX
from middlewared.rpc.session import LegacySession, RpcSession, Session, Work

READER = Credential("LOGIN_PASSWORD", "reader", frozenset({"FAILOVER_READ"}))
GUEST = Credential("LOGIN_PASSWORD", "guest")

DOCUMENT = {
    "services": [service("auth"), service("failover"), service("private", private=True)],
    "events": [
        event("failover.status", roles=["FAILOVER_READ"]),
        event("failover.secret", roles=["FAILOVER_WRITE"]),
        event("test.open", auth="login"),
        event("test.source", auth="login", arguments={"type": "object", "required": ["pool"]}),
    ],
    "methods": [LOGIN, method("failover.status", roles=["FAILOVER_READ"]), method("auth.logout", auth="login")],
}


async def status(call: Call) -> str:
    return "MASTER"


async def logout(call: Call) -> bool:
    assert call.session is not None
    call.session.credential = None
    return True


class FakeShell:
    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.works: list[Work] = []
        self.close_code: int | None = None

    def send(self, payload: bytes) -> None:
        self.sent.append(json.loads(payload))

    def run(self, work: Work) -> None:
        self.works.append(work)

    def close(self, code: int) -> None:
        self.close_code = code


class Talk:
    """A session and what it said."""

    def __init__(self, api: Api, kind: type[Session], credential: Credential | None) -> None:
        self.shell = FakeShell()
        self.session = kind(api.server.hub, api.dispatcher, Origin("192.0.2.1"), self.shell, credential)

    async def say(self, message: Any) -> list[Any]:
        """Send a frame; everything that came back until its call had ended."""
        before = len(self.shell.sent)
        work = self.session.receive(message if isinstance(message, str) else json.dumps(message))
        if work is not None:
            await work
        return self.shell.sent[before:]

    async def call(self, name: str, *params: Any) -> Any:
        (frame,) = await self.say({"jsonrpc": "2.0", "id": "i", "method": name, "params": params})
        return frame.get("result", frame.get("error"))

    @property
    def events(self) -> list[str]:
        return [
            frame["params"]["collection"] for frame in self.shell.sent if frame.get("method") == "collection_update"
        ]


Open = Callable[..., Talk]


@pytest.fixture
async def api(tmp_path: Path) -> Api:
    return Api(tmp_path, DOCUMENT, {"auth.login": login, "failover.status": status, "auth.logout": logout})


@pytest.fixture
async def talk(api: Api) -> Open:
    return lambda credential=None, kind=RpcSession: Talk(api, kind, credential)


async def test_nothing_but_a_few_methods_before_login(talk: Open) -> None:
    stranger = talk()
    assert await stranger.call("core.ping") == "pong"
    for name, params in (("core.subscribe", ["core.get_jobs"]), ("failover.status", []), ("core.get_jobs", [])):
        error = await stranger.call(name, *params)
        assert (error["code"], error["data"]["error"]) == (-32001, 207)
    assert await stranger.call("auth.login", "root", "x") is True
    assert await stranger.call("failover.status") == "MASTER"


async def test_roles(talk: Open) -> None:
    assert await talk(READER).call("failover.status") == "MASTER"
    error = await talk(GUEST).call("failover.status")
    assert (error["code"], error["data"]["error"], error["data"]["errname"]) == (-32001, 13, "EACCES")


async def test_without_an_id_there_is_no_answer(talk: Open) -> None:
    guest = talk(GUEST)
    for name in ("core.ping", "failover.status", "nothing.at_all"):
        assert await guest.say({"jsonrpc": "2.0", "method": name}) == []


@pytest.mark.parametrize("number", ["a", 5, -1, None, ""])
async def test_ids_keep_their_type(talk: Open, number: Any) -> None:
    (frame,) = await talk().say({"jsonrpc": "2.0", "id": number, "method": "core.ping", "more": 1})
    assert frame == {"jsonrpc": "2.0", "result": "pong", "id": number}


async def test_options_are_strict_and_stay(talk: Open) -> None:
    stranger = talk()
    default = {"legacy_jobs": True, "private_methods": False, "py_exceptions": False}
    assert await stranger.call("core.set_options", {"unknown": 1}) == default
    assert await stranger.call("core.set_options", {"legacy_jobs": False}) == default | {"legacy_jobs": False}
    assert (await stranger.call("core.set_options", {"legacy_jobs": 1}))["code"] == -32602
    assert stranger.session.options.legacy_jobs is False


async def test_an_event_comes_once_however_often_it_is_subscribed(api: Api, talk: Open) -> None:
    reader = talk(READER)
    numbers = [await reader.call("core.subscribe", name) for name in ("failover.status", "failover.status", "*")]
    api.bus.emit(Event("failover.status", "changed", {"status": "MASTER"}))
    assert reader.shell.sent[-1] == {
        "jsonrpc": "2.0",
        "method": "collection_update",
        "params": {"msg": "changed", "collection": "failover.status", "fields": {"status": "MASTER"}},
    }
    assert len(reader.events) == 1
    for number in [*numbers[:2], "unknown"]:
        assert await reader.call("core.unsubscribe", number) is None
    api.bus.emit(Event("failover.status", "changed", {}))
    assert len(reader.events) == 2
    await reader.call("core.unsubscribe", numbers[2])
    api.bus.emit(Event("failover.status", "changed", {}))
    assert len(reader.events) == 2


async def test_everything_means_what_one_may_see(api: Api, talk: Open) -> None:
    reader, root = talk(READER), talk(ROOT)
    for client in (reader, root):
        await client.call("core.subscribe", "*")
    for name in ("failover.status", "failover.secret", "test.open", "undeclared.event"):
        api.bus.emit(Event(name, "added"))
    assert reader.events == ["failover.status", "test.open"]
    assert root.events == ["failover.status", "failover.secret", "test.open"]


@pytest.mark.parametrize(("name", "number"), [("failover.secret", 13), ("failover.secret:{}", 13), ("no.such", 2)])
async def test_subscriptions_that_are_denied(talk: Open, name: str, number: int) -> None:
    error = await talk(READER).call("core.subscribe", name)
    assert (error["code"], error["data"]["error"]) == (-32001, number)


async def test_an_event_with_arguments(api: Api, talk: Open) -> None:
    reader = talk(READER)
    name = 'test.source:{"pool": "tank"}'
    number = await reader.call("core.subscribe", name)
    api.bus.emit(Event(name, "changed", {"a": 1}))
    api.bus.emit(Event('test.source:{"pool": "other"}', "changed", {"a": 1}))
    api.bus.emit(Event("test.source", "changed", {"a": 2}))
    assert reader.events == [name, name]
    await reader.call("core.unsubscribe", number)
    api.bus.emit(Event(name, "changed", {}))
    assert len(reader.events) == 2


@pytest.mark.parametrize("name", ["test.source:{", "test.source:{}", 'test.open:{"a":1}'])
async def test_wrong_arguments_end_a_subscription_after_it_was_confirmed(api: Api, talk: Open, name: str) -> None:
    reader = talk(READER)
    request = {"jsonrpc": "2.0", "id": 1, "method": "core.subscribe", "params": [name]}
    answer, notice = await reader.say(request)
    assert isinstance(answer["result"], str)
    assert (notice["method"], notice["params"]["collection"]) == ("notify_unsubscribed", name)
    assert notice["params"]["error"]["error"] == 22
    api.bus.emit(Event(name.partition(":")[0], "changed", {}))
    assert reader.events == []


async def test_subscriptions_are_bounded(talk: Open) -> None:
    reader = talk(READER)
    for _ in range(SUBSCRIPTIONS_MAX):
        await reader.call("core.subscribe", "test.open")
    assert (await reader.call("core.subscribe", "test.open"))["data"]["errname"] == "EBUSY"


async def test_another_login_ends_what_it_does_not_permit(api: Api, talk: Open) -> None:
    client = talk(ROOT)
    for name in ("failover.status", "test.open"):
        await client.call("core.subscribe", name)
    client.session.credential = GUEST
    assert [
        frame["params"]["collection"] for frame in client.shell.sent if frame.get("method") == "notify_unsubscribed"
    ] == ["failover.status"]
    frames = await client.say({"jsonrpc": "2.0", "id": 1, "method": "auth.logout", "params": []})
    assert [frame.get("method", "answer") for frame in frames] == ["notify_unsubscribed", "answer"]
    for name in ("failover.status", "test.open"):
        api.bus.emit(Event(name, "changed", {}))
    assert client.events == []


async def test_accounts_that_change_change_their_sessions(api: Api, talk: Open) -> None:
    reader, root = talk(READER), talk(ROOT)
    api.authenticator.current = {"reader": None}
    for listener in api.authenticator.listeners:
        listener()
    assert (await reader.call("failover.status"))["data"]["error"] == 207
    assert await root.call("failover.status") == "MASTER"


async def test_jobs_of_others_are_not_shown(api: Api, talk: Open) -> None:
    async def run(job: Any) -> None: ...

    alice, bob = (Credential("LOGIN_PASSWORD", name) for name in ("alice", "bob"))
    watchers = {name: talk(who) for name, who in (("alice", alice), ("bob", bob), ("root", ROOT))}
    for watcher in watchers.values():
        await watcher.call("core.subscribe", "core.get_jobs")
    await api.jobs.start("m.run", run, credential=alice).wait()
    await api.jobs.start("m.run", run).wait()
    seen = {
        name: {frame["params"]["id"] for frame in w.shell.sent if "params" in frame} for name, w in watchers.items()
    }
    assert seen == {"alice": {1}, "bob": set(), "root": {1, 2}}
    assert [row["id"] for row in await watchers["alice"].call("core.get_jobs")] == [1]
    for name, params in (("core.job_abort", [1]), ("core.job_download_logs", [1, "f"])):
        assert (await watchers["bob"].call(name, *params))["data"]["errname"] == "EPERM"
    missing = await watchers["bob"].call("core.job_abort", 77)
    assert (missing["code"], missing["data"]["extra"][0][0], missing["data"]["extra"][0][2]) == (-32602, None, 2)


async def test_calls_wait_their_turn(api: Api, talk: Open) -> None:
    client = talk(ROOT)
    request = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "core.ping"})
    works = [client.session.receive(request) for _ in range(CALLS_OUTSTANDING_MAX)]
    running = [work for work in works if work is not None]
    assert len(running) == CALLS_RUNNING_MAX
    assert client.session.receive(request) is None
    assert client.shell.sent[-1]["error"]["code"] == -32000
    for work in running:
        await work
    assert len(client.shell.works) == CALLS_OUTSTANDING_MAX - CALLS_RUNNING_MAX
    for work in client.shell.works:
        await work
    assert [frame.get("result") for frame in client.shell.sent[1:]] == ["pong"] * CALLS_OUTSTANDING_MAX


async def test_a_closed_session_is_silent_and_forgotten(api: Api, talk: Open) -> None:
    client = talk(ROOT)
    await client.call("core.subscribe", "failover.status")
    work = client.session.receive(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "core.ping"}))
    assert work is not None
    client.session.closed()
    await work
    api.bus.emit(Event("failover.status", "changed", {}))
    assert len(client.shell.sent) == 1
    assert client.session not in api.server.hub.sessions
    assert client.session.receive("{}") is None


async def test_an_event_that_json_cannot_hold_hurts_nobody(api: Api, talk: Open) -> None:
    client = talk(ROOT)
    await client.call("core.subscribe", "test.open")
    api.bus.emit(Event("test.open", "changed", {"bad": object()}))
    api.bus.emit(Event("test.open", "changed", {"good": 1}))
    assert client.events == ["test.open"]


# ------------------------------------------------------------------------------------------------ legacy


async def test_legacy_greeting(talk: Open) -> None:
    old = talk(kind=LegacySession)
    (frame,) = await old.say({"msg": "connect", "version": "1", "support": ["1"], "features": []})
    assert (frame["msg"], frame["session"]) == ("connected", old.session.id)
    assert await old.say({"msg": "connect", "version": "2"}) == [{"msg": "failed", "version": "1"}]


async def test_legacy_subscriptions(api: Api, talk: Open) -> None:
    old = talk(READER, LegacySession)
    assert await old.say({"msg": "sub", "id": "s1", "name": "failover.status"}) == [{"msg": "ready", "subs": ["s1"]}]
    (denied,) = await old.say({"msg": "sub", "id": "s2", "name": "failover.secret"})
    assert (denied["msg"], denied["id"], denied["error"]["error"]) == ("result", "s2", 13)
    (malformed,) = await old.say({"msg": "sub", "id": 5, "name": None})
    assert malformed["error"]["error"] == 22
    api.bus.emit(Event("failover.status", "changed", {"status": "MASTER"}))
    assert old.shell.sent[-1] == {"msg": "changed", "collection": "failover.status", "fields": {"status": "MASTER"}}
    assert await old.say({"msg": "unsub", "id": "s1"}) == []
    sent = len(old.shell.sent)
    api.bus.emit(Event("failover.status", "changed", {}))
    assert len(old.shell.sent) == sent
    frames = await old.say({"msg": "sub", "id": "s3", "name": "test.source:{"})
    assert [frame["msg"] for frame in frames] == ["ready", "nosub"]


async def test_legacy_errors(talk: Open) -> None:
    old = talk(READER, LegacySession)
    (several,) = await old.say({"msg": "method", "id": 1, "method": "core.job_download_logs", "params": []})
    assert (several["error"]["error"], several["error"]["type"], len(several["error"]["extra"])) == (
        11,
        "VALIDATION",
        2,
    )
    assert several["error"]["trace"] is not None
    (single,) = await old.say({"msg": "method", "id": 1, "method": "core.job_abort", "params": [99]})
    assert (single["error"]["error"], single["error"]["type"]) == (2, "VALIDATION")
    (unknown,) = await old.say({"msg": "dance", "id": 1})
    (wrong,) = await old.say({"msg": "method", "id": 1, "method": 5})
    assert [frame["error"]["error"] for frame in (unknown, wrong)] == [22, 22]


async def test_legacy_calls_beyond_the_limit(talk: Open) -> None:
    old = talk(ROOT, LegacySession)
    request = json.dumps({"msg": "method", "id": 1, "method": "core.ping"})
    works = [old.session.receive(request) for _ in range(CALLS_OUTSTANDING_MAX + 1)]
    assert old.shell.sent[-1]["error"]["errname"] == "ETOOMANYREFS"
    for work in works:
        if work is not None:
            await work
    for work in old.shell.works:
        await work


@pytest.mark.parametrize("text", ["{", "[]", "5"])
async def test_legacy_bad_json_ends_the_connection(talk: Open, text: str) -> None:
    old = talk(kind=LegacySession)
    await old.say(text)
    assert old.shell.close_code == 1007
