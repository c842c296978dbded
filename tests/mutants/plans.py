"""Directed plans: a run of the simulator whose faults are written down, with words of its own (entry.Plan)."""

import dataclasses
from collections.abc import Callable, Iterator

from middlewared.lab.shelf import STANDARD, TGT
from tests.mutants.entry import Plan
from tests.simulator import commands
from tests.simulator.faults import Fault
from tests.simulator.run import Run
from tests.simulator.world import Shape, World

OWN_WORDS = ("expect", "protect", "end")
_TAIL_MS = 3000.0


def lines(plan: Plan) -> Iterator[tuple[float, str]]:
    """Each command with its milliseconds since the start."""
    for part in plan.lines.split(";"):
        at, line = part.split(None, 1)
        yield float(at) * 1000, line.strip()


def planned(plan: Plan, note: Callable[[float, str], None] | None = None) -> Run:
    """A run of a directed plan."""
    faults = [Fault(((at_ms, line),)) for at_ms, line in lines(plan) if line != "end"]
    ends = [at_ms for at_ms, line in lines(plan) if line == "end"]
    shape = Shape(boot_ms=500.0, target=TGT if plan.tgt else STANDARD)
    going = Run(plan.seed, faults=faults, shape=shape, note=note)
    length_ms = ends[0] if ends else max(at_ms for at_ms, _ in lines(plan)) + _TAIL_MS
    going.plan = dataclasses.replace(going.plan, length_ms=length_ms, harmless=False)
    world, usual = going.world, going.world.do

    def do(line: str) -> None:
        words = line.split()
        if words[0] == "expect":
            trouble = missed(world, *words[1:])
            world.note(f"{line}: {trouble or 'yes'}")
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
