"""Hands and eyes of tests that run a lab: its commands, its room, its controllers' APIs."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest

from middlewared.client import Client, ClientError
from middlewared.errors import CallError
from middlewared.lab.places import LOOPBACK, NODES, PASSWORD, USER, Layout, Places
from middlewared.lab.properties import PROPERTIES
from middlewared.lines import LineClient

PATIENCE_S = 20.0  # how long anything may take on a busy machine; nothing is measured by it
POLL_S = 0.02
COMMAND = [sys.executable, "-m", "middlewared", "lab"]


def run(*words: str, directory: Path, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    """One `middlewared lab` command."""
    return subprocess.run(
        [*COMMAND, *words, "--dir", str(directory)], capture_output=True, text=True, timeout=timeout_s, check=False
    )


def processes(directory: Path) -> list[str]:
    """Command lines of the processes that belong to the lab in the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if any(str(directory) in word for word in words) and int(entry.name) != os.getpid():
                    found.append(" ".join(words))
    return found


@contextmanager
def running(*words: str, layout: Layout = LOOPBACK, timeout_s: float = 60) -> Iterator[Places]:
    """A lab of its own, in an empty folder with a short name. It has to end by itself, and to leave no process."""
    directory = Path(tempfile.mkdtemp(prefix="mw-lab-"))
    try:
        started = run("up", *words, "--detach", directory=directory, timeout_s=timeout_s)
        if started.returncode != 0:
            logs = "\n".join(f"{log}:\n{log.read_text()[-3000:]}" for log in sorted(directory.rglob("*.log")))
            pytest.fail(f"the lab does not start: {started.stdout}{started.stderr}\n{logs}")
        yield Places(directory, layout)
    finally:
        ended = run("down", directory=directory)
    assert ended.returncode == 0, ended.stderr
    assert processes(directory) == []


