"""How commands reach disks: what a transport is, one command with its deadline, and the reading of reservations."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from middlewared.plugins.fencing import scsi, scsi_pr
from middlewared.plugins.fencing.logic import Reading
from middlewared.plugins.fencing.scsi import Reply, Status
from middlewared.plugins.fencing.scsi_pr import Out
from middlewared.ports import Finding

TRIES_MAX = 16  # of one command: unit attentions stack up, and each eats one try
BUSY_WAIT_MS = 5
PATIENCE = 10  # a path that has not answered in so many parts of the deadline is not waited for alone

T = TypeVar("T")


class TransportError(Exception):
    """No answer: what the command did, if anything, is unknown."""


class DiskRefused(Exception):
    """The disk answered, but not what is needed; the message says what it answered."""


class Transport(Protocol):
    """One path to one disk."""

    @property
    def serial(self) -> str: ...

    @property
    def aborts(self) -> bool:
        """It may know PREEMPT AND ABORT. False spares everybody a try in the middle of a takeover."""

    async def execute(self, cdb: bytes, data: bytes, timeout_ms: int) -> Reply:
        """Carry one command. Raises TransportError when it is not answered in time."""

    async def lun_reset(self, timeout_ms: int) -> None:
        """LOGICAL UNIT RESET (SAM-5 7.7): what is queued on the disk never lands. Raises TransportError."""


@dataclass(frozen=True, slots=True)
class Disk:
    """A shared disk and every path to it."""

    serial: str
    paths: tuple[Transport, ...]
    persists: bool = False  # it can keep reservations over a loss of its power, if told to (APTPL, SPC-4 6.16.3)


class DiskSource(Protocol):
    """The shared disks that this controller reaches now, by serial."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def disks(self) -> Mapping[str, Disk]: ...

    def on_change(self, listener: Callable[[], None]) -> None: ...


class RealSource(DiskSource, Protocol):
    """One whose disks are a host's own."""

    async def examine(self) -> Sequence[Finding]:
        """What it needs of this host, found or missing (ports.Driver)."""


async def command(path: Transport, cdb: bytes, data: bytes = b"", *, timeout_ms: int) -> Reply:
    """One command to its true end: unit attentions, which only precede it, are taken note of by asking again.

    Whoever cares what a unit attention announced reads the reservations, and does not trust it to have come to him:
    all programs of one controller share the nexus, and the first command of any of them gets it.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_ms / 1000
    for _ in range(TRIES_MAX):
        left_ms = int((deadline - loop.time()) * 1000)
        if left_ms <= 0:
            break
        reply = await path.execute(cdb, data, left_ms)
        if reply.status in (Status.BUSY, Status.TASK_SET_FULL):
            await asyncio.sleep(BUSY_WAIT_MS / 1000)
            continue
        sense = scsi.parse_sense(reply.sense)
        if reply.status != Status.CHECK_CONDITION or sense is None or not sense.unit_attention:
            return reply
    raise TransportError(f"{path.serial}: no answer within {timeout_ms} ms")


async def read(disk: Disk, timeout_ms: int) -> Reading:
    """Keys and reservation of a disk, by the path that answers first. Raises TransportError or DiskRefused."""

    async def by(path: Transport) -> Reading:
        generation, keys = await _ask(path, scsi_pr.read_keys(), scsi_pr.parse_keys, timeout_ms)
        _, reservation = await _ask(path, scsi_pr.read_reservation(), scsi_pr.parse_reservation, timeout_ms)
        return Reading(generation, keys, reservation)

    return await _first_path(disk, by, timeout_ms)


async def read_keys(disk: Disk, timeout_ms: int) -> tuple[int, ...]:
    """The registered keys alone, for the one who only watches. Raises TransportError or DiskRefused."""

    async def by(path: Transport) -> tuple[int, ...]:
        return (await _ask(path, scsi_pr.read_keys(), scsi_pr.parse_keys, timeout_ms))[1]

    return await _first_path(disk, by, timeout_ms)


async def persists(path: Transport, timeout_ms: int) -> bool:
    """Whether the disk can keep reservations over a loss of power; False when it does not say. Raises TransportError.

    Asked once, when a disk is first seen: a takeover has no time for it.
    """
    reply = await command(path, scsi_pr.report_capabilities(), timeout_ms=timeout_ms)
    try:
        return reply.status == Status.GOOD and scsi_pr.parse_capabilities(reply.data).survives_power_loss
    except ValueError:
        return False


async def aborts(path: Transport, timeout_ms: int) -> bool:
    """Whether the disk may know PREEMPT AND ABORT; True when it does not say. Raises TransportError. Asked once too."""
    reply = await command(path, scsi.report_opcodes(), timeout_ms=timeout_ms)
    try:
        known = scsi.parse_opcodes(reply.data) if reply.status == Status.GOOD else frozenset()
    except ValueError:
        return True
    has = {action for opcode, action in known if opcode == scsi.Opcode.PERSISTENT_RESERVE_OUT}
    return Out.PREEMPT not in has or Out.PREEMPT_AND_ABORT in has


async def _first_path(disk: Disk, by: Callable[[Transport], Coroutine[Any, Any, T]], timeout_ms: int) -> T:
    """One path after another; the next is asked too while the one before is slow, as a dead one is at first."""
    if len(disk.paths) == 1:  # the common case, without tasks
        return await by(disk.paths[0])
    loop, left = asyncio.get_running_loop(), list(disk.paths)
    asked: set[asyncio.Task[T]] = set()
    lost = TransportError(f"{disk.serial}: no path")
    try:
        while left or asked:
            if left:
                asked.add(loop.create_task(by(left.pop(0))))
            patience_s = timeout_ms / PATIENCE / 1000 if left else None
            done, asked = await asyncio.wait(asked, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
            for answer in done:
                try:
                    return answer.result()
                except TransportError as error:
                    lost = error
        raise lost
    finally:
        for late in asked:
            late.cancel()


async def _ask(path: Transport, cdb: bytes, parse: Callable[[bytes], T], timeout_ms: int) -> T:
    reply = await command(path, cdb, timeout_ms=timeout_ms)
    if reply.status != Status.GOOD:
        raise DiskRefused(f"{path.serial}: {scsi.explain(reply)}")
    try:
        return parse(reply.data)
    except ValueError as error:
        raise DiskRefused(f"{path.serial}: {error}") from error
