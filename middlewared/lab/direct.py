"""The shelf without sockets: a DiskSource for keepers that live in the same event loop, as in tests and simulations."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from middlewared.lab.shelf import Shelf
from middlewared.plugins.fencing.scsi import Reply
from middlewared.plugins.fencing.transport import Disk, TransportError


@dataclass(eq=False, slots=True)
class DirectTransport:
    """One controller's path to one disk."""

    source: "DirectSource"
    lun: int
    serial: str
    nexus: str  # as whom the shelf knows it
    aborts: bool = True

    async def execute(self, cdb: bytes, data: bytes, timeout_ms: int) -> Reply:
        await self._pass(timeout_ms)
        status, sense, answer = self.source.shelf.execute(self.nexus, self.lun, cdb, data)
        self.source.commands += 1
        await asyncio.sleep(self.source.latency_ms / 2000)
        return Reply(status, sense, answer)

    async def lun_reset(self, timeout_ms: int) -> None:
        await self._pass(timeout_ms)
        self.source.shelf.lun_reset(self.nexus, self.lun)

    async def _pass(self, timeout_ms: int) -> None:
        """The way to the disk, which may be long, or nowhere."""
        if self.lun in self.source.pulled:
            raise TransportError(f"{self.serial}: disk {self.lun} is not there")
        if self.source.cut or self.lun in self.source.hung or self.nexus in self.source.lost:
            await asyncio.sleep(timeout_ms / 1000)
            raise TransportError(f"{self.serial}: no answer within {timeout_ms} ms")
        await asyncio.sleep(self.source.latency_ms / 2000)


@dataclass(eq=False)
class DirectSource:
    """What one controller (`node`: "a" or "b") sees of a shelf, and the faults on its way there."""

    shelf: Shelf
    node: str
    latency_ms: float = 0
    cut: bool = False
    hung: set[int] = field(default_factory=set)
    pulled: set[int] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)  # cables that lead nowhere, by the name that the shelf knows them by
    commands: int = 0  # carried so far

    def __post_init__(self) -> None:
        self._listeners: list[Callable[[], None]] = []
        self._all = {disk.serial: Disk(disk.serial, (), self.shelf.target.aptpl) for disk in self.shelf.disks}
        self._luns = {disk.serial: disk.lun for disk in self.shelf.disks}
        self.add_path(self.node)

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def disks(self) -> Mapping[str, Disk]:
        return {serial: disk for serial, disk in self._all.items() if self._luns[serial] not in self.pulled}

    def on_change(self, listener: Callable[[], None]) -> None:
        self._listeners.append(listener)

    def pull(self, lun: int) -> None:
        self.pulled.add(lun)
        self._changed()

    def push(self, lun: int) -> None:
        self.pulled.discard(lun)
        self._changed()

    def add_path(self, nexus: str) -> None:
        """A cable more to the same shelf, which takes it for another initiator."""
        for serial, disk in self._all.items():
            path = DirectTransport(self, self._luns[serial], serial, nexus)
            self._all[serial] = replace(disk, paths=(*disk.paths, path))
        self._changed()

    def renew(self, nexus: str) -> None:
        """The sessions were made anew, and are another initiator's to the shelf."""
        self._all = {serial: replace(disk, paths=()) for serial, disk in self._all.items()}
        self.add_path(nexus)

    def _changed(self) -> None:
        for listener in self._listeners:
            listener()
