"""The sockets of a virtual machine, against a peer that answers as qemu and its guest agent do."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from middlewared.lab.vm.wires import Agent, Wire, WireError

Answer = Callable[[dict[str, Any]], list[dict[str, Any]]]


class Peer:
    """The other end: answers each request by what `answer` returns for it; nothing: it stays silent."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked: list[dict[str, Any]] = []
        self.answer: Answer = lambda request: [{"return": {}, "id": request["id"]}]
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        while line := await reader.readline():
            request = json.loads(line.replace(b"\xff", b""))
            self.asked.append(request)
            for message in self.answer(request):
                writer.write(json.dumps(message).encode() + b"\n")


@pytest_asyncio.fixture
async def peer(tmp_path: Path) -> AsyncIterator[Peer]:
    made = Peer(tmp_path / "sock")
    server = await asyncio.start_unix_server(made.serve, str(made.path))
    yield made
    server.close()
    for writer in made.writers:
        writer.close()


async def test_an_event_comes_between_question_and_answer(peer: Peer) -> None:
    heard: list[tuple[str, Any]] = []
    wire = Wire(peer.path, lambda name, data: heard.append((name, data)))
    await wire.connect()
    event = {"event": "SHUTDOWN", "data": {"reason": "guest-reset"}}
    peer.answer = lambda request: [event, {"return": "fine", "id": request["id"]}]
    assert await wire.call("query-status") == "fine"
    assert heard == [("SHUTDOWN", {"reason": "guest-reset"})]
    await wire.close()


async def test_a_late_answer_is_nobody_elses(peer: Peer) -> None:
    wire = Wire(peer.path)
    await wire.connect()
    peer.answer = lambda request: []
    with pytest.raises(WireError, match="no answer within"):
        await wire.call("slow", timeout_s=0.01)
    late = peer.asked[0]["id"] if peer.asked else 1
    peer.answer = lambda request: [{"return": "late", "id": late}, {"return": "mine", "id": request["id"]}]
    assert await wire.call("quick") == "mine"
    await wire.close()


async def test_refusals_and_the_end_are_errors(peer: Peer) -> None:
    wire = Wire(peer.path)
    await wire.connect()
    peer.answer = lambda request: [{"error": {"class": "GenericError", "desc": "no such device"}, "id": request["id"]}]
    with pytest.raises(WireError, match="no such device"):
        await wire.call("set_link")

    def hang_up(request: dict[str, Any]) -> list[dict[str, Any]]:
        peer.writers[0].close()
        return []

    peer.answer = hang_up
    with pytest.raises(WireError, match="went off"):
        await wire.call("query-status")
    with pytest.raises(WireError, match="is off"):
        await wire.call("query-status")
    await wire.close()


async def test_a_program_inside_that_fails_says_why(peer: Peer) -> None:
    states = iter(
        [{"exited": False}, {"exited": True, "exitcode": 3, "out-data": base64.b64encode(b"no disk").decode()}]
    )

    def answer(request: dict[str, Any]) -> list[dict[str, Any]]:
        value = {"pid": 7} if request["execute"] == "guest-exec" else next(states)
        return [{"return": value, "id": request["id"]}]

    peer.answer = answer
    agent = Agent(peer.path)
    await agent.connect()
    with pytest.raises(WireError, match="no disk"):
        await agent.run("mount", "/mnt", stdin=b"text")
    assert base64.b64decode(peer.asked[0]["arguments"]["input-data"]) == b"text"
    await agent.close()
