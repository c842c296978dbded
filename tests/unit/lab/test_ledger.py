"""The ledger: what it finds wrong, and that it finds nothing wrong in what is right."""

import asyncio
from pathlib import Path
from typing import cast

import pytest

from middlewared.lab.blocks import BlockDevices, BlockError, Lun
from middlewared.lab.ledger import LEDGER_LBA, Ledger, Record, check, unpack

DISKS = 24


def disks(*records: Record) -> dict[str, dict[int, Record]]:
    return {f"disk{lun}": {record.number: record for record in records} for lun in range(DISKS)}


GOOD = (Record(0, 1, "a"), Record(1, 1, "a"), Record(2, 2, "b"), Record(3, 2, "b"))


def test_a_record_survives_packing() -> None:
    assert unpack(GOOD[2].pack()) == GOOD[2]
    assert unpack(bytes(512)) is None


def test_a_flipped_bit_is_found() -> None:
    block = bytearray(GOOD[0].pack())
    block[9] ^= 1
    with pytest.raises(ValueError, match="torn"):
        unpack(bytes(block))


def test_two_imports_in_order_are_right() -> None:
    assert check(disks(*GOOD), GOOD) == []


def test_two_disks_may_have_missed_a_record() -> None:
    written = disks(*GOOD)
    del written["disk0"][1], written["disk1"][1]
    assert check(written, GOOD) == []
    del written["disk2"][1]
    assert check(written, GOOD) == ["Record(number=1, tenure=1, node='a') was acknowledged, and is on 21 of 24 disks"]


def test_a_late_write_of_the_older_import_is_found() -> None:
    written = disks(*GOOD)
    written["disk7"][3] = Record(3, 1, "a")
    assert check(written, GOOD) == ["disk7: Record(number=3, tenure=1, node='a') was written after one of import 2"]


def test_two_who_write_at_once_are_found() -> None:
    written = disks(*GOOD)
    written["disk7"][4] = Record(4, 2, "a")
    assert "import 2 belongs to both controllers" in check(written, GOOD)


def test_a_number_that_was_acknowledged_twice_is_found() -> None:
    assert "record 3 was acknowledged twice" in check(disks(*GOOD), [*GOOD, GOOD[3]])


class Disks:
    """As much of lab.blocks.BlockDevices as the ledger uses: blocks in memory, and how often they were read."""

    def __init__(self, records: dict[int, list[Record]]) -> None:
        self.luns = tuple(Lun(number, f"S{number}", 1 << 24) for number in records)
        self.reads = 0
        self.failed: set[int] = set()
        self._blocks = {(lun, LEDGER_LBA + one.number): one.pack() for lun, its in records.items() for one in its}

    async def read(self, lun: int, lba: int, blocks: int = 1) -> bytes:
        self.reads += 1
        if lun in self.failed:
            raise BlockError(f"disk {lun}")
        return b"".join(self._blocks.get((lun, lba + at), bytes(512)) for at in range(blocks))

    async def write(self, lun: int, lba: int, data: bytes) -> None:
        self._blocks[lun, lba] = data

    def record(self, lun: int, number: int) -> Record | None:
        return unpack(self._blocks.get((lun, LEDGER_LBA + number), bytes(512)))


async def begin(disks: Disks, notes: Path) -> None:
    """One record of a new import, by controller a."""
    writing = asyncio.create_task(Ledger("a", cast(BlockDevices, disks), notes).write())
    async with asyncio.timeout(5):
        while not notes.exists() or not notes.read_text():
            await asyncio.sleep(0)
    writing.cancel()


async def test_disks_that_agree_are_asked_once(tmp_path: Path) -> None:
    disks = Disks({lun: list(GOOD) for lun in range(DISKS)})
    await begin(disks, tmp_path / "notes")
    assert (tmp_path / "notes").read_text() == "4 3 a\n"
    assert disks.reads < 20 + DISKS
    assert {disks.record(lun, 4) for lun in range(DISKS)} == {Record(4, 3, "a")}


@pytest.mark.parametrize("first", [list(GOOD[:2]), [], [*GOOD, Record(4, 2, "b")]])
async def test_the_newest_record_of_any_disk_counts(tmp_path: Path, first: list[Record]) -> None:
    disks = Disks({0: first} | {lun: list(GOOD) for lun in range(1, DISKS)})
    await begin(disks, tmp_path / "notes")
    assert (tmp_path / "notes").read_text() == f"{max(4, len(first))} 3 a\n"


async def test_a_first_disk_that_fails_is_no_matter(tmp_path: Path) -> None:
    disks = Disks({lun: list(GOOD) for lun in range(DISKS)})
    disks.failed = {0}
    await begin(disks, tmp_path / "notes")
    assert (tmp_path / "notes").read_text() == "4 3 a\n"
