"""Taking every disk from a controller that has died: two keepers and a shelf, each a process of its own."""

import asyncio
import statistics
import tempfile
import time
from asyncio.subprocess import Process
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from bench.helpers import helper, line
from bench.lab import PATIENCE_S, BenchError
from bench.table import Row
from middlewared.lines import LineClient, LineLost

_COUNTS = {24: None, 1000: 1000.0}  # disks, and the budget in ms
_RUNS = 5
_ACQUIRE_TIMEOUT_MS = 20_000
_POLL_S = 0.02
_SETTINGS = """\
node = "{letter}"
state_dir = "{folder}"
run_dir = "{folder}"
drivers = "simulated"
machine = "none"
[fence]
socket = "{folder}/fenced.sock"
shelf = "{shelf}"
"""


async def measure_disks() -> list[Row]:
    rows = []
    for count, budget_ms in _COUNTS.items():
        times_ms = [await _take_ms(count) for _ in range(_RUNS)]
        rows.append(
            Row(
                f"reservations of {count:,} disks, from a dead peer",
                f"{statistics.median(times_ms):.0f} ms, at worst {max(times_ms):.0f} ms",
                value=statistics.median(times_ms),
                budget=budget_ms,
                unit="ms",
            )
        )
    return rows


async def _take_ms(disks: int) -> float:
    """A takes the disks and dies; B has seen its key stand still, and takes them."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        directory = Path(name)
        async with helper("bench.shelf", name, str(disks)) as shelf:
            await line(shelf)
            async with _keeper(directory, "b"):
                heir = await _connected(directory / "b" / "fenced.sock")
                async with _keeper(directory, "a"):
                    victim = await _connected(directory / "a" / "fenced.sock")
                    await _acquire(victim)
                    await _until_moving(heir, True)
                    await victim.close()
                await _until_moving(heir, False)
                start_s = time.monotonic()
                await _acquire(heir)
                taken_ms = (time.monotonic() - start_s) * 1000
                await heir.close()
    return taken_ms


def _keeper(directory: Path, node: str) -> AbstractAsyncContextManager[Process]:
    folder = directory / node
    folder.mkdir()
    settings = folder / "fenced.toml"
    shelf = directory / f"shelf-{node}.sock"
    settings.write_text(_SETTINGS.format(letter=node.upper(), folder=folder, shelf=shelf))
    return helper("middlewared.plugins.fencing.keeper", "--config", str(settings), quiet=True)


async def _connected(socket: Path) -> LineClient:
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        client = LineClient(socket)
        try:
            await client.connect()
            return client
        except LineLost as error:
            if time.monotonic() > deadline_s:
                raise BenchError(f"the keeper does not start: {error}") from error
            await asyncio.sleep(_POLL_S)


async def _acquire(keeper: LineClient) -> None:
    answer = await keeper.call("acquire", _ACQUIRE_TIMEOUT_MS, force=False)
    if answer["code"] != 0:
        raise BenchError(f"the disks were not taken: {answer['message']}")


async def _until_moving(keeper: LineClient, moving: bool) -> None:
    """Wait until the standby sees the other's key move, or stand still."""
    deadline_s = time.monotonic() + PATIENCE_S
    while (await keeper.call("state"))["peer_moving"] is not moving:
        if time.monotonic() > deadline_s:
            raise BenchError("the standby's keeper does not see what its peer does")
        await asyncio.sleep(_POLL_S)
