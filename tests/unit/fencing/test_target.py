"""Fencing on a real SCSI target: tgt, by libiscsi. Needs root and the packages tgt and libiscsi7."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from support.scsi_target import logged_in, running_target

from middlewared.lab.target import ScsiTarget
from middlewared.plugins.fencing import scsi, scsi_pr
from middlewared.plugins.fencing.guard import Guard
from middlewared.plugins.fencing.iscsi import IscsiSource, IscsiTransport
from middlewared.plugins.fencing.logic import Reading, settled
from middlewared.plugins.fencing.memory import FileMemory
from middlewared.plugins.fencing.scsi import Status
from middlewared.plugins.fencing.scsi_pr import make_key
from middlewared.plugins.fencing.takeover import Taken, read_all, release_all, take_all
from middlewared.plugins.fencing.transport import TransportError, command, read
from middlewared.ports import FenceCode, FenceState
from middlewared.settings import FenceSettings

A, B = 0xA000_0001, 0xB000_0001
KEY_A, KEY_B = make_key(A, 1), make_key(B, 1)
TIMEOUT_MS = 3000
PATIENCE_S = 30
DISKS = 6
# generous: these tests are about a real target, on a machine that may be busy
SETTINGS = FenceSettings(heartbeat_ms=20, alive_ms=1000, lost_ms=8000)


@pytest.fixture
async def target(tmp_path: Path) -> AsyncIterator[ScsiTarget]:
    async with running_target(tmp_path / "target", DISKS) as target:
        yield target


async def take(source: IscsiSource, key: int) -> Taken:
    disks = list(source.disks().values())
    readings, unread = await read_all(disks, TIMEOUT_MS)
    return await take_all(disks, readings, unread, key, TIMEOUT_MS)


async def readings(source: IscsiSource) -> list[Reading]:
    return [await read(disk, TIMEOUT_MS) for disk in source.disks().values()]


def path(source: IscsiSource, serial: str = "S001") -> IscsiTransport:
    found = source.disks()[serial].paths[0]
    assert isinstance(found, IscsiTransport)
    return found


async def write(source: IscsiSource, fill: bytes, *, lba: int = 0, blocks: int = 1) -> int:
    reply = await command(path(source), scsi.write_16(lba, blocks), fill * (512 * blocks), timeout_ms=TIMEOUT_MS)
    return reply.status


async def until(holds: Callable[[], Coroutine[Any, Any, bool]]) -> None:
    """Ask the target again and again: nobody tells of its reservations."""
    async with asyncio.timeout(PATIENCE_S):
        while not await holds():
            await asyncio.sleep(0.01)


class Keeper:
    """A guard whose reset is only noted."""

    def __init__(self, source: IscsiSource, host: int, memory: Path) -> None:
        self.resets: list[str] = []
        self.said: list[FenceState] = []
        self.guard = Guard(
            SETTINGS, host, source, memory=FileMemory(memory), reset=self.resets.append, publish=self.said.append
        )


# ---------------------------------------------------------------------------------------------- commands


async def test_disks_are_found_by_serial_and_by_both_portals(target: ScsiTarget) -> None:
    async with logged_in(target, "a", portals=2) as a:
        assert list(a.disks()) == [f"S{lun:03}" for lun in range(1, DISKS + 1)]
        assert [len(disk.paths) for disk in a.disks().values()] == [2] * DISKS
        assert {disk.persists for disk in a.disks().values()} == {False}, "tgt has no APTPL"
        assert {path.aborts for disk in a.disks().values() for path in disk.paths} == {False}, "and no such PREEMPT"
        assert all(finding.ok for finding in await a.examine())


async def test_data_go_both_ways(target: ScsiTarget) -> None:
    data = bytes(range(256)) * 2 * 300  # 150 KiB: more than one burst
    async with logged_in(target, "a") as a:
        unit = path(a)
        assert (await command(unit, scsi.write_16(5, 300), data, timeout_ms=TIMEOUT_MS)).status == Status.GOOD
        assert target.file(1).read_bytes()[5 * 512 :][: len(data)] == data
        assert (await unit.execute(scsi.read_16(5, 300), b"", TIMEOUT_MS)).data == data
        assert (await unit.execute(scsi.read_10(5, 1), b"", TIMEOUT_MS)).data == data[:512]
        beyond = await unit.execute(scsi.read_10(1 << 20, 1), b"", TIMEOUT_MS)
        assert scsi.parse_sense(beyond.sense) == scsi.LBA_OUT_OF_RANGE


async def test_excluded_disks_are_left_alone(target: ScsiTarget) -> None:
    source = IscsiSource(target.portals[:1], "iqn.2026-11.org.middlewared.test:c", exclude=["S002"])
    await source.start()
    assert "S002" not in source.disks()
    assert len(source.disks()) == DISKS - 1
    await source.stop()


# ---------------------------------------------------------------------------------------------- takeover


async def test_a_whole_takeover_between_two_sessions(target: ScsiTarget) -> None:
    async with logged_in(target, "a", portals=2) as a, logged_in(target, "b") as b:
        assert (await take(a, KEY_A)).result.code is FenceCode.OK
        assert await write(a, b"a") == Status.GOOD
        assert await write(b, b"b") == Status.RESERVATION_CONFLICT
        taken = await take(b, KEY_B)
        assert (taken.result.code, len(taken.held)) == (FenceCode.OK, DISKS)
        assert all(settled(reading, KEY_B) for reading in await readings(b))
        assert await write(b, b"b") == Status.GOOD
        assert await write(a, b"a") == Status.RESERVATION_CONFLICT
        assert target.file(1).read_bytes()[:512] == b"b" * 512
        assert await release_all(list(b.disks().values()), B, TIMEOUT_MS) == {}
        assert {reading.keys for reading in await readings(b)} == {(scsi_pr.parked_key(B),)}
        assert await write(a, b"a") == Status.RESERVATION_CONFLICT, "closed until somebody takes it"


async def test_by_two_paths_both_may_write(target: ScsiTarget) -> None:
    async with logged_in(target, "a", portals=2) as a:
        assert (await take(a, KEY_A)).result.code is FenceCode.OK
        for unit in a.disks()["S001"].paths:
            reply = await command(unit, scsi.write_10(0, 1), bytes(512), timeout_ms=TIMEOUT_MS)
            assert reply.status == Status.GOOD


async def test_no_queued_write_lands_after_a_takeover(target: ScsiTarget) -> None:
    """The old holder floods one disk; what is on it when the takeover has been verified stays as it is."""
    numbers = itertools.count()
    fenced = asyncio.Event()

    async def flood(a: IscsiSource) -> None:
        while not fenced.is_set():
            number = next(numbers)
            data = number.to_bytes(4, "big") * 128 * 64
            try:
                reply = await path(a).execute(scsi.write_16(64 * (number % 24), 64), data, TIMEOUT_MS)
            except TransportError:
                continue
            if reply.status == Status.RESERVATION_CONFLICT:
                fenced.set()

    async with logged_in(target, "a") as a, logged_in(target, "b") as b:
        for round_ in range(4):
            fenced.clear()
            assert (await take(a, make_key(A, 10 + round_))).result.code is FenceCode.OK
            writers = [asyncio.create_task(flood(a)) for _ in range(64)]
            begun = next(numbers)
            await until(_more_than(numbers, begun + 200))
            assert (await take(b, make_key(B, 10 + round_))).result.code is FenceCode.OK
            left = target.file(1).read_bytes()
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.gather(*writers)
            assert target.file(1).read_bytes() == left, "a queued write of the old holder landed"


def _more_than(numbers: "itertools.count[int]", count: int) -> Callable[[], Coroutine[Any, Any, bool]]:
    async def holds() -> bool:
        return next(numbers) > count

    return holds


# ---------------------------------------------------------------------------------------------- failures


async def test_a_hung_target_costs_the_deadline_and_no_more(target: ScsiTarget) -> None:
    async with logged_in(target, "a") as a:
        before = path(a)
        target.pause()
        with pytest.raises(TransportError, match="no answer within"):
            await command(before, scsi.test_unit_ready(), timeout_ms=200)
        async with asyncio.timeout(PATIENCE_S):
            await before.session.closed.wait()
        assert "does not answer" in before.session.reason
        target.resume()
        await until(_comes_back(a))
        assert path(a) is not before, "another session, another path"


async def test_a_dead_target_fails_at_once_and_comes_back_as_another_nexus(target: ScsiTarget) -> None:
    async with logged_in(target, "a") as a:
        assert (await take(a, KEY_A)).result.code is FenceCode.OK
        before = path(a)
        await target.kill()
        async with asyncio.timeout(PATIENCE_S):
            await before.session.closed.wait()
        with pytest.raises(TransportError):
            await before.execute(scsi.test_unit_ready(), b"", TIMEOUT_MS)
        assert (await take(a, KEY_A)).result.code is FenceCode.NONE_REGISTERED
        await target.start()
        await until(_comes_back(a))
        assert [reading.keys for reading in await readings(a)] == [()] * DISKS, "it has forgotten everything"


def _comes_back(source: IscsiSource) -> Callable[[], Coroutine[Any, Any, bool]]:
    async def holds() -> bool:
        try:
            return (await command(path(source), scsi.test_unit_ready(), timeout_ms=TIMEOUT_MS)).status == Status.GOOD
        except TransportError:
            return False

    return holds


async def test_our_own_ghost_is_evicted_by_the_next_takeover(target: ScsiTarget) -> None:
    async with logged_in(target, "a") as a:
        assert (await take(a, KEY_A)).result.code is FenceCode.OK
    async with logged_in(target, "a") as a:
        assert await write(a, b"a") == Status.RESERVATION_CONFLICT, "the session is new, the old entry stays"
        again = make_key(A, 2)
        assert (await take(a, again)).result.code is FenceCode.OK
        assert all(settled(reading, again) for reading in await readings(a))
        assert await write(a, b"a") == Status.GOOD


# ---------------------------------------------------------------------------------------------- the keeper


async def test_the_keeper_admits_its_new_session(target: ScsiTarget, tmp_path: Path) -> None:
    """The session breaks and is made anew: its registrations are ghosts, and what is written by it is refused."""
    async with logged_in(target, "a") as a, logged_in(target, "b") as b:
        keeper = Keeper(a, A, tmp_path / "a.json")
        await keeper.guard.start()
        assert (await keeper.guard.acquire(force=True)).code is FenceCode.OK  # nobody ever held them
        before = path(a)
        before.session.close("the test cuts it")

        async def may_write_again() -> bool:
            return path(a) is not before and await write(a, b"a") == Status.GOOD

        async def alone() -> bool:
            return all(len(reading.keys) == 1 and reading.reservation for reading in await readings(b))

        try:
            await until(may_write_again)
            await until(alone)
            assert await write(b, b"b") == Status.RESERVATION_CONFLICT
            assert keeper.resets == []
        finally:
            await keeper.guard.stop()


async def test_a_target_that_restarts_is_reserved_again(target: ScsiTarget, tmp_path: Path) -> None:
    async with logged_in(target, "a") as a, logged_in(target, "b") as b:
        keeper = Keeper(a, A, tmp_path / "a.json")
        await keeper.guard.start()
        assert (await keeper.guard.acquire(force=True)).code is FenceCode.OK
        await target.kill()
        await target.start()

        async def reserved() -> bool:
            try:
                return all(one.reservation and scsi_pr.host_of(one.reservation.key) == A for one in await readings(b))
            except TransportError:
                return False

        try:
            await until(reserved)
            assert await write(b, b"b") == Status.RESERVATION_CONFLICT
            assert keeper.resets == []
        finally:
            await keeper.guard.stop()


async def test_a_new_keeper_with_a_new_session_goes_on(target: ScsiTarget, tmp_path: Path) -> None:
    async with logged_in(target, "a") as a:
        first = Keeper(a, A, tmp_path / "a.json")
        await first.guard.start()
        assert (await first.guard.acquire(force=True)).code is FenceCode.OK
        await first.guard.stop()
    async with logged_in(target, "a") as a:
        second = Keeper(a, A, tmp_path / "a.json")
        await second.guard.start()
        await second.guard.ready()
        assert second.guard.state().held

        async def may_write() -> bool:
            return await write(a, b"a") == Status.GOOD

        try:
            await until(may_write)
            assert second.resets == []
        finally:
            await second.guard.stop()


async def test_the_peer_takes_over_and_the_old_keeper_resets(target: ScsiTarget, tmp_path: Path) -> None:
    async with logged_in(target, "a") as a, logged_in(target, "b") as b:
        old, new = Keeper(a, A, tmp_path / "a.json"), Keeper(b, B, tmp_path / "b.json")
        for keeper in (old, new):
            await keeper.guard.start()
        try:
            assert (await old.guard.acquire(force=True)).code is FenceCode.OK

            async def seen() -> bool:
                return new.guard.state().peer_moving

            async def reset() -> bool:
                return bool(old.resets)

            await until(seen)
            assert (await new.guard.acquire(force=False)).code is FenceCode.PEER_ALIVE
            assert (await new.guard.acquire(force=True)).code is FenceCode.OK
            await until(reset)
            assert new.resets == []
        finally:
            for keeper in (old, new):
                await keeper.guard.stop()
