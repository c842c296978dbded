"""Whatever a client does wrong costs that client alone: a real server on loopback, and a good client beside the bad."""

import asyncio
import base64
import json
import logging
import socket
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from support.rpc_api import LOGIN, Api, Connect, Serve, event, login, method, param, service

from middlewared.bus import Event
from middlewared.plugin import Call
from middlewared.rpc import limits, server, websocket
from middlewared.settings import ApiSettings

DOCUMENT = {
    "services": [service("auth"), service("test")],
    "events": [event("test.event", auth="login")],
    "methods": [
        LOGIN,
        method("test.echo", [param("value", {})]),
        method("test.count", [param("number", {"type": "integer"})]),
        method("test.wait"),
        method("test.broken"),
        method("test.strange"),
    ],
}

INVALID_JSON = [
    "",
    "{",
    "nonsense",
    "[]",
    '[{"jsonrpc":"2.0","id":1,"method":"core.ping"}]',
    "1",
    '"text"',
    "null",
    "NaN",
    '{"jsonrpc":"2.0","id":1,"method":"core.ping","params":[NaN]}',
    '{"jsonrpc":"2.0","id":1,"method":"core.ping","params":[1e999]}',
    '{"jsonrpc":"2.0","id":1,"method":"core.ping","params":["\\ud800"]}',
    "[" * 5000,
    '{"jsonrpc":"2.0","id":1,"method":"test.echo","params":' + "[" * 900 + "]" * 900 + "}",
    '{"a":' * 1500 + "1" + "}" * 1500,
    "\ufeff{}",
]

INVALID_REQUESTS: list[dict[str, Any]] = [
    {"id": 1, "method": "core.ping"},
    {"jsonrpc": "1.0", "id": 1, "method": "core.ping"},
    {"jsonrpc": 2.0, "id": 1, "method": "core.ping"},
    {"jsonrpc": "2.0", "id": 1},
    {"jsonrpc": "2.0", "id": 1, "method": ""},
    {"jsonrpc": "2.0", "id": 1, "method": 5},
    {"jsonrpc": "2.0", "id": 1, "method": ["core.ping"]},
    {"jsonrpc": "2.0", "id": 1, "method": "core.ping", "params": {}},
    {"jsonrpc": "2.0", "id": 1, "method": "core.ping", "params": None},
    {"jsonrpc": "2.0", "id": {"a": 1}, "method": "core.ping"},
    {"jsonrpc": "2.0", "id": True, "method": "core.ping"},
    {"jsonrpc": "2.0", "id": 1.5, "method": "core.ping"},
]

INVALID_ARGUMENTS: list[list[Any]] = [
    [],
    [1, 2],
    ["1"],
    [True],
    [1.5],
    [None],
    [[1]],
    [{"$date": "x"}],
    [10**30],
    [1e300],
]


