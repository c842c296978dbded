"""The way of SCSI commands from the controllers to the shelf, with its delays and everything that can go wrong on it.

The shelf itself is the lab's (middlewared.lab.shelf): the same reservations, queues and unit attentions.
"""

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from middlewared.lab.blocks import BlockDevices, BlockError, Lun
from middlewared.lab.shelf import QueuedWrite, Shelf
from middlewared.plugins.fencing import scsi
from middlewared.plugins.fencing.scsi import Opcode, Reply
from middlewared.plugins.fencing.transport import Disk, TransportError

if TYPE_CHECKING:
    from tests.simulator.loop import VirtualLoop

_BLOCK_TIMEOUT_MS = 1000
_UNSENT_SHARE = 0.2  # of all commands: a freeze may hit before they leave the machine


class Fabric:
    """Carries commands. What has left a machine arrives, whatever becomes of the machine."""

    def __init__(self, loop: "VirtualLoop", shelf: Shelf, rng: random.Random, latency_ms: float) -> None:
        self._loop = loop
        self._rng = rng
        self.shelf = shelf
        self.latency_ms = latency_ms
        self.cut: set[str] = set()  # controllers whose cable to the shelf is out
        self.slow_ms: dict[str, float] = {}  # by controller
        self.hung: set[int] = set()  # disks that answer nobody
        self.pulled: set[int] = set()
        self.refusing: set[int] = set()  # disks that refuse every PERSISTENT RESERVE OUT
        self.on_landed: Callable[[str, int, int, bool], None] = lambda node, lun, tenure, unreserved: None
        self.on_command: Callable[[int], None] = lambda lun: None
        self._watchers: list[Callable[[], None]] = []
        self.slots = [disk.lun for disk in shelf.disks]  # which disk is in each
        self._there = tuple(self.slots)

    def luns(self, node: str) -> tuple[int, ...]:
        """What a controller sees."""
        return () if node in self.cut else self._there

    def watch(self, watcher: Callable[[], None]) -> None:
        """Called when what the controllers see has changed."""
        self._watchers.append(watcher)

    def changed(self) -> None:
        """Cables or disks were pulled or plugged."""
        self._there = tuple(sorted(lun for lun in self.slots if lun not in self.pulled))
        for watcher in list(self._watchers):
            watcher()

    def replace(self, slot: int) -> None:
        """Another disk, blank and with another serial, is in the slot."""
        old = self.slots[slot]
        for faults in (self.pulled, self.hung, self.refusing):
            faults.discard(old)
        self.slots[slot] = self.shelf.replace(old).lun
        self.changed()

    async def command(self, node: str, lun: int, cdb: bytes, data: bytes, timeout_ms: int, tenure: int = 0) -> Reply:
        """Raises TransportError: no answer in time, or the disk is not there."""
        if self._rng.random() < _UNSENT_SHARE:
            await asyncio.sleep(self.latency_ms / 4000)
        flight = self._flight(node, lun, timeout_ms, tenure)
        self._loop.call_later(self._delay_s(node), self._arrive, flight, cdb, data, context=self._loop.world)
        return await flight.answer

    async def lun_reset(self, node: str, lun: int, timeout_ms: int) -> None:
        flight = self._flight(node, lun, timeout_ms, 0)
        self._loop.call_later(self._delay_s(node), self._reset, flight, context=self._loop.world)
        await flight.answer

    def _flight(self, node: str, lun: int, timeout_ms: int, tenure: int) -> "_Flight":
        return _Flight(node, lun, tenure, self._loop.now_s + timeout_ms / 1000, self._loop.create_future())

    def _delay_s(self, node: str) -> float:
        """Half the way, in seconds."""
        return (self.latency_ms * (0.5 + self._rng.random()) / 2 + self.slow_ms.get(node, 0.0) / 2) / 1000

    def _lost(self, flight: "_Flight") -> bool:
        """Nothing comes through: whoever waits finds out when his time is over."""
        if flight.node in self.cut or flight.lun in self.hung:
            self._loop.call_at(flight.deadline_s, flight.expire, context=self._loop.world)
            return True
        return False

    def _arrive(self, flight: "_Flight", cdb: bytes, data: bytes) -> None:
        node, lun = flight.node, flight.lun
        if self._lost(flight):
            return
        if lun in self.pulled or lun not in self.slots:
            self._reply(flight, TransportError(f"disk {lun} is not there"))
            return
        if lun in self.refusing and cdb[0] == Opcode.PERSISTENT_RESERVE_OUT:
            sense = scsi.fixed_sense(scsi.INTERNAL_TARGET_FAILURE)
            self._reply(flight, Reply(scsi.Status.CHECK_CONDITION, sense))
            return
        result = self.shelf.submit(node, lun, cdb, data)
        if cdb[0] == Opcode.PERSISTENT_RESERVE_OUT:
            self.on_command(lun)
        if isinstance(result, QueuedWrite):
            unreserved = not self.shelf.reservations(lun).holder_key
            self._loop.call_later(self._delay_s(node), self._land, flight, result, unreserved, context=self._loop.world)
        else:
            self._reply(flight, result)

    def _land(self, flight: "_Flight", write: QueuedWrite, unreserved: bool) -> None:
        """The medium takes a queued write, unless it was aborted meanwhile. `unreserved`: nobody held the disk when the
        write was let in."""
        reply = self.shelf.complete(write)
        if reply is not None:
            self.on_landed(flight.node, flight.lun, flight.tenure, unreserved)
        self._reply(flight, reply or Reply(scsi.Status.TASK_ABORTED))

    def _reset(self, flight: "_Flight") -> None:
        if self._lost(flight):
            return
        if flight.lun not in self.slots:
            self._reply(flight, TransportError(f"disk {flight.lun} is not there"))
        else:
            self.shelf.lun_reset(flight.node, flight.lun)
            self._reply(flight, Reply(scsi.Status.GOOD))

    def _reply(self, flight: "_Flight", what: Reply | TransportError) -> None:
        self._loop.call_later(self._delay_s(flight.node), self._answer, flight, what, context=self._loop.world)

    def _answer(self, flight: "_Flight", what: Reply | TransportError) -> None:
        if flight.answer.done() or self._lost(flight):
            return
        if isinstance(what, Reply):
            flight.answer.set_result(what)
        else:
            flight.answer.set_exception(what)


