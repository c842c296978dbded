"""One seed: a safety phase with faults, then everything heals, and a liveness phase. The answer is a Result."""

import dataclasses
import logging
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from middlewared.lab.process import die_with_parent
from tests.simulator import rehearse
from tests.simulator.faults import Fault, Plan, draw_plan
from tests.simulator.oracles import WATCH_MS
from tests.simulator.past import Past, load
from tests.simulator.world import Shape, World

SETTLE_MS = 2000.0
LIVE_MS = 30_000.0  # after the heal: boot, restarts of units, standing aside, a retry after an error
ENABLED_TIMES_MAX = 2
STAY_MS = 12_000.0  # longer than standing aside, and than any retry
REHEARSALS_MAX = 4  # a seed
PASSED_SHARE = 0.3  # of the chances is let pass, so that long runs are looked at late, too


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """How a seed went. `violation` is empty when every oracle was content."""

    seed: int
    violation: str
    simulated_s: float
    real_s: float
    rehearsals: int
    role_changes: int
    resets: int
    writes: int
    described: str
    digest: int  # of everything that happened: equal for equal seeds


def shape_of(seed: int) -> Shape:
    rng = random.Random(f"shape {seed}")
    return Shape(
        disks=rng.choice((3, 3, 4, 4, 6, 11)),
        disk_latency_ms=rng.choice((0.2, 0.5, 2.0)),
        network_latency_ms=rng.choice((0.1, 0.3, 1.0)),
        boot_ms=rng.choice((500.0, 2000.0, 5000.0)),
        sentinels=rng.choice((1, 2, 4)),
        blank=rng.random() < 0.2,
    )


def run_seed(seed: int, faults: Sequence[Fault] | None = None) -> Result:
    """One seed without its log."""
    return Run(seed, faults=faults).go()


def run_past(past: Past, note: Callable[[float, str], None] | None = None) -> Result:
    """A run that broke a rule once."""
    return Run(past.seed, plan=past.plan, shape=past.shape, note=note).go()


def run_case(case: int | Path) -> Result:
    """A seed, or the file of a past failure."""
    return run_seed(case) if isinstance(case, int) else run_past(load(case))


def quieten() -> None:
    """Only results are printed: neither what the production code logs, nor the coroutines of the dead."""
    logging.disable(logging.CRITICAL)
    sys.unraisablehook = lambda unraisable: None


def begin_worker() -> None:
    """In a process that runs many: it does not outlive whoever asked."""
    die_with_parent()
    quieten()


