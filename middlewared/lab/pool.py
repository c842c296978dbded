"""A pool on the shelf's disks: labels, a ring of transaction records, and the writer of an imported pool.

While a member is missing, a blank disk that comes takes its place, as with ZFS's autoreplace. Block 0 of each disk is
its label; blocks RING_LBA… hold the last RING_BLOCKS records, as ZFS keeps its uberblocks. A record says which
controller wrote which transaction as its how manieth, so the blocks alone prove who wrote when.
"""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

from middlewared.lab.blocks import BlockDevices, BlockError, Lun
from middlewared.plugins.fencing.scsi import BLOCK_BYTES

NAME = "tank"
GUID = "7241953270113540251"
REDUNDANCY = 2  # so many disks may be missing, as in a RAID-Z2
RING_LBA = 8
RING_BLOCKS = 16
SIZE_BYTES = 6 << 30
ALLOCATED_BYTES = 1 << 30
_TXG_PERIOD_S = 0.1
_REPLACE_TXGS = 10  # a blank disk is left to the keeper for so long: it has to be reserved before anybody writes to it
_LABEL = "middlewared-lab-pool"


class PoolError(Exception):
    """The pool cannot be imported or exported; the message says why."""


def label(disk: int, disks: int) -> bytes:
    """The block that makes a disk a member of the pool."""
    return _pack({"magic": _LABEL, "pool": NAME, "guid": GUID, "disk": disk, "disks": disks})


def record(txg: int, node: str, sequence: int) -> bytes:
    return _pack({"guid": GUID, "txg": txg, "node": node, "sequence": sequence})


def unpack(block: bytes) -> dict[str, Any]:
    """A label or a record; empty when the block holds neither."""
    try:
        content = json.loads(block.rstrip(b"\0") or b"{}")
    except ValueError:
        return {}
    return content if isinstance(content, dict) and content.get("guid") == GUID else {}


