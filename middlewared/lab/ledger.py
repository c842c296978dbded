"""A workload inside the pool whose every record can be proven afterwards: numbered, checksummed, on every disk.

While a controller has the pool imported it writes record after record, each to all disks, and notes those that the
pool would have acknowledged to a client. `check` compares notes and disks: nothing acknowledged may be lost, and no
record of an older import may stand where, or after, a newer one has written.
"""

import asyncio
import contextlib
import os
import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from middlewared.lab.blocks import BlockDevices, BlockError
from middlewared.lab.pool import REDUNDANCY
from middlewared.plugins.fencing.scsi import BLOCK_BYTES

LEDGER_LBA = 2048
PERIOD_S = 0.05
_MAGIC = b"mwledger"
_FORMAT = struct.Struct(">8sQQc")  # magic, number, tenure, node; then CRC-32 of it
_PROBLEMS_MAX = 20


@dataclass(frozen=True, slots=True)
class Record:
    """The `number`th of all, written by `node` in the `tenure`th import of the pool."""

    number: int
    tenure: int
    node: str

    def pack(self) -> bytes:
        body = _FORMAT.pack(_MAGIC, self.number, self.tenure, self.node.encode())
        return (body + struct.pack(">I", zlib.crc32(body))).ljust(BLOCK_BYTES, b"\0")


def unpack(block: bytes) -> Record | None:
    """None: nothing was written there. Raises ValueError for a torn or foreign block."""
    if not block.strip(b"\0"):
        return None
    body = block[: _FORMAT.size]
    magic, number, tenure, node = _FORMAT.unpack(body)
    if magic != _MAGIC or block[_FORMAT.size : _FORMAT.size + 4] != struct.pack(">I", zlib.crc32(body)):
        raise ValueError("a torn or foreign record")
    return Record(number, tenure, node.decode())


class Ledger:
    """One controller's side: writes while the pool is imported, and notes what was acknowledged in a file."""

    def __init__(self, node: str, disks: BlockDevices, notes: Path) -> None:
        self._node = node
        self._disks = disks
        self._notes = notes

    async def write(self) -> None:
        """From an import on, until too many disks refuse, as a pool that is suspended then; or until cancelled."""
        members = len(self._disks.luns)
        ends = await self._ends()
        number = max((end.number for end in ends), default=-1)
        tenure = max((end.tenure for end in ends), default=0) + 1
        notes = os.open(self._notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            while True:
                number += 1
                if await self._append(Record(number, tenure, self._node)) < members - REDUNDANCY:
                    return
                os.write(notes, f"{number} {tenure} {self._node}\n".encode())
                await asyncio.sleep(PERIOD_S)
        finally:
            os.close(notes)

    async def _append(self, record: Record) -> int:
        """How many disks took it."""
        outcomes = await asyncio.gather(
            *(self._disks.write(lun.number, LEDGER_LBA + record.number, record.pack()) for lun in self._disks.luns),
            return_exceptions=True,
        )
        strange = [one for one in outcomes if isinstance(one, BaseException) and not isinstance(one, BlockError)]
        if strange:
            raise strange[0]
        return sum(one is None for one in outcomes)

    async def _ends(self) -> list[Record]:
        """The last record of every disk that answers. Those that agree with the first are asked once: a controller that
        has just imported has other things to do."""
        numbers = [lun.number for lun in self._disks.luns]
        hint = await self._end(numbers[0]) if numbers else None
        ends = await asyncio.gather(*(self._end_near(hint, number) for number in numbers[1:]))
        return [end for end in (hint, *ends) if end is not None]

    async def _end_near(self, hint: Record | None, lun: int) -> Record | None:
        if hint is not None:
            with contextlib.suppress(BlockError, ValueError):
                blocks = await self._disks.read(lun, LEDGER_LBA + hint.number, 2)
                record = unpack(blocks[:BLOCK_BYTES])
                if record is not None and unpack(blocks[BLOCK_BYTES:]) is None:
                    return record
        return await self._end(lun)

    async def _end(self, lun: int) -> Record | None:
        """By halves: what is written has no gaps but those of a disk that failed for a while."""
        low, found = 0, None
        high = next(one.size_bytes for one in self._disks.luns if one.number == lun) // BLOCK_BYTES - LEDGER_LBA
        try:
            while low < high:
                middle = (low + high) // 2
                record = unpack(await self._disks.read(lun, LEDGER_LBA + middle))
                if record is None:
                    high = middle
                else:
                    low, found = middle + 1, record
        except (BlockError, ValueError):
            return None
        return found


def read_notes(files: Iterable[Path]) -> list[Record]:
    """What was acknowledged, by both controllers."""
    lines = [line.split() for file in files if file.exists() for line in file.read_text().splitlines()]
    return [Record(int(line[0]), int(line[1]), line[2]) for line in lines if len(line) == 3]


def read_disk(file: Path) -> tuple[dict[int, Record], list[str]]:
    """The records of one disk by their place, and what is wrong with them."""
    records: dict[int, Record] = {}
    problems: list[str] = []
    with file.open("rb") as disk:
        disk.seek(LEDGER_LBA * BLOCK_BYTES)
        place, empty = 0, 0
        while empty < 10_000 and (block := disk.read(BLOCK_BYTES)):  # holes of a disk that failed are shorter
            try:
                record = unpack(block)
            except ValueError as error:
                problems.append(f"{file.name}: record {place}: {error}")
                record = None
            if record is not None:
                records[place] = record
            empty = 0 if record is not None else empty + 1
            place += 1
    return records, problems


def check(disks: Mapping[str, Mapping[int, Record]], notes: Sequence[Record]) -> list[str]:
    """Everything that is wrong; empty when nothing was lost and nobody wrote out of turn."""
    problems: list[str] = []
    for name, records in disks.items():
        newest = 0
        for place, record in sorted(records.items()):
            if record.number != place:
                problems.append(f"{name}: record {record.number} stands at place {place}")
            if record.tenure < newest:
                problems.append(f"{name}: {record} was written after one of import {newest}")
            newest = max(newest, record.tenure)
    owners: dict[int, set[str]] = {}
    for record in (*notes, *(record for records in disks.values() for record in records.values())):
        owners.setdefault(record.tenure, set()).add(record.node)
    problems += [f"import {tenure} belongs to both controllers" for tenure, who in owners.items() if len(who) > 1]
    twice = [number for number, times in Counter(note.number for note in notes).items() if times > 1]
    problems += [f"record {number} was acknowledged twice" for number in twice]
    for note in notes:
        copies = sum(records.get(note.number) == note for records in disks.values())
        if copies < len(disks) - REDUNDANCY:
            problems.append(f"{note} was acknowledged, and is on {copies} of {len(disks)} disks")
    return problems[:_PROBLEMS_MAX]