class Run:
    """A seed on its way. `plan` replaces the seed's own, `faults` those of the plan (shrink.py)."""

    def __init__(
        self,
        seed: int,
        *,
        plan: Plan | None = None,
        faults: Sequence[Fault] | None = None,
        note: Callable[[float, str], None] | None = None,
        shape: Shape | None = None,
    ) -> None:
        self.seed = seed
        self.aloud = note is not None
        shape = shape or shape_of(seed)
        plan = plan or draw_plan(seed, shape.disks, SETTLE_MS)
        self.plan: Plan = plan if faults is None else dataclasses.replace(plan, faults=tuple(faults))
        self.world = World(seed, shape)
        self._hash = 0
        self._note = note
        self.world.on_note = self._noted
        self._chance = random.Random(f"rehearsals {seed}")
        self._looked_s = 0.0
        self._rehearsals = 0

    def _noted(self, at_s: float, text: str) -> None:
        self._hash = hash((self._hash, round(at_s, 6), text))
        if self._note is not None:
            self._note(at_s, text)

    def go(self) -> Result:
        world, began_s = self.world, time.monotonic()
        self._safety()
        self._liveness()
        result = Result(
            self.seed,
            world.oracles.violation,
            world.now_s,
            time.monotonic() - began_s,
            self._rehearsals,
            len(world.oracles.changes),
            world.oracles.resets,
            world.oracles.writes,
            self.plan.describe(),
            self._hash,
        )
        world.close()
        return result

    # ------------------------------------------------------------------------------------------ safety

    def _safety(self) -> None:
        world, oracles = self.world, self.world.oracles
        world.power_on()
        if not world.run_until(lambda: world.master() is not None, SETTLE_MS):
            oracles.fail("O6", "two healthy controllers do not find a MASTER")
        world.run_ms(SETTLE_MS - world.now_s * 1000)
        if self.plan.harmless:
            oracles.protected = world.master()
        lines = sorted((at_ms, line) for fault in self.plan.faults for at_ms, line in fault.lines)
        for at_ms, line in lines:
            if at_ms > self.plan.length_ms or oracles.violation:
                break
            self._pass(at_ms)
            if not oracles.violation:
                world.do(line)
        self._pass(self.plan.length_ms)

    def _pass(self, until_ms: float) -> None:
        """Let time pass, and look at the verdict now and then."""
        world = self.world
        while world.now_s * 1000 < until_ms - 1e-6 and not world.oracles.violation:
            world.run_ms(min(WATCH_MS, until_ms - world.now_s * 1000))
            self._look()
            if world.still():
                world.skip_to(until_ms / 1000)

    def _look(self) -> None:
        """Between two faults, as soon as somebody promises a takeover: put that to the proof, or let it be."""
        world = self.world
        if self._looked_s > world.touched_s or self._rehearsals >= REHEARSALS_MAX or world.oracles.violation:
            return
        who = rehearse.promised(world)
        if who:
            self._looked_s = world.now_s
            if self._chance.random() < PASSED_SHARE:
                return
            self._rehearsals += 1
            trouble = rehearse.death_of_the_master(world, aloud=self.aloud)
            if trouble:
                world.oracles.fail("O5", f"{who} said that failover would work, but {trouble}")

    # ------------------------------------------------------------------------------------------ liveness

    def _liveness(self) -> None:
        world, oracles = self.world, self.world.oracles
        if oracles.violation:
            return
        world.do("heal-all")
        world.run_ms(SETTLE_MS)  # what an operator asked of a daemon that stood still is done now
        if not world.run_until(self._one_master, LIVE_MS):
            oracles.fail("O6", f"no MASTER {LIVE_MS / 1000:.0f} s after the heal: {self._where()}")
            return
        oracles.changes.clear()
        if not any(self._enabled_and_healthy() for _ in range(ENABLED_TIMES_MAX)):
            oracles.fail("O6", f"not a healthy pair {LIVE_MS / 1000:.0f} s after a MASTER was there: {self._where()}")
            return
        world.run_ms(STAY_MS)
        changes = [change for change in oracles.changes if change[3] == "MASTER"]
        if len(changes) > 1 or not self._healthy():
            oracles.fail("O6", f"it does not stay: {changes} {self._where()}")
        trouble = world.writer.trouble()
        if trouble:
            oracles.fail("O4", trouble)
        if not oracles.violation:
            self._rehearsals += 1
            oracles.protected = None
            trouble = rehearse.die(world, world.master() or "")
            if trouble:
                oracles.fail("O5", f"after the heal, {trouble}")

    def _enabled_and_healthy(self) -> bool:
        """As an operator does it, who asks again where no answer came: a MASTER with a suspended pool resets as soon
        as somebody else may lead."""
        master = self.world.master()
        self.world.do(f"call {master or 'a'} failover.control '\"ENABLE\"' '{{\"active\": true}}'")
        return self.world.run_until(self._healthy, LIVE_MS)

    def _one_master(self) -> bool:
        world = self.world
        master = world.master()
        return master is not None and world.serves(master)

    def _healthy(self) -> bool:
        world = self.world
        kernels = [controller.kernel for controller in world.controllers.values()]
        stuck = any(kernel is not None and kernel.pool.status == "SUSPENDED" for kernel in kernels)
        return self._one_master() and not stuck and all(world.reasons(node) == [] for node in world.controllers)

    def _where(self) -> str:
        world = self.world
        return "; ".join(
            f"{node}: {world.role(node)} {world.reasons(node)} {world.why(node)}" for node in world.controllers
        )


def quiet_pair(hours: float) -> tuple[float, float]:
    """Real seconds for that long with nothing happening, and how many simulated seconds were not skipped."""
    world, began_s = World(0), time.monotonic()
    world.power_on()
    while world.now_s < hours * 3600 and not world.oracles.violation:
        world.run_ms(1000)
        if world.still():  # an hour at most is believed at a time: then everything is looked at again
            world.skip_to(min(hours * 3600, world.now_s + 3600))
            world.note("an hour")
    skipped_s = world.skipped_s
    lived_s = world.now_s - skipped_s
    assert not world.oracles.violation, world.oracles.violation
    assert world.master() == "a"
    world.close()
    return time.monotonic() - began_s, lived_s
