"""Runs cases against the tree that it is imported from: `python -m tests.mutants.probe`, cases as JSON on stdin.

Each line on stdout is a JSON object: first where the modules are, then what became of each case, up to the first that
breaks a rule.
"""

import dataclasses
import json
import sys
import time
from typing import Any

import middlewared
from middlewared.plugins.failover import engine
from tests.mutants.entry import Case, Plan
from tests.simulator import commands
from tests.simulator.faults import Fault
from tests.simulator.run import Run, quieten
from tests.simulator.world import Shape, World

_TAIL_MS = 3000.0
_OWN = ("expect", "protect", "end")


def main() -> int:
    quieten()
    say({"files": [str(middlewared.__file__), str(engine.__file__)]})
    request = json.loads(sys.stdin.read())
    began_s = time.monotonic()
    for index, packed in enumerate(request["cases"]):
        if time.monotonic() - began_s > request["limit_s"]:
            break
        case_s = time.monotonic()
        violation = run(unpack(packed))
        say({"case": index, "violation": violation, "real_s": time.monotonic() - case_s})
        if violation and not request["all"]:
            break
    return 0


def say(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)


def pack(case: Case) -> Any:
    return case if isinstance(case, int) else dataclasses.asdict(case)


def unpack(packed: Any) -> Case:
    return packed if isinstance(packed, int) else Plan(**packed)


def run(case: Case) -> str:
    """The rule that the run broke, and how; "" when every oracle was content."""
    if isinstance(case, int):
        return Run(case).go().violation
    return planned(case).go().violation


def planned(plan: Plan, **more: Any) -> Run:
    """A run of a directed plan."""
    lines = [(float(at) * 1000, line) for at, line in (part.split(None, 1) for part in plan.lines.split(";"))]
    lines = [(at_ms, line.strip()) for at_ms, line in lines]
    faults = [Fault(((at_ms, line),)) for at_ms, line in lines if line != "end"]
    ends = [at_ms for at_ms, line in lines if line == "end"]
    going = Run(
        plan.seed, faults=faults, shape=Shape(disks=plan.disks, disk_latency_ms=plan.disk_ms, boot_ms=500.0), **more
    )
    length_ms = ends[0] if ends else max(at_ms for at_ms, _ in lines) + _TAIL_MS
    going.plan = dataclasses.replace(going.plan, length_ms=length_ms, harmless=False)
    world, usual = going.world, going.world.do

    def do(line: str) -> None:
        words = line.split()
        if words[0] == "expect":
            trouble = missed(world, *words[1:])
            world.note(f"expect {line}: {trouble or 'yes'}")
            if trouble:
                world.oracles.fail("P", trouble)
        elif words[0] == "protect":
            world.oracles.protected = world.master()
        else:
            if line == "heal-all":
                world.oracles.protected = None
            usual(line)

    world.do = do  # type: ignore[method-assign]  # the plan's own words come first
    return going


def missed(world: World, what: str, value: str) -> str:
    """What an expectation found instead."""
    if what == "master":
        wanted = None if value == "none" else commands.resolve(world, value)
        return "" if world.master() == wanted else f"the MASTER is {world.master()}, not {wanted}"
    if what == "resets":
        return "" if world.oracles.resets <= int(value) else f"{world.oracles.resets} resets, not {value}"
    raise ValueError(f"no such expectation: {what}")


if __name__ == "__main__":
    sys.exit(main())
