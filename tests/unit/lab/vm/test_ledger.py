"""The ledger behind the virtual address: what it proves, and the client that fills it."""

import asyncio
from pathlib import Path

import pytest

from middlewared.lab.target import ScsiTarget, TargetDisk, missing
from middlewared.lab.vm import ledger
from middlewared.lab.vm.layout import EXPORT_TARGET, EXPORT_UNIT
from middlewared.lab.vm.ledger import Note, check, entry, gap_ms, read_notes
from middlewared.plugins.fencing.iscsi_session import parse_portal

LINES = [entry(0, "a"), entry(1, "a"), entry(3, "b")]  # 2 was never answered
NOTES = [Note(0, "a", 10.0), Note(1, "a", 10.1), Note(3, "b", 12.6)]


def test_a_whole_ledger_has_no_problems() -> None:
    assert check(LINES, NOTES) == []


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (LINES[:2], "record 3 was acknowledged by b, and is not there"),
        ([LINES[0], LINES[1], entry(3, "a")], "record 3 was acknowledged by b, and is not there"),
        ([*LINES[:2], LINES[2][:-1]], "torn or foreign: '3 b"),
        ([*LINES, entry(2, "a")], "record 2 stands after 3"),
        ([*LINES, LINES[2]], "record 3 stands after 3"),
        ([*LINES, "\0\0\0"], "torn or foreign"),
    ],
)
def test_what_is_wrong_is_told(lines: list[str], problem: str) -> None:
    assert any(one.startswith(problem) for one in check(lines, NOTES))


def test_the_gap_is_the_longest_time_without_service() -> None:
    assert gap_ms(NOTES, 9.0) == 2500
    assert gap_ms(NOTES, 12.7) == 0  # before the fault
    assert gap_ms([], 0.0) == 0


def test_notes_of_a_client_that_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    assert read_notes(path) == []
    path.write_text("0 a 10.0\n1 a 10.1\n2 b 1")
    assert read_notes(path) == NOTES[:2]


@pytest.mark.skipif(bool(missing()), reason=missing())
async def test_what_is_acknowledged_is_on_the_disk(tmp_path: Path) -> None:
    """With a real target, which dies in between: the client logs in again, and nothing that it noted is lost."""
    disk = TargetDisk(EXPORT_UNIT, "controller-a", 1 << 20)
    target = ScsiTarget(tmp_path / "shelf", [disk], ("127.0.0.1:13270",), EXPORT_TARGET)
    portal, notes = parse_portal(target.portals[0]), tmp_path / "notes"
    await target.start()
    client = asyncio.create_task(ledger.write(notes, portal))
    try:
        await noted(notes, 3)
        await target.kill()
        before = len(read_notes(notes))
        await target.start()
        await noted(notes, before + 3)
        client.cancel()
        acknowledged = read_notes(notes)
        node, lines = await ledger.read(acknowledged[-1].number + 1, portal)
    finally:
        client.cancel()
        await target.kill()
    assert node == "a"
    assert len(lines) >= before + 3
    assert check(lines, acknowledged) == []


async def noted(notes: Path, count: int) -> None:
    async with asyncio.timeout(20):
        while len(read_notes(notes)) < count:
            await asyncio.sleep(0.01)
