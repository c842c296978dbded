"""Torture: clients change the configuration through the API while controllers and daemons are killed, frozen, cut off
and switched over. Afterwards both stores are the same, and hold every acknowledged change in order.

It lasts half a minute; TORTURE_S=3600 (or `make torture`) makes it longer, TORTURE_SEED draws other faults.
"""

import asyncio
import os
import random
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import apsw
import pytest
from support.lab import Lab
from support.stores import Dump, check_log, differences, dump
from support.torture import Record, Tormentor

from middlewared.client import ClientError
from middlewared.errors import CallError
from middlewared.lab.places import NODES
from middlewared.lines import LineError

TORTURE_S = float(os.environ.get("TORTURE_S", "25"))
SEED = int(os.environ.get("TORTURE_SEED", "1"))
CLIENTS = 4
CALM_S = (0.2, 1.5)  # between two faults
FAULT_S = (0.1, 1.5)


def read(path: Path) -> Dump:
    connection = apsw.Connection(str(path))
    try:
        return dump(connection)
    finally:
        connection.close()


class Faults:
    """What is done to the pair, one at a time."""

    def __init__(self, lab: Lab, rng: random.Random) -> None:
        self._lab = lab
        self._rng = rng
        self.done: dict[str, int] = {}

    async def one(self) -> None:
        acts: list[Callable[[str], Awaitable[None]]] = [
            self._power, self._freeze, self._daemon, self._daemon, self._heartbeat, self._isolation, self._switchover,
        ]  # fmt: skip
        act = self._rng.choice(acts)
        self.done[act.__name__.strip("_")] = self.done.get(act.__name__.strip("_"), 0) + 1
        await act(self._rng.choice(NODES))

    async def _last(self) -> None:
        await asyncio.sleep(self._rng.uniform(*FAULT_S))

    async def _do(self, op: str, **args: str) -> None:
        """What the room refuses is all right: a controller that just resets itself cannot be frozen."""
        with suppress(LineError):
            await self._lab.tell(op, **args)

    async def _power(self, node: str) -> None:
        await self._do("kill", node=node)
        await self._last()
        await self._do("boot", node=node)

    async def _freeze(self, node: str) -> None:
        await self._do("pause", node=node)
        await self._last()
        await self._do("resume", node=node)

    async def _daemon(self, node: str) -> None:
        """SIGKILL; the machine's init starts it again."""
        pid = (await self._lab.tell("status"))["controllers"][node]["middlewared"]
        if pid:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def _heartbeat(self, node: str) -> None:
        await self._do("cut", link="heartbeat")
        await self._last()
        await self._do("heal", link="heartbeat")

    async def _isolation(self, node: str) -> None:
        """A MASTER that is cut off serves on for a while, and nobody hears of it."""
        for link in ("heartbeat", f"lan-{node}"):
            await self._do("cut", link=link)
        await self._last()
        await self._do("heal")

    async def _switchover(self, node: str) -> None:
        with suppress(ClientError, CallError, OSError, TimeoutError):
            async with asyncio.timeout(5):
                await self._lab.call(node, "failover.become_passive")  # refused where it does not lead


async def somebody_leads(lab: Lab) -> None:
    async def holds() -> bool:
        return await lab.answers_on_vip() is not None

    await lab.until("somebody answers on the virtual address", holds)


async def test_nothing_acknowledged_is_lost_and_both_are_the_same(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(SEED)
    record, faults, end = Record(), Faults(lab, rng), asyncio.Event()
    clients = [asyncio.create_task(Tormentor(number, record, SEED).run(end)) for number in range(CLIENTS)]
    loop = asyncio.get_running_loop()
    end_s = loop.time() + TORTURE_S
    try:
        while loop.time() < end_s:
            await somebody_leads(lab)
            await asyncio.sleep(rng.uniform(*CALM_S))
            await faults.one()
    finally:
        end.set()
        await asyncio.gather(*clients)
    await lab.mend()
    stores = [lab.places.state(node) / "store.db" for node in NODES]

    async def same() -> bool:
        a, b = map(read, stores)
        return a["meta"] == b["meta"]

    await lab.until("both stores stand at the same position", same)
    a, b = map(read, stores)
    assert differences(a, b) == {}
    check_log(a)
    kept = {node: sorted((lab.places.state(node) / "kept").glob("store-*.db")) for node in NODES}
    for node, files in kept.items():
        alerts = {alert["key"] for alert in await lab.call(node, "alert.list")}
        assert ("failover.kept" in alerts) == bool(files), f"{node} kept {files}, and says {alerts}"
        assert "failover.sync" not in alerts
    assert record.trouble(a, [read(path) for files in kept.values() for path in files]) == []
    assert record.acknowledged > TORTURE_S, "too few changes to prove anything"
    with capsys.disabled():
        print(
            f"\n{record.acknowledged} changes acknowledged, {record.refused} refused, {record.unknown} without an "
            f"answer, {sum(map(len, kept.values()))} stores set aside; {faults.done}",
            end=" ",
        )
