"""The ledger behind the virtual address: what it proves, and the client that fills it."""

import socket
import threading
from pathlib import Path

import pytest

from middlewared.lab.vm import ledger
from middlewared.lab.vm.ledger import Note, check, entry, gap_ms, read_notes

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


def test_what_is_acknowledged_is_in_the_file(tmp_path: Path) -> None:
    """One connection of a server: each answer comes after its record."""
    near, far = socket.socketpair()
    path = tmp_path / "ledger"
    with path.open("ab", buffering=0) as file:
        serving = threading.Thread(target=ledger._serve_one, args=(far, file.fileno(), "a"))
        serving.start()
        with near.makefile("rb") as answers:
            for number in range(3):
                near.sendall(f"{number}\n".encode())
                assert answers.readline() == f"{number} a\n".encode()
                assert path.read_text().splitlines()[-1] == entry(number, "a")
        near.close()
        serving.join(10)
        assert not serving.is_alive()
    far.close()
