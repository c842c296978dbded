"""The workload of the pair: a ledger in the pool, behind the virtual address, and the client that fills it.

`python -m middlewared.lab.vm.ledger serve FILE` is a service of the controllers (ledger.service): each line that it
gets is appended with a checksum, synced, and only then acknowledged. `… write NOTES` is the client: it numbers its
lines, writes down what was acknowledged, by whom and when, and connects again for ever. So a lost record shows, and so
does the time for which nobody served.
"""

import argparse
import os
import socket
import sys
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from middlewared.lab.vm.layout import LEDGER_PORT, VM

PERIOD_S = 0.05
ANSWER_S_MAX = 1.0
_LINE_BYTES_MAX = 256


@dataclass(frozen=True, slots=True)
class Note:
    """The client's: record `number` was acknowledged by `node`, `at_s` by the host's monotonic clock."""

    number: int
    node: str
    at_s: float


def entry(number: int, node: str) -> str:
    """A line of the ledger, without its end."""
    body = f"{number} {node}"
    return f"{body} {zlib.crc32(body.encode()):08x}"


# ---------------------------------------------------------------------------------------------- inside


def serve(path: Path, node: str) -> None:
    """Until killed. One client at a time is enough; another one replaces it."""
    with socket.create_server(("", LEDGER_PORT), reuse_port=False) as listener, path.open("ab", buffering=0) as file:
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(10 * ANSWER_S_MAX)
                try:
                    _serve_one(connection, file.fileno(), node)
                except (TimeoutError, ConnectionError):
                    continue


def _serve_one(connection: socket.socket, file: int, node: str) -> None:
    with connection.makefile("rb") as lines:
        while line := lines.readline(_LINE_BYTES_MAX):
            number = int(line)
            os.write(file, f"{entry(number, node)}\n".encode())
            os.fsync(file)
            connection.sendall(f"{number} {node}\n".encode())


# ---------------------------------------------------------------------------------------------- outside


def write(notes: Path) -> None:
    """Until killed, from where the notes ended."""
    number = max((note.number for note in read_notes(notes)), default=-1)
    with notes.open("a", buffering=1) as file:
        while True:
            try:
                for number, node in _acknowledged(number):  # noqa: B020  the next connection goes on from there
                    file.write(f"{number} {node} {time.monotonic():.4f}\n")
            except OSError:
                number += 1  # its number was used, and what became of it is not known
            time.sleep(PERIOD_S)


def _acknowledged(number: int) -> Iterator[tuple[int, str]]:
    """One connection: records with the numbers after this one, and who took each. Raises OSError when it breaks."""
    with (
        socket.create_connection((VM.virtual[0], LEDGER_PORT), timeout=ANSWER_S_MAX) as connection,
        connection.makefile("rb") as answers,
    ):
        while True:
            number += 1
            connection.sendall(f"{number}\n".encode())
            answer = answers.readline(_LINE_BYTES_MAX).split()
            if len(answer) != 2 or int(answer[0]) != number:
                raise ConnectionError("it was closed")
            yield number, answer[1].decode()
            time.sleep(PERIOD_S)


# ---------------------------------------------------------------------------------------------- afterwards


def read_notes(path: Path) -> list[Note]:
    """A last line that is not whole is none: the client was killed."""
    if not path.exists():
        return []
    rows = [line.split() for line in path.read_text().split("\n")[:-1]]
    return [Note(int(row[0]), row[1], float(row[2])) for row in rows if len(row) == 3]


def check(lines: Sequence[str], notes: Iterable[Note]) -> list[str]:
    """What is wrong with a ledger, given what was acknowledged; empty: nothing."""
    problems = []
    found: dict[int, str] = {}
    before = -1
    for line in lines:
        words = line.split()
        if len(words) != 3 or not words[0].isdecimal() or line != entry(int(words[0]), words[1]):
            problems.append(f"torn or foreign: {line[:80]!r}")
            continue
        number = int(words[0])
        if number <= before:
            problems.append(f"record {number} stands after {before}")
        found[number], before = words[1], number
    for note in notes:
        if found.get(note.number) != note.node:
            problems.append(f"record {note.number} was acknowledged by {note.node}, and is not there")
    return problems


def gap_ms(notes: Sequence[Note], since_s: float) -> int:
    """The longest time without an acknowledged record, of those that ended after `since_s`."""
    pairs = [(one.at_s, two.at_s) for one, two in pairwise(notes) if two.at_s > since_s]
    return round(1000 * max((later - earlier for earlier, later in pairs), default=0.0))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m middlewared.lab.vm.ledger")
    parser.add_argument("what", choices=("serve", "write"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--node", default=socket.gethostname()[-1:])
    options = parser.parse_args()
    try:
        serve(options.file, options.node) if options.what == "serve" else write(options.file)
    except OSError as error:
        sys.exit(f"ledger: {error}")


if __name__ == "__main__":
    main()
