"""The ledger: what it finds wrong, and that it finds nothing wrong in what is right."""

import pytest

from middlewared.lab.ledger import Record, check, unpack

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
