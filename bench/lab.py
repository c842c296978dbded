"""The lab that is measured: started, told what to break, and ended."""

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from middlewared.client import Client
from middlewared.lab.daemons import ask_all
from middlewared.lab.places import LOOPBACK, NODES, PASSWORD, USER, Layout, Places
from middlewared.lines import LineClient

PATIENCE_S = 60.0
_POLL_S = 0.05
_CALL_TIMEOUT_MS = 15_000


class BenchError(Exception):
    """Something that the benchmark stands on broke; the message is for a human."""


@dataclass(frozen=True, slots=True)
class News:
    """What the room saw, and when by the monotonic clock that all processes share."""

    at_s: float
    text: str


class Lab:
    """The room's control socket, and the controllers' APIs over their unix sockets."""

    def __init__(self, directory: Path, layout: Layout = LOOPBACK) -> None:
        self.places = Places(directory, layout)
        self.news: list[News] = []
        self._control = LineClient(self.places.control, self._on_event)

    async def __aenter__(self) -> "Lab":
        kind = ("--netns",) if self.places.layout.kind == "netns" else ()
        await asyncio.to_thread(self._command, "up", "--detach", *kind)
        await self._control.connect()
        await self.until_healthy()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._control.close()
        await asyncio.to_thread(self._command, "down")

    async def tell(self, op: str, **args: Any) -> Any:
        """One operation of the room, as `middlewared lab` has them."""
        return await self._control.call(op, timeout_ms=_CALL_TIMEOUT_MS, **args)

    async def until_healthy(self) -> str:
        """Wait for one MASTER, one BACKUP and no reasons; returns the MASTER."""
        deadline_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline_s:
            answers = await ask_all(self.places, dict.fromkeys(NODES, "on"))
            roles = {answer[0]: node for node, answer in answers.items() if answer is not None and not answer[1]}
            if roles.keys() == {"MASTER", "BACKUP"}:
                return roles["MASTER"]
            await asyncio.sleep(_POLL_S)
        raise BenchError(f"the pair is not healthy after {PATIENCE_S:.0f} s: {answers}; see {self.places.directory}")

    async def until_said(self, text: str, since: int = 0) -> News:
        """Wait for a line of news that contains the text, beyond the first `since` lines."""
        deadline_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline_s:
            for news in self.news[since:]:
                if text in news.text:
                    return news
            await asyncio.sleep(_POLL_S)
        raise BenchError(f"the room never said {text!r}")

    @contextlib.asynccontextmanager
    async def client(self, node: str) -> AsyncIterator[Client]:
        async with Client(f"ws+unix://{self.places.api(node)}") as client:
            await client.login_password(USER, PASSWORD)
            yield client

    async def pids(self, node: str) -> dict[str, int]:
        row = (await self.tell("status"))["controllers"][node]
        return {name: row[name] for name in ("middlewared", "fenced") if row[name]}

    def _command(self, *words: str) -> None:
        command = [sys.executable, "-m", "middlewared", "lab", *words, "--dir", str(self.places.directory)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        if done.returncode != 0:
            raise BenchError(done.stderr.strip() or done.stdout.strip() or f"{' '.join(command)} failed")

    def _on_event(self, event: str, data: Any) -> None:
        if event == "news":
            self.news.append(News(data["t_ms"] / 1000, data["text"]))
