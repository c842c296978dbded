"""After every action of an engine something dies, in a copy of the world that then plays to its end and is healed."""

import asyncio
import dataclasses
import functools
import gc
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Collection, Iterator, Sequence

from middlewared.errors import CallError
from middlewared.lab.places import NODES
from middlewared.plugins.failover.actions import Action, Perform
from tests.scenarios import stage
from tests.scenarios.crash import Crash, crashes
from tests.scenarios.runner import Player, quieten
from tests.scenarios.script import Script
from tests.simulator.commands import CommandError
from tests.simulator.world import World

HEAL_MS = 40_000.0
STEADY_MS = 4_000.0  # healthy for longer than any oracle waits before it objects: it stays so
_LOOK_MS = 1000.0
_PATIENCE_S = 120  # of real time, for one copy of the world


@dataclasses.dataclass(frozen=True, slots=True)
class Trials:
    """How one scenario stood its interruptions."""

    scenario: str
    count: int
    failures: tuple[tuple[Crash, str], ...]


def try_all(
    scripts: Sequence[Script], every: int = 1, also: Collection[Crash] = (), jobs: int | None = None
) -> Iterator[Trials]:
    """One in `every` crashes, the same ones in every run, and some besides. A process a scenario, several at a time."""
    forking = multiprocessing.get_context("fork")
    with forking.Pool(jobs, initializer=quieten, maxtasksperchild=1) as pool:
        yield from pool.imap_unordered(functools.partial(_interrupt, every, frozenset(also)), scripts)


def _interrupt(every: int, also: frozenset[Crash], script: Script) -> Trials:
    return _Interrupter(script, lambda crash: crash.digest % every == 0 or crash in also).run()


class _Interrupter:
    """Plays a scenario once; at each action it forks a copy for each thing that may die."""

    def __init__(self, script: Script, chosen: Callable[[Crash], bool]) -> None:
        self._script = script
        self._chosen = chosen
        self._failures: list[tuple[Crash, str]] = []
        self._count = 0
        self._last: dict[str, tuple[Action | None, int]] = {}  # by controller: its last action, and how often in a row
        self._answer: int | None = None  # in a copy: where to say how it ended

    def run(self) -> Trials:
        player = Player(self._script, on_action=self._acted, trying=False)
        try:
            trouble = play_to_the_end(player)
        except BaseException as error:
            if self._answer is None:
                raise
            trouble = f"the copy of the world broke: {error!r}"
        if self._answer is not None:
            os.write(self._answer, json.dumps(trouble).encode()[:4000])
            os._exit(0)
        return Trials(self._script.name, self._count, tuple(self._failures))

    def _repeats(self, actor: str, action: Action) -> bool:
        """The third time in a row that it does the same is like the second: asking again for disks that are held."""
        done = dataclasses.replace(action, op=0) if isinstance(action, Perform) else action
        last, count = self._last.get(actor, (None, 0))
        count = count + 1 if done == last else 1
        self._last[actor] = (done, count)
        return count > 2

    def _acted(self, player: Player, number: int, actor: str, action: Action) -> None:
        if self._answer is not None or self._repeats(actor, action):
            return
        assert player.world is not None
        for crash in crashes(self._script.name, number):
            if not self._chosen(crash) or not crash.possible(player.world, actor):
                continue
            self._count += 1
            reading, writing = os.pipe()
            child = os.fork()
            if child == 0:
                os.close(reading)
                asyncio._set_running_loop(player.world.loop)  # it knows by the process's number that it runs
                signal.alarm(_PATIENCE_S)
                gc.disable()  # a copy is short-lived, and collecting would copy every page of its parent
                self._answer = writing
                player.crash = crash
                crash.prepare(player.world, actor)
                return
            os.close(writing)
            with os.fdopen(reading, "rb") as pipe:
                told = pipe.read()
            os.waitpid(child, 0)
            trouble = json.loads(told) if told else "it did not come to an end"
            if trouble:
                self._failures.append((crash, trouble))


def play_to_the_end(player: Player) -> str:
    """The scenario, and if something died in it, what must hold then: "" or the trouble."""
    try:
        trouble = player.play().trouble
    except CommandError as error:
        return str(error)
    if trouble or player.crash is None or player.world is None:
        return trouble
    return after_the_heal(player.world)


def after_the_heal(world: World) -> str:
    """Everything is mended: exactly one MASTER serves, with the pool, and both say that failover would work."""
    world.do("heal-all")
    restored = False
    steady_ms, end_s = 0.0, world.now_s + HEAL_MS / 1000
    while world.now_s < end_s and steady_ms < STEADY_MS and not world.oracles.violation:
        world.run_ms(_LOOK_MS)
        steady_ms = steady_ms + _LOOK_MS if restored and _steady(world) else 0.0
        master = world.master()
        if master is not None and not restored:
            daemon = world.controllers[master].daemon
            restored = daemon is not None and daemon.store is not None
            if restored:
                daemon.process.start(_restore(daemon.store))  # type: ignore[union-attr]  # looked at right above
    return world.oracles.violation or _unhealthy(world)


async def _restore(store: object) -> None:
    try:
        await store.write(stage.restore_configuration)  # type: ignore[attr-defined]  # a Store
    except CallError:
        return  # seen in the verdict at the end


def _steady(world: World) -> bool:
    """Healthy, and no engine waits for a time to come."""
    return not _unhealthy(world) and all(wake_ms is None for wake_ms in world.wakes_ms())


def _unhealthy(world: World) -> str:
    master = world.master()
    kernels = {node: world.controllers[node].kernel for node in NODES}
    imported = [node for node, kernel in kernels.items() if kernel is not None and kernel.pool.imported]
    if master is None or imported != [master] or not stage.healthy(world):
        return f"{HEAL_MS / 1000:.0f} s after the heal: " + " | ".join(stage.show(world))
    return ""