def _pack(content: dict[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode().ljust(BLOCK_BYTES, b"\0")


class SimulatedPool:
    """The pool as one controller's kernel has it. `on_change` is called when imported or status changes."""

    def __init__(self, node: str, disks: BlockDevices, on_change: Callable[[], None]) -> None:
        self._node = node
        self._disks = disks
        self._on_change = on_change
        self._writer: asyncio.Task[None] | None = None
        self._busy = asyncio.Lock()
        self._members = 0
        self._met: dict[str, int | None] = {}  # by serial: the transaction at which it was seen blank; None: a member
        self._txg = 0
        self._sequence = 0
        self.known = False  # its labels were seen
        self.imported = False
        self.status = "OFFLINE"

    async def scan(self) -> None:
        """Look for the labels. What was seen once is remembered (the cache file of a real system)."""
        members = [members for members in await self._each(self._read_label) if members]
        if members:
            self.known, self._members = True, members[0]
            self._on_change()

    async def import_(self) -> None:
        """Read labels and records, then write the first transaction. Raises PoolError."""
        async with self._busy:
            if self.imported:
                return
            await self.scan()
            rings = await self._rings()
            if too_few := self._too_few(rings):
                raise PoolError(too_few)
            self._txg = max((row.get("txg", 0) for ring in rings for row in ring), default=0)
            trouble = await self._commit()
            if trouble and len(trouble) > REDUNDANCY:
                raise PoolError(f"{NAME}: the first write failed on {len(trouble)} disks: {trouble[0]}")
            self.imported = True
            self._set_status(trouble)
            self._writer = asyncio.create_task(self._write_on())

    async def trouble(self) -> str:
        """Why it could not be imported now; empty when it could. Only reads."""
        return "" if self.imported else self._too_few(await self._rings())

    async def export(self) -> None:
        """Write the last transaction and let go. Raises PoolError when the pool is suspended, as ZFS hangs then."""
        async with self._busy:
            if not self.imported:
                return
            if self.status == "SUSPENDED":
                raise PoolError(f"{NAME}: pool I/O is suspended, the pool cannot be exported")
            await self._stop_writer()
            trouble = await self._commit()
            if len(trouble) > REDUNDANCY:
                self._set_status(trouble)
                raise PoolError(f"{NAME}: the last write failed on {len(trouble)} disks: {trouble[0]}")
            self.imported, self.status = False, "OFFLINE"
            self._on_change()

    async def destroy(self) -> None:
        """The pool is gone from the shelf."""
        await self._stop_writer()
        self.known, self.imported, self.status = False, False, "OFFLINE"
        self._on_change()

    def describe(self) -> dict[str, Any]:
        return {
            "name": NAME,
            "guid": GUID,
            "imported": self.imported,
            "status": self.status,
            "size_bytes": SIZE_BYTES,
            "allocated_bytes": ALLOCATED_BYTES if self.imported else 0,
        }

    async def _write_on(self) -> None:
        """A transaction every period, until the pool is exported or suspended."""
        while self.status != "SUSPENDED":
            await asyncio.sleep(_TXG_PERIOD_S)
            self._set_status(await self._commit())

    async def _commit(self) -> list[str]:
        """One transaction on every disk; what failed, a sentence each. Missing disks count as failed."""
        self._txg += 1
        self._sequence += 1
        block = record(self._txg, self._node, self._sequence)
        lba = RING_LBA + self._txg % RING_BLOCKS
        trouble: list[str] = []

        async def write(lun: Lun) -> bool:
            """Whether it is a member."""
            try:
                if not await self._is_member(lun):
                    return False
                await self._disks.write(lun.number, lba, block)
            except BlockError as error:
                trouble.append(str(error))
            return True

        members = sum(await asyncio.gather(*(write(lun) for lun in self._disks.luns)))
        return trouble + [f"{self._members - members} disks missing"] * max(0, self._members - members)

    async def _is_member(self, lun: Lun) -> bool:
        """By its label, which a blank disk gets while a member is missing. Raises BlockError."""
        if lun.serial not in self._met:
            await self._read_label(lun)
        since = self._met[lun.serial]
        if since is not None and self._txg - since >= _REPLACE_TXGS and self._members > self._present():
            self._met[lun.serial] = None  # first: two blank disks do not replace the same member
            try:
                await self._disks.write(lun.number, 0, label(lun.number, self._members))
            except BlockError:
                self._met[lun.serial] = since
                raise
        return self._met[lun.serial] is None

    def _present(self) -> int:
        """Members that are there, or may be some."""
        return sum(self._met.get(lun.serial) is None for lun in self._disks.luns)

    async def _read_label(self, lun: Lun) -> int:
        """How many members the pool has, by this disk; 0: it is none of them."""
        row = unpack(await self._disks.read(lun.number, 0))
        if row.get("magic") != _LABEL:
            self._met.setdefault(lun.serial, self._txg)
            return 0
        self._met[lun.serial] = None
        return int(row["disks"])

    async def _rings(self) -> list[list[dict[str, Any]]]:
        """The records of every disk that answers."""
        return [ring for ring in await self._each(self._read_ring) if ring is not None]

    def _too_few(self, rings: list[list[dict[str, Any]]]) -> str:
        if self.known and len(rings) >= self._members - REDUNDANCY:
            return ""
        return f"{NAME}: only {len(rings)} of {self._members} disks can be read"

    async def _read_ring(self, lun: Lun) -> list[dict[str, Any]] | None:
        if self._met.get(lun.serial) is not None and not await self._read_label(lun):
            return None
        data = await self._disks.read(lun.number, RING_LBA, RING_BLOCKS)
        return [unpack(data[at : at + BLOCK_BYTES]) for at in range(0, len(data), BLOCK_BYTES)]

    async def _each(self, work: Callable[[Lun], Coroutine[Any, Any, Any]]) -> list[Any]:
        """The work on every visible disk at once; None where the disk failed."""

        async def one(lun: Lun) -> Any:
            try:
                return await work(lun)
            except BlockError:
                return None

        return await asyncio.gather(*(one(lun) for lun in self._disks.luns))

    def _set_status(self, trouble: list[str]) -> None:
        status = "ONLINE" if not trouble else "DEGRADED" if len(trouble) <= REDUNDANCY else "SUSPENDED"
        if status != self.status:
            self.status = status
            self._on_change()

    async def _stop_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
