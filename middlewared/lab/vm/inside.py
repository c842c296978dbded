"""What the lab does inside its running machines, from the command line and from tests."""

from dataclasses import dataclass
from pathlib import Path

from middlewared.lab.places import LabError, Places
from middlewared.lab.vm.layout import POOL
from middlewared.lab.vm.ledger import Note, check, read_notes
from middlewared.lines import LineClient, LineError

LEDGER = f"/mnt/{POOL}/ledger"
_EXEC_MS = 60_000


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
    """Notes first: what is acknowledged later does not count. Raises LabError."""
    acknowledged = read_notes(notes(places))
    lines = (await inside(places, node, "cat", LEDGER)).splitlines()
    return Found(acknowledged, check(lines, acknowledged))
