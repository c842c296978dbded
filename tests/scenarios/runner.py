"""Plays a scenario in a simulated world, and writes down what happens."""

import dataclasses
import logging
import multiprocessing
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence

from middlewared.plugins.failover.actions import Action
from middlewared.plugins.failover.events import Event
from tests.scenarios import stage
from tests.scenarios.crash import Crash
from tests.scenarios.script import Script
from tests.scenarios.transcript import Transcript
from tests.simulator.commands import CommandError
from tests.simulator.world import Shape, World

_SETTLED_MS = 2000.0
_SHAPE = Shape(disks=4, sentinels=1, boot_ms=1000.0)


@dataclasses.dataclass(slots=True)
class Played:
    """The output of each command, and what was wrong: an oracle, or a wait in vain."""

    outputs: list[list[str]]
    trouble: str
    actions: int  # of both engines, from the first command on
    simulated_s: float


OnAction = Callable[["Player", int, str, Action], None]  # (player, number of the action, whose, which)


class Player:
    """One performance. Without chance: every delay is the mean, until a crash is to be tried."""

    def __init__(self, script: Script, *, on_action: "OnAction | None" = None, trying: bool = True) -> None:
        self.script = script
        self.trying = trying  # whether `try` is done, or passed over
        self.shape = _SHAPE
        self.world: World | None = None
        self.trouble = ""
        self.outputs: list[list[str]] = []
        self.actions = 0
        self.crash: Crash | None = None
        self._on_action = on_action
        self._before: list[list[str]] = []
        self._transcript: Transcript | None = None
        self._base_s = 0.0
        self._started = False
        self._acted = False  # since the last wait: a condition that holds right now says nothing of what was done

    def render(self) -> str:
        """What happened so far, and since."""
        since = [] if self._transcript is None else self._transcript.take(self._base_s)
        return self.script.render(self.outputs) + "\n".join(f"  {line}" for line in since)

    def play(self) -> Played:
        outputs = self.outputs
        for line in self.script.commands():
            if self.trouble:
                break
            outputs.append(self.do(line))
            if self.world is not None and self.world.oracles.violation:
                self.trouble = self.trouble or self.world.oracles.violation
        world = self.world
        return Played(outputs, self.trouble, self.actions, 0.0 if world is None else world.now_s)

    def do(self, line: str) -> list[str]:
        """One command; its output. Raises CommandError."""
        words = shlex.split(line)
        if words[0] in stage.BEFORE_START:
            if self._started:
                raise CommandError(f"{line}: only before the start")
            self._before.append(words)
            return []
        if not self._started:
            self._start()
        assert self.world is not None
        assert self._transcript is not None
        return self._done(self.world, self._transcript, line, words)

    def _done(self, world: World, transcript: Transcript, line: str, words: list[str]) -> list[str]:
        match words[0]:
            case "wait":
                self._wait(world, words[1:])
                self._acted = False
                return transcript.take(self._base_s)
            case "expect":
                if self.crash is None and not stage.condition(world, words[1:])():
                    self.trouble = f"`{line}`: it is not so: {'; '.join(stage.show(world))}"
                return []
            case "show":
                return stage.show(world)
            case "try":
                return stage.attempt(world, words[1:]) if self.trying else []
        self._base_s = world.now_s
        self._acted = True
        if words[0] == "interface":
            world.touched_s = world.now_s
            stage.interface(world, words[1:])
        else:
            world.do(line)
        return transcript.take(self._base_s)

    def _start(self) -> None:
        self._started = True
        dark = False
        for words in self._before:
            if words[0] == "hardware":
                self.shape = stage.shaped(self.shape, words[1:])
            dark = dark or words[0] == "dark"
        world = self.world = World(0, self.shape)
        world.rng.random = lambda: 0.5  # type: ignore[method-assign]  # the mean
        for words in self._before:
            if words[0] == "settings":
                stage.set_limits(world, words[1:])
        transcript = self._transcript = Transcript(world)
        if not dark:
            world.power_on()
            if not world.run_until(lambda: stage.healthy(world), _SETTLED_MS):
                raise CommandError("the pair did not find a MASTER")
            world.run_ms(_SETTLED_MS - world.now_s * 1000)
        transcript.take(0.0)
        written = world.on_engine

        def engine(node: str, what: Event | Action) -> None:
            written(node, what)
            if isinstance(what, Action):
                self.actions += 1
                if self._on_action is not None:
                    self._on_action(self, self.actions, node, what)

        world.on_engine = engine

    def _wait(self, world: World, words: list[str]) -> None:
        if words[0] != "until":
            world.run_ms(stage.seconds(words[0]) * 1000)
            return
        words = words[1:]
        bound_s = stage.BOUND_S
        if len(words) > 2 and words[-2] == "within":
            bound_s = stage.seconds(words[-1])
            words = words[:-2]
        holds = stage.condition(world, words)
        if self._acted and holds() and self.crash is None:
            self.trouble = f"`wait until {' '.join(words)}`: it is so already, before anything could happen"
        elif not world.run_until(holds, bound_s * 1000, stage.STEP_MS) and self.crash is None:
            self.trouble = world.oracles.violation or f"`wait until {' '.join(words)}`: not within {bound_s:g} s"


def quieten() -> None:
    """Neither what the production code logs, nor the coroutines of the dead."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore", RuntimeWarning)
    sys.unraisablehook = lambda unraisable: None


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """A scenario as it is now: its text, and what was wrong."""

    script: Script
    text: str
    trouble: str
    actions: int

    @property
    def fresh(self) -> bool:
        return not self.trouble and self.text == self.script.text


def perform(script: Script) -> Outcome:
    """Play it once, in a process of its own (see `everything`)."""
    player = Player(script)
    try:
        played = player.play()
    except CommandError as error:
        return Outcome(script, script.text, str(error), 0)
    finally:
        if player.world is not None:
            player.world.close()
    return Outcome(script, script.render(played.outputs), played.trouble, played.actions)


def everything(scripts: Sequence[Script], jobs: int | None = None) -> Iterator[Outcome]:
    """All of them, in order, several at a time. Each in a fresh copy of this process: what an earlier world left to be
    collected would otherwise be collected in the middle of a later one."""
    forking = multiprocessing.get_context("fork")
    with forking.Pool(jobs, initializer=quieten, maxtasksperchild=1) as pool:
        yield from pool.imap(perform, scripts)
