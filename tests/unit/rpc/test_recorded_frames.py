"""Replays the frames that stock programs exchanged (PROTOCOL Z) against the real sessions and the real server.

Everything must come out as recorded, in the recorded order, but ids that the server chooses, times, trace texts and
tokens. What the fake methods of `auth` answer is taken from the recording: there it is the frames that are tested.
"""

import asyncio
import json
from collections import defaultdict, deque
from pathlib import Path
from typing import Any

import aiohttp
from support.rpc_api import ROOT, Api, Client, Serve, event, method, param, service

from middlewared.bus import Event
from middlewared.errors import EHAUNAVAILABLE, CallError, ValidationErrors
from middlewared.jobs import JobState
from middlewared.plugin import Call

RECORDING = Path(__file__).with_name("recorded_frames.txt")
TRIMMED = ("core.get_methods", "core.get_services")  # not whole in the recording


def recorded() -> list[tuple[str, str]]:
    """(kind, text): a section, a frame of the client or the server, or an HTTP request."""
    pairs = []
    for line in RECORDING.read_text().splitlines():
        kind, _, text = line.partition(" ")
        pairs.append((kind, text))
    return pairs


class Machine:
    """The fake methods behind the frames."""

    def __init__(self, canned: dict[str, deque[Any]]) -> None:
        self.config = {"id": 1, "disabled": False, "master": True, "timeout": 0}
        self.canned = canned
        self.api: Api

    async def answer_auth(self, call: Call, *arguments: Any) -> Any:
        name = self.canned["order"].popleft()
        result = self.canned[name].popleft()
        success = result is True or (isinstance(result, dict) and result.get("user_info") is not None)
        if success and call.session is not None:
            call.session.credential = ROOT
        return result

    async def generate_token(self, call: Call, *arguments: Any) -> str:
        return self.api.authenticator.generate_token(call.credential, call.origin, attrs={})

    async def status(self, call: Call) -> str:
        return "MASTER"

    async def node(self, call: Call) -> str:
        return "A"

    async def hostname(self, call: Call) -> str:
        return "nodea.example.test"

    async def get_config(self, call: Call) -> dict[str, Any]:
        return dict(self.config)

    async def update(self, call: Call, data: dict[str, Any]) -> dict[str, Any]:
        self.config |= data
        self.api.bus.emit(Event("failover.status", "changed", {"status": "MASTER"}))
        return dict(self.config)

    async def control(self, call: Call, action: str) -> None:
        raise CallError("Not on this node", EHAUNAVAILABLE)

    async def upgrade_finish(self, call: Call) -> bool:
        assert call.job is not None
        call.job.set_progress(25, "Waiting for standby")
        call.job.set_progress(75, "Rebooting standby")
        return True

    async def upgrade_fail(self, call: Call) -> None:
        assert call.job is not None
        call.job.set_progress(10, "Starting")
        raise CallError("Standby Controller is not ready.")

    async def upgrade_invalid(self, call: Call) -> None:
        raise ValidationErrors([("failover_upgrade.train", "Bad train", 22)])

    async def sleep(self, call: Call, seconds: int) -> bool:
        """1: until somebody waits for this job; 30: for ever."""
        waited_for = asyncio.Event()

        def look(news: Event) -> None:
            fields = news.fields or {}
            if fields.get("method") == "core.job_wait" and fields["state"] == JobState.RUNNING and seconds == 1:
                waited_for.set()

        forget = self.api.bus.listen(look)
        try:
            await waited_for.wait()
        finally:
            forget()
        return True

    async def save(self, call: Call) -> None:
        assert call.job is not None
        call.job.set_progress(50, "Writing")
        await call.job.output.write(b"configuration")

    async def receive(self, call: Call) -> int:
        assert call.job is not None
        return sum([len(chunk) async for chunk in call.job.input_chunks()])


def schema() -> dict[str, Any]:
    update = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "disabled": {"type": "boolean", "description": "D"},
            "master": {"type": "boolean", "description": "D"},
            "timeout": {"type": "integer", "maximum": 120, "description": "D"},
        },
    }

    def params(*names: str) -> list[dict[str, Any]]:
        return [param(name, {}, required=False) for name in names]

    return {
        "services": [service("failover", "config"), service("system"), service("auth")],
        "events": [event("failover.status", roles=["FAILOVER_READ"])],
        "methods": [
            method("auth.login", params("user", "password", "otp"), auth="none"),
            method("auth.login_ex", [param("data", {"type": "object"})], auth="none"),
            method("auth.login_ex_continue", [param("data", {"type": "object"})], auth="none"),
            method("auth.mechanism_choices", auth="none"),
            method("auth.generate_token", params("ttl", "attrs", "match_origin", "single_use"), auth="login"),
            method("system.hostname"),
            method("failover.status"),
            method("failover.node"),
            method("failover.config"),
            method("failover.update", [param("failover_update", update)]),
            method("failover.control", [param("action", {"type": "string"})]),
            method("failover.upgrade_finish", job=True),
            method("failover.upgrade_fail", job=True),
            method("failover.upgrade_invalid", job=True),
            method("failover.sleep", [param("seconds", {"type": "integer"})], job=True),
            method("failover.save", job=True, downloadable=True),
            method("failover.receive", job=True, uploadable=True),
        ],
    }