@dataclass(slots=True)
class _Flight:
    """One command on its way, and who waits for its answer."""

    node: str
    lun: int
    tenure: int
    deadline_s: float
    answer: "asyncio.Future[Reply]"

    def expire(self) -> None:
        if not self.answer.done():
            self.answer.set_exception(TransportError(f"disk {self.lun}: no answer in time"))


class Path:
    """The keeper's way to one disk (fencing.transport.Transport)."""

    aborts = True

    def __init__(self, fabric: Fabric, node: str, lun: int, serial: str) -> None:
        self._fabric = fabric
        self._node = node
        self._lun = lun
        self.serial = serial

    async def execute(self, cdb: bytes, data: bytes, timeout_ms: int) -> Reply:
        return await self._fabric.command(self._node, self._lun, cdb, data, timeout_ms)

    async def lun_reset(self, timeout_ms: int) -> None:
        await self._fabric.lun_reset(self._node, self._lun, timeout_ms)


class Source:
    """The disks as one controller's keeper sees them (fencing.transport.DiskSource)."""

    def __init__(self, fabric: Fabric, node: str) -> None:
        self._fabric = fabric
        self._node = node
        self._seen: tuple[int, ...] = ()
        self._disks: dict[str, Disk] = {}
        self._met: dict[int, Disk] = {}

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def disks(self) -> Mapping[str, Disk]:
        luns = self._fabric.luns(self._node)
        if luns != self._seen:
            self._seen = luns
            self._meet()
            self._disks = {disk.serial: disk for disk in (self._met[lun] for lun in luns)}
        return self._disks

    def _meet(self) -> None:
        for disk in self._fabric.shelf.disks:
            if disk.lun not in self._met:
                path = Path(self._fabric, self._node, disk.lun, disk.serial)
                self._met[disk.lun] = Disk(disk.serial, (path,))

    def on_change(self, listener: Callable[[], None]) -> None: ...


class Blocks(BlockDevices):
    """The disks as one controller's kernel sees them. `tenure` marks its writes for the oracles."""

    def __init__(self, fabric: Fabric, node: str, on_luns: Callable[[], None]) -> None:
        self._fabric = fabric
        self._node = node
        self._on_luns = on_luns
        self.luns: tuple[Lun, ...] = ()
        self.tenure = 0

    async def start(self) -> None:
        self.look_now()

    async def stop(self) -> None: ...

    async def look(self) -> None:
        self.look_now()

    def look_now(self) -> None:
        rows = {disk.lun: disk for disk in self._fabric.shelf.disks}
        self._see(
            [
                {"lun": lun, "serial": rows[lun].serial, "size_bytes": rows[lun].size_bytes}
                for lun in self._fabric.luns(self._node)
            ]
        )

    async def _send(self, lun: int, cdb: bytes, data: bytes) -> Reply:
        try:
            return await self._fabric.command(self._node, lun, cdb, data, _BLOCK_TIMEOUT_MS, self.tenure)
        except TransportError as error:
            raise BlockError(f"disk {lun}: {error}") from error
