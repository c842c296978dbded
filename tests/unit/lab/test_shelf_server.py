"""The shelf on its sockets: what controllers see of it, and its faults."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from middlewared.lab.shelf import Shelf, ShelfDisk
from middlewared.lab.shelf_server import ShelfServer
from middlewared.lines import LineClient, LineError, LineLost
from middlewared.plugins.fencing import scsi, scsi_pr

BLOCK = bytes(range(256)) * 2
KEY_A, KEY_B = 0xA1, 0xB1


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ShelfServer]:
    served = ShelfServer(Shelf([ShelfDisk(lun, f"S{lun}", 1 << 20) for lun in range(3)]), tmp_path)
    await served.start()
    yield served
    await served.stop()


class Controller:
    def __init__(self, server: ShelfServer, node: str) -> None:
        self.events: asyncio.Queue[Any] = asyncio.Queue()
        self.client = LineClient(server.socket(node), lambda event, data: self.events.put_nowait((event, data)))

    async def scsi(self, lun: int, cdb: bytes, data: bytes = b"", timeout_ms: int = 2000) -> int:
        answer = await self.client.call("scsi", timeout_ms, lun=lun, cdb=cdb.hex(), data=data.hex(), wait_ms=timeout_ms)
        return int(answer["status"])


@pytest.fixture
async def pair(server: ShelfServer) -> AsyncIterator[tuple[Controller, Controller]]:
    both = Controller(server, "a"), Controller(server, "b")
    for controller in both:
        await controller.client.connect()
    yield both
    for controller in both:
        await controller.client.close()


async def test_commands_and_luns(pair: tuple[Controller, Controller]) -> None:
    a, b = pair
    assert await a.client.call("luns") == [{"lun": n, "serial": f"S{n}", "size_bytes": 1 << 20} for n in range(3)]
    assert await a.scsi(0, scsi.write_10(0, 1), BLOCK) == scsi.Status.GOOD
    answer = await b.client.call("scsi", lun=0, cdb=scsi.read_10(0, 1).hex(), data="")
    assert (answer["status"], bytes.fromhex(answer["data"])) == (scsi.Status.GOOD, BLOCK)


async def test_a_replaced_disk_is_gone_and_another_is_there(
    server: ShelfServer, pair: tuple[Controller, Controller]
) -> None:
    _, b = pair
    server.pull("b", 1)
    assert server.replace(1) == 3
    expected = [(0, "S0"), (2, "S2"), (3, "S1-1")]
    for controller in pair:
        assert [(row["lun"], row["serial"]) for row in await controller.client.call("luns")] == expected
        for op in ("scsi", "lun_reset"):
            with pytest.raises(LineError, match="disk 1 is not there"):
                await controller.client.call(op, lun=1, cdb=scsi.read_10(0, 1).hex(), data="")
    assert await b.scsi(3, scsi.write_10(0, 1), BLOCK) == scsi.Status.CHECK_CONDITION, "it has just been switched on"
    assert await b.scsi(3, scsi.write_10(0, 1), BLOCK) == scsi.Status.GOOD


async def test_the_controller_is_the_nexus(pair: tuple[Controller, Controller]) -> None:
    a, b = pair
    await a.scsi(0, *scsi_pr.register_and_ignore(KEY_A))
    await a.scsi(0, *scsi_pr.reserve(KEY_A))
    assert await b.scsi(0, scsi.write_10(0, 1), BLOCK) == scsi.Status.RESERVATION_CONFLICT


async def test_what_is_cut_is_lost_for_good(server: ShelfServer, pair: tuple[Controller, Controller]) -> None:
    a, b = pair
    server.cut("a")
    with pytest.raises(LineLost):
        await a.scsi(0, scsi.write_10(0, 1), BLOCK, timeout_ms=20)
    assert await b.scsi(0, scsi.test_unit_ready()) == scsi.Status.GOOD
    server.heal("a")
    assert await a.scsi(0, scsi.test_unit_ready()) == scsi.Status.GOOD
    assert not server.shelf.log.recent, "a write that was swallowed landed after the cable was healed"


async def test_pull_and_push_are_told_to_that_controller(
    server: ShelfServer, pair: tuple[Controller, Controller]
) -> None:
    a, b = pair
    await a.client.call("luns")  # its connection is known by now
    server.pull("a", 1)
    event, rows = await a.events.get()
    assert (event, [row["lun"] for row in rows]) == ("luns", [0, 2])
    with pytest.raises(LineError) as refused:
        await a.scsi(1, scsi.test_unit_ready())
    assert refused.value.code == "ENODEV"
    assert await b.scsi(1, scsi.test_unit_ready()) == scsi.Status.GOOD
    server.push("a", 1)
    _, rows = await a.events.get()
    assert [row["lun"] for row in rows] == [0, 1, 2]
    assert b.events.empty()


async def test_a_hung_disk_answers_nobody(server: ShelfServer, pair: tuple[Controller, Controller]) -> None:
    server.hang(1)
    for controller in pair:
        with pytest.raises(LineLost):
            await controller.scsi(1, scsi.test_unit_ready(), timeout_ms=20)
        assert await controller.scsi(0, scsi.test_unit_ready()) == scsi.Status.GOOD
    server.repair(1)
    assert await pair[0].scsi(1, scsi.test_unit_ready()) == scsi.Status.GOOD


@pytest.mark.parametrize(("abort", "lands"), [(False, True), (True, False)])
async def test_a_write_in_the_queue(
    server: ShelfServer, pair: tuple[Controller, Controller], abort: bool, lands: bool
) -> None:
    a, b = pair
    await a.scsi(0, *scsi_pr.register_and_ignore(KEY_A))
    await a.scsi(0, *scsi_pr.reserve(KEY_A))
    await b.scsi(0, *scsi_pr.register_and_ignore(KEY_B))
    server.write_latency_ms = 60
    writing = asyncio.create_task(a.scsi(0, scsi.write_10(0, 1), BLOCK, timeout_ms=200))
    await a.scsi(0, scsi.test_unit_ready())  # the write went ahead on the same socket
    await b.scsi(0, *scsi_pr.preempt(KEY_B, KEY_A, abort=abort))
    (outcome,) = await asyncio.gather(writing, return_exceptions=True)
    assert (outcome == scsi.Status.GOOD) is lands
    assert isinstance(outcome, LineLost) is not lands
    assert [(write.holder_key, write.writer_key) for write in server.shelf.log.recent] == [(KEY_B, 0)] * lands


async def test_power_off_drops_what_was_under_way(server: ShelfServer, pair: tuple[Controller, Controller]) -> None:
    a, _ = pair
    server.write_latency_ms = 30
    writing = asyncio.create_task(a.scsi(0, scsi.write_10(0, 1), BLOCK, timeout_ms=100))
    await a.scsi(0, scsi.test_unit_ready())
    server.power_off("a")
    with pytest.raises(LineLost):
        await writing
    assert not server.shelf.log.recent


async def test_lun_reset_restart_and_failure(server: ShelfServer, pair: tuple[Controller, Controller]) -> None:
    a, b = pair
    await a.client.call("lun_reset", lun=0)
    assert await b.scsi(0, scsi.test_unit_ready()) == scsi.Status.CHECK_CONDITION
    server.restart()
    assert await a.scsi(0, scsi.test_unit_ready()) == scsi.Status.CHECK_CONDITION
    assert await a.scsi(0, scsi.test_unit_ready()) == scsi.Status.GOOD
    server.fail(0)
    assert await a.scsi(0, scsi.read_10(0, 1)) == scsi.Status.CHECK_CONDITION


@pytest.mark.parametrize("args", [{"lun": 0, "cdb": "zz"}, {"cdb": "00"}, {"lun": "x", "cdb": "00"}])
async def test_nonsense_is_refused(pair: tuple[Controller, Controller], args: dict[str, Any]) -> None:
    with pytest.raises(LineError) as refused:
        await pair[0].client.call("scsi", **args)
    assert refused.value.code == "EINVAL"
    with pytest.raises(LineError):
        await pair[0].client.call("no such operation")
