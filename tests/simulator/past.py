"""Runs that broke a rule once, whole: hardware, faults and length stand in a file, and no change of what seeds draw
alters them. `python -m tests.simulator SEED --save "what the bug was"` writes one; `make test` runs them all."""

import ast
import dataclasses
from pathlib import Path

from middlewared.invariants import invariant
from middlewared.lab.shelf import STANDARD
from tests.simulator.faults import Fault, Plan
from tests.simulator.world import Shape

FOLDER = Path(__file__).parent / "past"


@dataclasses.dataclass(frozen=True, slots=True)
class Past:
    """What it was, and all that its run is made of."""

    story: str
    seed: int  # of chance
    shape: Shape
    plan: Plan


def everything() -> list[Path]:
    return sorted(FOLDER.glob("*.txt"))


def save(past: Past) -> Path:
    """Write it down, named after its seed."""
    invariant(past.shape.target == STANDARD, "seeds draw no other target")
    hardware = " ".join(f"{name}={getattr(past.shape, name)}" for name in _DRAWN)
    head = f"# {past.story}\nseed {past.seed}\nhardware {hardware}\nend {past.plan.length_ms:.0f}\n"
    aim = "harmless\n" if past.plan.harmless else ""
    path = FOLDER / f"{past.seed}.txt"
    path.write_text(head + aim + "".join(f"{fault}\n" for fault in past.plan.faults))
    return path


def load(path: Path) -> Past:
    """Raises ValueError or KeyError when the file is not what `save` writes."""
    first, *lines = path.read_text().splitlines()
    head = {line.split()[0]: line.split()[1:] for line in lines if line.split()[0] in _HEAD}
    faults = tuple(_fault(line) for line in lines if line.split()[0] not in _HEAD)
    hardware = dict(word.split("=") for word in head["hardware"])
    shape = Shape(**{name: ast.literal_eval(value) for name, value in hardware.items()})
    plan = Plan({}, faults, float(head["end"][0]), "harmless" in head)
    return Past(first.removeprefix("# "), int(head["seed"][0]), shape, plan)


_DRAWN = ("disks", "disk_latency_ms", "network_latency_ms", "boot_ms", "sentinels", "blank")
_HEAD = ("seed", "hardware", "end", "harmless")


def _fault(line: str) -> Fault:
    """As Fault.__str__ writes it: `3.175s freeze a ; 4.2s thaw a`."""
    timed = (command.split("s ", 1) for command in line.split(" ; "))
    return Fault(tuple((float(at_s) * 1000, command) for at_s, command in timed))