class Lab:
    """A test's hands and eyes: the control socket, the controllers' APIs, and what the room said."""

    patience_s = PATIENCE_S
    ask_s = 2.0  # for one answer
    poll_s = POLL_S

    def __init__(self, places: Places) -> None:
        self.places = places
        self.news: list[tuple[float, str]] = []
        self._control = LineClient(places.control, self._on_event)

    async def connect(self) -> None:
        await self._control.connect()

    async def close(self) -> None:
        await self._control.close()

    async def tell(self, op: str, **args: Any) -> Any:
        """One operation of the room; `tell("kill", node="a")`."""
        return await self._control.call(op, timeout_ms=60_000, **args)

    async def set_property(self, node: str, key: str, value: str) -> None:
        await self.tell("set", node=node, key=key, value=value)

    async def call(self, node: str, method: str, *params: Any) -> Any:
        """Call a method on one controller, over its unix socket. Raises ClientError, CallError."""
        async with Client(f"ws+unix://{self.places.api(node)}", timeout_s=30) as client:
            await client.login_password(USER, PASSWORD)
            return await client.call(method, *params)

    async def status(self, node: str) -> str | None:
        """failover.status; None when the controller does not answer."""
        return await self._ask(node, "failover.status")

    async def reasons(self, node: str) -> set[str] | None:
        found = await self._ask(node, "failover.disabled.reasons")
        return None if found is None else set(found)

    async def answers_on_vip(self) -> str | None:
        """Which controller answers an API call to the virtual address."""
        layout = self.places.layout
        url = f"ws://{layout.virtual[0]}:{layout.port}"
        try:
            limits = {"timeout_s": self.ask_s, "connect_timeout_s": self.ask_s}
            async with asyncio.timeout(self.ask_s), Client(url, **limits) as client:
                await client.login_password(USER, PASSWORD)
                return str(await client.call("failover.node")).lower()
        except (ClientError, CallError, OSError, TimeoutError):
            return None

    async def until_answered_by(self, node: str) -> None:
        """Wait until that controller answers on the virtual address."""

        async def holds() -> bool:
            return await self.answers_on_vip() == node

        await self.until(f"{node} answers on the virtual address", holds)

    async def until(self, what: str, holds: Callable[[], Awaitable[bool]]) -> None:
        """Wait until it holds, or fail with what was waited for and what the room saw."""
        try:
            async with asyncio.timeout(self.patience_s):
                while not await holds():
                    await asyncio.sleep(self.poll_s)
        except TimeoutError:
            said = "\n".join(text for _, text in self.news[-30:])
            views = {node: (await self.status(node), await self.reasons(node)) for node in NODES}
            pytest.fail(f"never: {what}; the controllers say {views}; the room saw:\n{said}")

    async def until_roles(self, **roles: str) -> None:
        """`until_roles(a="MASTER", b="BACKUP")`, by the controllers' own word."""

        async def holds() -> bool:
            return all([await self.status(node) == role for node, role in roles.items()])

        await self.until(str(roles), holds)

    async def until_healthy(self, master: str | None = None) -> str:
        """Wait for one MASTER, one BACKUP and no reasons; returns the MASTER."""
        leader = ""

        async def holds() -> bool:
            nonlocal leader
            roles = {node: await self.status(node) for node in NODES}
            if sorted(str(role) for role in roles.values()) != ["BACKUP", "MASTER"]:
                return False
            leader = "a" if roles["a"] == "MASTER" else "b"
            return (await self.reasons("a")) == set() == (await self.reasons("b"))

        await self.until("a healthy pair", holds)
        if master is not None and leader != master:
            await self.call(leader, "failover.become_passive")
            await self.until_roles(**{master: "MASTER", leader: "BACKUP"})
            return await self.until_healthy()
        return leader

    async def until_said(self, words: str) -> None:
        async def holds() -> bool:
            return any(words in text for _, text in self.news)

        await self.until(f"the room says {words!r}", holds)

    async def mend(self) -> str:
        """Undo every fault; returns the MASTER of the healthy pair."""
        room = await self.tell("status")
        await self.tell("heal")
        if room["pools"] != "default":
            await self.tell("set", key="pools", value="default")
        for disk in room["disks"]:
            if disk["failed"]:
                await self.tell("repair-disk", disk=disk["lun"])
            for node in disk["pulled"]:
                await self.tell("push-disk", node=node, disk=disk["lun"])
        for node, row in room["controllers"].items():
            for name in row["properties"]:
                await self.set_property(node, name, _word(PROPERTIES[name].default))
            if row["power"] == "frozen":
                await self.tell("resume", node=node)
            elif row["power"] == "off":
                await self.tell("boot", node=node)
        return await self.until_healthy()

    async def _ask(self, node: str, method: str) -> Any:
        try:
            async with asyncio.timeout(self.ask_s):
                return await self.call(node, method)
        except (ClientError, CallError, OSError, TimeoutError):
            return None

    def _on_event(self, event: str, data: Any) -> None:
        if event == "news":
            self.news.append((data["t_ms"], data["text"]))


AnyLab = TypeVar("AnyLab", bound=Lab)


@asynccontextmanager
async def mended(lab: AnyLab) -> AsyncIterator[AnyLab]:
    """Healthy before a test, and mended after it."""
    await lab.connect()
    await lab.mend()
    yield lab
    with suppress(Exception):  # the test's own failure is the news
        await lab.mend()
    await lab.close()


def _word(value: Any) -> str:
    """A property's value as the command line would write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ",".join(value) or "none" if isinstance(value, list) else str(value)


def check_ledger(places: Places) -> int:
    """Every write that the disks accepted came from whoever held the reservation; returns how many there were."""
    accepted = 0
    for line in places.writes.read_text().splitlines():
        write = json.loads(line)
        if not write["accepted"]:
            continue
        accepted += 1
        assert write["reserved"], f"written without any reservation: {write}"
        assert write["writer_key"] == write["holder_key"] != "0x0000000000000000", f"not the holder's: {write}"
    return accepted