def canned_answers(frames: list[tuple[str, str]]) -> dict[str, deque[Any]]:
    """Results of the `auth` methods, in the order of the recording; `order` names the method of each."""
    answers: defaultdict[str, deque[Any]] = defaultdict(deque)
    asked: dict[str, str] = {}
    for kind, text in frames:
        if kind not in ("C->S", "S->C") or text.endswith("...") or "trimmed" in text:
            continue
        frame = json.loads(text)
        name = frame.get("method", "")
        if kind == "C->S" and name.startswith("auth.") and name != "auth.generate_token":
            asked[frame["id"]] = name
            answers["order"].append(name)
        elif kind == "S->C" and frame.get("id") in asked:
            answers[asked[frame["id"]]].append(frame["result"])
    return answers


class Replay:
    """Plays the client's part and compares the server's."""

    def __init__(self, api: Api, http: aiohttp.ClientSession) -> None:
        self.api = api
        self.http = http
        self.client: Client
        self.ids: dict[Any, Any] = {}  # recorded subscription id -> ours
        self.methods: dict[Any, str] = {}  # by request id
        self.download = ""
        self.compared = 0

    async def connect(self, frame: dict[str, Any], section: str) -> None:
        path = "/websocket" if frame.get("msg") == "connect" else "/api/current"
        http = self.http
        if section.startswith("N."):
            self.api.authenticator.local = ROOT
            http = aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(self.api.socket)))
        self.client = Client(await http.ws_connect(f"http://localhost:{self.api.port}{path}"))

    async def from_client(self, text: str, section: str) -> None:
        frame = json.loads(text)
        if frame.get("method") == "core.set_options" or frame.get("msg") == "connect":
            await self.connect(frame, section)
        self.methods[frame.get("id")] = frame.get("method", "")
        if frame.get("method") == "core.unsubscribe":
            frame["params"] = [self.ids[frame["params"][0]]]
        await self.client.send(frame)

    async def from_server(self, text: str) -> None:
        frame = await self.client.receive()
        if "trimmed" in text or self.methods.get(frame.get("id")) in TRIMMED:
            assert isinstance(frame["result"], dict)
            return
        expected = json.loads(text)
        name = self.methods.get(frame.get("id"))
        if name == "core.subscribe" and "result" in expected:
            self.ids[expected["result"]] = frame["result"]
            expected["result"] = frame["result"]
        elif name == "auth.generate_token":
            self.token = expected["result"] = frame["result"]
        elif name == "core.download":
            self.download = expected["result"][1] = frame["result"][1]
        assert without_chance(frame) == without_chance(expected)
        self.compared += 1

    async def over_http(self, text: str) -> None:
        if text.startswith("GET"):
            async with self.http.get(self.api.http + self.download) as response:
                assert (response.status, await response.read()) == (200, b"configuration")
            return
        form = aiohttp.FormData()
        form.add_field("data", json.dumps({"method": "failover.receive", "params": []}))
        form.add_field("file", b"abc", filename="f")
        headers = {"Authorization": f"Token {self.token}"}
        async with self.http.post(self.api.http + "/_upload/", data=form, headers=headers) as response:
            assert (response.status, await response.json()) == (200, {"job_id": 8})


def without_chance(value: Any) -> Any:
    """The frame without times, trace texts and session ids."""
    if isinstance(value, list):
        return [without_chance(item) for item in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"$date"}:
        return {"$date": type(value["$date"]).__name__}
    hidden = {"formatted", "session"} | ({"exception"} if isinstance(value.get("exception"), str) else set())
    return {key: bool(item) if key in hidden else without_chance(item) for key, item in value.items()}


async def test_every_recorded_frame(serve: Serve, http: aiohttp.ClientSession) -> None:
    frames = recorded()
    machine = Machine(canned_answers(frames))
    logins = ("login", "login_ex", "login_ex_continue", "mechanism_choices")
    handlers = {
        "auth.generate_token": machine.generate_token,
        "system.hostname": machine.hostname,
        "failover.config": machine.get_config,
        **{f"auth.{name}": machine.answer_auth for name in logins},
    }
    plain = ("status", "node", "update", "control", "upgrade_finish", "upgrade_fail", "upgrade_invalid", "sleep")
    handlers |= {f"failover.{name}": getattr(machine, name) for name in (*plain, "save", "receive")}
    machine.api = await serve(schema(), handlers)
    replay = Replay(machine.api, http)
    section = ""
    for kind, text in frames:
        match kind:
            case "C->S":
                await replay.from_client(text, section)
            case "S->C":
                await replay.from_server(text)
            case "HTTP":
                await replay.over_http(text)
            case _:
                section = text
    assert replay.compared > 100
