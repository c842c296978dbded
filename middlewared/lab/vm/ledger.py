"""The workload of the pair: a disk in the pool, exported by iSCSI behind the virtual address, and who fills it.

The controllers' service is export.service: tgt with a file in the pool, each write synced before it is acknowledged.
`python -m middlewared.lab.vm.ledger write NOTES` is the client outside: it writes one numbered, checksummed block after
the other, notes what was acknowledged, by whom and when, and logs in again for ever. `… read COUNT` reads them back by
the same way. So a lost record shows, and so does the time for which nobody served.
"""

import argparse
import asyncio
import json
import secrets
import sys
import time
import zlib
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from middlewared.lab.vm.layout import EXPORT_BYTES, EXPORT_PORT, EXPORT_TARGET, EXPORT_UNIT, VM
from middlewared.plugins.fencing import libiscsi, scsi
from middlewared.plugins.fencing.iscsi import IscsiTransport
from middlewared.plugins.fencing.iscsi_session import Portal, Session
from middlewared.plugins.fencing.scsi import BLOCK_BYTES, Status
from middlewared.plugins.fencing.transport import TransportError, command
from middlewared.ports import PortError

PERIOD_S = 0.05
ANSWER_MS_MAX = 1000
EXPORTED = Portal(VM.virtual[0], EXPORT_PORT, EXPORT_TARGET)
_INITIATOR = "iqn.2026-11.org.middlewared.lab:client"
_READ_BLOCKS = 128  # at once
_READ_MS_MAX = 20_000


@dataclass(frozen=True, slots=True)
class Note:
    """The client's: record `number` was acknowledged by `node`, `at_s` by the host's monotonic clock."""

    number: int
    node: str
    at_s: float


def entry(number: int, node: str) -> str:
    """A record; on the disk it begins the block of the same number, and zeros follow."""
    body = f"{number} {node}"
    return f"{body} {zlib.crc32(body.encode()):08x}"


# ---------------------------------------------------------------------------------------------- the client


@asynccontextmanager
async def _logged_in(portal: Portal) -> AsyncIterator[tuple[IscsiTransport, str]]:
    """The disk, and which controller serves it: its serial says so. Raises TransportError."""
    session = Session(libiscsi.load(), portal, _INITIATOR, secrets.randbits(24))
    try:
        await session.login(ANSWER_MS_MAX)
        disk = IscsiTransport(session, EXPORT_UNIT, str(portal))
        reply = await command(disk, scsi.inquiry(scsi.SERIAL_PAGE), timeout_ms=ANSWER_MS_MAX)
        if reply.status != Status.GOOD:
            raise TransportError(scsi.explain(reply))
        yield disk, scsi.parse_serial(reply.data)[-1:]
    finally:
        session.close("no more of it")


async def write(notes: Path, portal: Portal = EXPORTED) -> None:
    """Until killed, from where the notes ended."""
    number = max((note.number for note in read_notes(notes)), default=-1) + 1
    with notes.open("a", buffering=1) as file:
        while number < EXPORT_BYTES // BLOCK_BYTES:
            try:
                async with _logged_in(portal) as (disk, node):
                    while True:
                        number += 1  # whatever becomes of a record, its number is used
                        await _put(disk, number - 1, node)
                        file.write(f"{number - 1} {node} {time.monotonic():.4f}\n")
                        await asyncio.sleep(PERIOD_S)
            except (TransportError, ValueError):
                await asyncio.sleep(PERIOD_S)


async def _put(disk: IscsiTransport, number: int, node: str) -> None:
    block = entry(number, node).encode().ljust(BLOCK_BYTES, b"\0")
    reply = await command(disk, scsi.write_10(number, 1), block, timeout_ms=ANSWER_MS_MAX)
    if reply.status != Status.GOOD:
        raise TransportError(scsi.explain(reply))


async def read(count: int, portal: Portal = EXPORTED) -> tuple[str, list[str]]:
    """Who serves now, and the first `count` blocks, without those never written. Raises TransportError."""
    lines = []
    async with _logged_in(portal) as (disk, node):
        for at in range(0, count, _READ_BLOCKS):
            reply = await command(disk, scsi.read_10(at, min(_READ_BLOCKS, count - at)), timeout_ms=_READ_MS_MAX)
            if reply.status != Status.GOOD:
                raise TransportError(scsi.explain(reply))
            blocks = (reply.data[i : i + BLOCK_BYTES] for i in range(0, len(reply.data), BLOCK_BYTES))
            lines += [block.rstrip(b"\0").decode("latin-1") for block in blocks if any(block)]
    return node, lines


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
    what = parser.add_subparsers(dest="what", required=True)
    what.add_parser("write").add_argument("notes", type=Path)
    what.add_parser("read").add_argument("count", type=int)
    options = parser.parse_args()
    try:
        if options.what == "write":
            asyncio.run(write(options.notes))
        else:
            json.dump(asyncio.run(read(options.count)), sys.stdout)
    except (TransportError, PortError, OSError) as error:
        sys.exit(f"ledger: {error}")


if __name__ == "__main__":
    main()