UPGRADE = (
    b"GET /api/current HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: " + base64.b64encode(b"0" * 16) + b"\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Gate:
    """The method `test.wait` waits here."""

    def __init__(self) -> None:
        self.open = asyncio.Event()


@pytest.fixture
async def gate() -> Gate:
    return Gate()


async def start(serve: Serve, gate: Gate, **options: Any) -> Api:
    async def echo(call: Call, value: Any) -> Any:
        return value

    async def count(call: Call, number: int) -> int:
        return number

    async def wait(call: Call) -> None:
        await gate.open.wait()

    async def broken(call: Call) -> None:
        raise KeyError("/secret/path")

    async def strange(call: Call) -> Any:
        return object()

    handlers = {"auth.login": login, "test.echo": echo, "test.count": count, "test.wait": wait}
    return await serve(DOCUMENT, handlers | {"test.broken": broken, "test.strange": strange}, **options)


async def test_malformed_json_keeps_the_connection_open(serve: Serve, connect: Connect, gate: Gate) -> None:
    api = await start(serve, gate)
    bad, good = await connect(api, login=True), await connect(api, login=True)
    for text in INVALID_JSON:
        await bad.send(text)
        frame = await bad.receive()
        assert (frame["error"]["code"], frame["id"], "data" in frame["error"]) == (-32700, None, False), text
        assert await good.call("core.ping") == "pong"
    assert await bad.call("core.ping") == "pong"


async def test_wrong_envelopes_are_answered_with_their_id(serve: Serve, connect: Connect, gate: Gate) -> None:
    api = await start(serve, gate)
    bad, good = await connect(api, login=True), await connect(api, login=True)
    for message in INVALID_REQUESTS:
        await bad.send(message)
        frame = await bad.receive()
        assert (frame["error"]["code"], frame["id"]) == (-32600, message["id"]), message
    await bad.send({"jsonrpc": "1.0", "method": "core.ping"})  # no id: silence
    assert await bad.call("core.ping") == "pong"
    assert await good.call("core.ping") == "pong"


async def test_wrong_arguments_and_unknown_methods(serve: Serve, connect: Connect, gate: Gate) -> None:
    api = await start(serve, gate)
    bad = await connect(api, login=True)
    for arguments in INVALID_ARGUMENTS:
        error = (await bad.answer("test.count", *arguments))["error"]
        assert error["code"] == -32602, arguments
        assert all(len(triple) == 3 for triple in error["data"]["extra"])
    for name in ("test.nothing", "__class__", "test.wait.__call__", "tést", "a" * 5000):
        assert (await bad.answer(name))["error"] == {"code": -32601, "message": "Method does not exist"}


async def test_a_failing_method_shows_no_inside(serve: Serve, connect: Connect, gate: Gate) -> None:
    api = await start(serve, gate)
    client = await connect(api, login=True)
    error = (await client.answer("test.broken"))["error"]
    assert (error["code"], error["data"]["error"], error["data"]["trace"]["class"]) == (-32001, 22, "KeyError")
    assert "reference" in error["data"]["reason"]
    assert "secret" not in json.dumps(error)
    assert (await client.answer("test.strange"))["error"]["code"] == -32603


async def test_binary_and_broken_text_close_only_their_connection(serve: Serve, connect: Connect, gate: Gate) -> None:
    api = await start(serve, gate)
    good = await connect(api, login=True)
    binary = await connect(api)
    await binary.socket.send_bytes(b"{}")
    assert await binary.close_code() == 1003
    broken = await Raw.websocket(api)
    await broken.send(frame(b"\xff\xfe"))
    assert await broken.close_code() == 1007
    unmasked_rubbish = await Raw.websocket(api)
    await unmasked_rubbish.send(b"\xff\xff\xff\xff\xff\xff")
    assert await unmasked_rubbish.close_code() == 1002
    assert await good.call("core.ping") == "pong"


@pytest.mark.parametrize("characters", [limits.REQUEST_CHARS_BEFORE_LOGIN_MAX + 1, 1 << 20])
async def test_oversize_before_login(serve: Serve, connect: Connect, gate: Gate, characters: int) -> None:
    api = await start(serve, gate)
    client = await connect(api)
    await client.send(" " * characters)
    assert await client.close_code() == 1007


@pytest.mark.parametrize("characters", [limits.REQUEST_CHARS_MAX + 1, 1 << 20])
async def test_oversize_after_login(serve: Serve, connect: Connect, gate: Gate, characters: int) -> None:
    api = await start(serve, gate)
    client, good = await connect(api, login=True), await connect(api, login=True)
    text = "x" * (limits.REQUEST_CHARS_MAX - 200)
    assert await client.call("test.echo", text) == text
    await client.send(" " * characters)
    assert await client.close_code() == 1009
    assert await good.call("core.ping") == "pong"


async def test_a_promised_huge_frame_is_refused_before_it_is_sent(serve: Serve, gate: Gate) -> None:
    api = await start(serve, gate)
    raw = await Raw.websocket(api)
    await raw.send(b"\x81\xff" + (1 << 40).to_bytes(8, "big") + b"\0\0\0\0")
    assert await raw.close_code() == 1007


async def test_calls_beyond_the_limit_are_refused_and_the_others_answered(
    serve: Serve, connect: Connect, gate: Gate
) -> None:
    api = await start(serve, gate)
    greedy, good = await connect(api, login=True), await connect(api, login=True)
    numbers = [await greedy.request("test.wait") for _ in range(limits.CALLS_OUTSTANDING_MAX + 1)]
    refused = await greedy.receive()
    assert (refused["error"]["code"], refused["id"]) == (-32000, numbers[-1])
    assert await good.call("core.ping") == "pong"
    gate.open.set()
    answered = [(await greedy.receive())["id"] for _ in range(limits.CALLS_OUTSTANDING_MAX)]
    assert sorted(answered) == numbers[:-1]
    assert await greedy.call("core.ping") == "pong"


async def test_a_reader_that_does_not_read_is_cut_off(
    serve: Serve, connect: Connect, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "UNSENT_BYTES_MAX", 100_000)
    api = await start(serve, gate)
    good = await connect(api, login=True)
    await good.call("core.subscribe", "test.event")
    slow = await Raw.websocket(api, receive_buffer_bytes=4096)
    await slow.send(call_frame(1, "auth.login", "root", "x") + call_frame(2, "core.subscribe", "test.event"))
    await slow.read_until(b'"id":2')
    big = {"text": "x" * 50_000}
    async with asyncio.timeout(10):
        while api.server.connections > 1:  # ends only when the slow one is gone
            api.bus.emit(Event("test.event", "changed", big))
            assert (await good.receive())["params"]["fields"] == big
    assert await good.call("core.ping") == "pong"
    slow.writer.close()  # not before: a connection that nobody holds would be closed by the garbage collector


async def test_a_half_open_websocket_is_noticed(
    serve: Serve, connect: Connect, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "HEARTBEAT_S", 0.4)
    api = await start(serve, gate)
    silent, good = await Raw.websocket(api), await connect(api, login=True)
    listening = asyncio.create_task(good.receive())  # its library answers pings while it reads
    assert await silent.end() in (b"", None)
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    assert api.server.connections == 1


@pytest.mark.parametrize("beginning", [b"", b"GET /api/cur", b"GET /api/current HTTP/1.1\r\nHost: x\r\nX: "])
async def test_requests_that_never_end_are_ended(
    serve: Serve, connect: Connect, gate: Gate, monkeypatch: pytest.MonkeyPatch, beginning: bytes
) -> None:
    monkeypatch.setattr(server, "REQUEST_HEAD_TIMEOUT_S", 0.2)
    api = await start(serve, gate)
    good = await connect(api, login=True)
    raw = await Raw.open(api)
    await raw.send(beginning)
    await raw.end()
    assert api.server.connections == 1
    assert await good.call("core.ping") == "pong"


async def test_rubbish_instead_of_http(serve: Serve, connect: Connect, gate: Gate) -> None:
    api = await start(serve, gate)
    good = await connect(api, login=True)
    for rubbish in (b"\0" * 100, b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/9.9\r\n\r\n", b"A" * 100_000):
        raw = await Raw.open(api)
        await raw.send(rubbish)
        assert b"400" in (await raw.end() or b"400")
    assert await good.call("core.ping") == "pong"


async def test_a_client_that_leaves_during_the_handshake_is_no_error(
    serve: Serve, connect: Connect, gate: Gate, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    api = await start(serve, gate)
    good = await connect(api, login=True)
    prepare = websocket.Peer.prepare

    async def too_late(peer: websocket.Peer, request: web.BaseRequest) -> Any:
        assert request.transport is not None
        request.transport.close()
        return await prepare(peer, request)

    monkeypatch.setattr(websocket.Peer, "prepare", too_late)
    raw = await Raw.open(api)
    await raw.send(UPGRADE)
    assert not await raw.end()
    assert await good.call("core.ping") == "pong"
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_idle_strangers_are_asked_to_leave(
    serve: Serve, connect: Connect, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "SWEEP_INTERVAL_S", 0.01)
    monkeypatch.setattr(server, "IDLE_BEFORE_LOGIN_TIMEOUT_S", 0.2)
    api = await start(serve, gate)
    good, stranger = await connect(api, login=True), await connect(api)
    assert await stranger.close_code() == 1008
    assert await good.call("core.ping") == "pong"


async def test_connections_beyond_the_limit_are_closed_at_once(serve: Serve, connect: Connect, gate: Gate) -> None:
    api = await start(serve, gate, settings=ApiSettings(listen=("127.0.0.1:0",), connections_max=2))
    first, second = await connect(api), await connect(api)
    with pytest.raises(aiohttp.ClientError):
        await connect(api)
    await second.socket.close()
    while api.server.connections > 1:
        await asyncio.sleep(0)
    third = await connect(api)
    assert [await client.call("core.ping") for client in (first, third)] == ["pong", "pong"]


async def test_a_flood_of_frames_does_not_starve_others(serve: Serve, connect: Connect, gate: Gate) -> None:
    api = await start(serve, gate)
    good = await connect(api, login=True)
    flood = await Raw.websocket(api)
    flooding = asyncio.create_task(flood.send(frame(b"x") * 20_000))
    reading = asyncio.create_task(flood.end())
    assert [await good.call("core.ping") for _ in range(20)] == ["pong"] * 20
    for task in (flooding, reading):
        task.cancel()
    await asyncio.gather(flooding, reading, return_exceptions=True)


# --------------------------------------------------------------------------------------------- raw bytes


def frame(payload: bytes) -> bytes:
    """A text frame as clients send it, masked with zeros."""
    length = bytes((0x80 | len(payload),)) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2, "big")
    return b"\x81" + length + b"\0\0\0\0" + payload


def call_frame(number: int, name: str, *params: Any) -> bytes:
    return frame(json.dumps({"jsonrpc": "2.0", "id": number, "method": name, "params": params}).encode())


class Raw:
    """A connection whose bytes the test writes itself."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, api: Api, receive_buffer_bytes: int = 0) -> "Raw":
        raw = socket.socket()
        if receive_buffer_bytes:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", api.port))
        return cls(*await asyncio.open_connection(sock=raw, limit=4096))

    @classmethod
    async def websocket(cls, api: Api, receive_buffer_bytes: int = 0) -> "Raw":
        self = await cls.open(api, receive_buffer_bytes)
        await self.send(UPGRADE)
        await self.read_until(b"\r\n\r\n")
        return self

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def read_until(self, mark: bytes) -> None:
        seen = b""
        async with asyncio.timeout(10):
            while mark not in seen:
                chunk = await self.reader.read(4096)
                assert chunk
                seen += chunk

    async def end(self) -> bytes | None:
        """Everything until the server ends the connection; None: it was reset."""
        try:
            async with asyncio.timeout(10):
                data = await self.reader.read(-1)
        except ConnectionError:
            return None
        finally:
            self.writer.close()
        return data if not data.startswith(b"\x89") else b""

    async def close_code(self) -> int:
        data = await self.end()
        assert data is not None
        assert data[0] == 0x88
        return int.from_bytes(data[2:4], "big")
