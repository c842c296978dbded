"""Keepers in virtual time: controllers around one shelf, in a room where no test waits."""

import asyncio
import functools
import inspect
import selectors
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from middlewared.lab.direct import DirectSource
from middlewared.lab.shelf import STANDARD, Shelf, ShelfDisk, Target
from middlewared.plugins.fencing import scsi, scsi_pr
from middlewared.plugins.fencing.guard import Guard
from middlewared.plugins.fencing.memory import FileMemory
from middlewared.ports import FenceCode, FenceState
from middlewared.settings import FenceSettings
from tests.simulator.parked import park

HOSTS = {"a": 0xA000_0001, "b": 0xB000_0001}
SETTINGS = FenceSettings()
BLOCK = bytes(512)


class _JumpingSelector(selectors.SelectSelector):
    """Nothing is waited for: the time that a loop wants to sleep passes at once."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise AssertionError("everything waits for something that never happens")
        self.now_s += max(timeout, 0)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = _JumpingSelector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now_s

    def freeze(self, ms: float) -> None:
        """The machine stands still: time passes, and nothing runs."""
        self._clock.now_s += ms / 1000


def virtual(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a coroutine test in virtual time, with a room for it."""

    @functools.wraps(test)
    def run(tmp_path: Path, **more: Any) -> None:
        loop = VirtualLoop()
        try:
            loop.run_until_complete(_in_room(loop, test, tmp_path, more))
        finally:
            loop.close()

    del run.__wrapped__  # pytest is to see the arguments of `run`
    names = [name for name in test.__annotations__ if name not in ("room", "return")]
    return _with_arguments(run, names)


def _with_arguments(run: Callable[..., None], names: list[str]) -> Callable[..., None]:
    parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("tmp_path", *names)]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what pytest reads
    return run


async def _in_room(loop: VirtualLoop, test: Callable[..., Awaitable[None]], path: Path, more: dict[str, Any]) -> None:
    room = Room(loop, path)
    try:
        await test(room, **more)
    finally:
        for node in room.nodes.values():
            await node.guard.stop()


class Node:
    """One controller: its keeper, its way to the disks, and what became of it."""

    def __init__(self, room: "Room", name: str, life: int, nexus: str) -> None:
        self.name = name
        self.source = DirectSource(room.shelf, nexus, latency_ms=0.2)
        self.resets: list[str] = []
        self.said: list[FenceState] = []
        self.guard = Guard(
            SETTINGS,
            HOSTS[name],
            self.source,
            memory=FileMemory(room.path / f"{name}-boot{life}.json"),
            reset=self._reset,
            publish=self.said.append,
        )

    def _reset(self, reason: str) -> None:
        self.resets.append(reason)
        self.source.cut = True  # a controller that resets sends nothing more


class Room:
    def __init__(self, loop: VirtualLoop, path: Path) -> None:
        self.loop, self.path = loop, path
        self.shelf = self.new_shelf(12)
        self.nodes: dict[str, Node] = {}

    def new_shelf(self, disks: int, target: Target = STANDARD, *, blank: bool = False) -> Shelf:
        new = Shelf([ShelfDisk(lun, f"S{lun:03}", 1 << 20) for lun in range(disks)], target=target)
        self.shelf = new if blank else park(new)
        return self.shelf

    async def boot(self, name: str, life: int = 1, nexus: str = "") -> Node:
        node = Node(self, name, life, nexus or name)
        await node.guard.start()
        self.nodes[f"{name}{life}{len(self.nodes)}"] = node
        return node

    async def pass_ms(self, ms: float) -> None:
        await asyncio.sleep(ms / 1000)

    async def pair(self) -> tuple[Node, Node]:
        """A holds the disks, B stands by and has seen it move."""
        a, b = await self.boot("a"), await self.boot("b")
        assert (await a.guard.acquire(force=False)).code is FenceCode.OK
        await self.pass_ms(300)
        return a, b

    def writes(self, name: str, lun: int = 0) -> bool:
        """Would a write of this controller be accepted? Unit attentions are read away first."""
        for _ in range(5):
            status, sense, _ = self.shelf.execute(name, lun, scsi.write_10(0, 1), BLOCK)
            if status != scsi.Status.CHECK_CONDITION:
                return status == scsi.Status.GOOD
        raise AssertionError(f"unit attentions without end: {sense.hex()}")

    def generations(self, lun: int = 0) -> list[int]:
        return [scsi_pr.generation_of(key) for key in self.shelf.reservations(lun).keys.values()]
