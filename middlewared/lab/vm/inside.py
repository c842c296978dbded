"""What the lab does inside its running machines, from the command line and from tests."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from middlewared import programs
from middlewared.lab.netns.layout import CLIENT
from middlewared.lab.netns.namespaces import Network
from middlewared.lab.places import LabError, Places
from middlewared.lab.vm.layout import PREFIX
from middlewared.lab.vm.ledger import Note, check, read_notes
from middlewared.lines import LineClient, LineError
from middlewared.ports import PortError

_EXEC_MS = 60_000
_READ_MS = 120_000


@dataclass(frozen=True, slots=True)
class Found:
    """The ledger as it stands: what the client was acknowledged, and what is wrong."""

    notes: list[Note]
    problems: list[str]


def is_virtual(places: Places) -> bool:
    """The folder is that of a lab of virtual machines."""
    return (places.node("a") / "machine").is_dir()


def notes(places: Places) -> Path:
    """What the client was acknowledged (lab.vm.ledger)."""
    return places.directory / "client-notes"


async def inside(places: Places, node: str, *words: str, stdin: bytes = b"") -> str:
    """Run a program on a controller; its output. Raises LabError when it fails, or the controller is off."""
    client = LineClient(places.machine(node))
    try:
        await client.connect()
        return str(await client.call("exec", timeout_ms=_EXEC_MS, words=words, stdin=stdin.hex()))
    except LineError as error:
        raise LabError(f"controller {node.upper()}: {error.message}") from error
    finally:
        await client.close()


async def read_ledger(places: Places, node: str) -> Found:
    """By the client's own way, from the controller that is MASTER. Raises LabError."""
    acknowledged = read_notes(notes(places))  # first: what is acknowledged later does not count
    count = max((note.number for note in acknowledged), default=0) + 1
    program = (sys.executable, "-m", "middlewared.lab.vm.ledger", "read", str(count))
    try:
        told = await programs.output(*Network(PREFIX).command(CLIENT, *program), timeout_ms=_READ_MS)
    except PortError as error:
        raise LabError(f"the exported disk cannot be read back: {error}") from error
    served_by, lines = json.loads(told)
    if served_by != node:
        raise LabError(f"the virtual address is served by {served_by.upper()}, and MASTER is {node.upper()}")
    return Found(acknowledged, check(lines, acknowledged))
