"""What else may happen in a scenario: something dies right after the Nth action of an engine."""

import dataclasses
import zlib
from collections.abc import Iterator

from tests.scenarios.script import FOLDER
from tests.simulator.world import World

KINDS = ("controller", "daemon", "keeper")
WHO = ("actor", "other")
_AFTER_MS = (0.0, 0.7, 2.0, 6.0)  # at once, or while the disks are asked, or when they have answered
_BOOT_MS = 1000.0


@dataclasses.dataclass(frozen=True, slots=True)
class Crash:
    """The Nth action, counted over both engines; `who`: whose action it was, or the other controller."""

    scenario: str
    number: int
    kind: str
    who: str

    def __str__(self) -> str:
        """How to play it again."""
        return f"python -m tests.scenarios {self.scenario} --crash {self.number} {self.kind} {self.who}"

    @property
    def digest(self) -> int:
        """The same in every run, and unlike that of its neighbours."""
        return zlib.crc32(str(self).encode())

    def victim(self, actor: str) -> str:
        return actor if self.who == "actor" else ("b" if actor == "a" else "a")

    def possible(self, world: World, actor: str) -> bool:
        controller = world.controllers[self.victim(actor)]
        return controller.powered and (self.kind == "controller" or controller.process(self.kind) is not None)

    def prepare(self, world: World, actor: str) -> None:
        """From here on there is chance in every delay, as everything before has been seen already."""
        world.rng.__dict__.pop("random", None)
        world.rng.seed(self.digest)
        world.later(_AFTER_MS[self.digest % len(_AFTER_MS)], self._strike, world, self.victim(actor))

    def _strike(self, world: World, node: str) -> None:
        controller = world.controllers[node]
        world.note(f"{node}: --- crash: its {self.kind} dies" if self.kind != "controller" else f"{node}: --- crash")
        if self.kind != "controller":
            controller.kill(self.kind)
        elif controller.powered:
            controller.power_off()
            world.later(_BOOT_MS, controller.power_on_unless_off)


def past() -> frozenset[Crash]:
    """Those that failed once (past-interruptions.md), so far as the scenarios still have these actions."""
    lines = (FOLDER / "past-interruptions.md").read_text().splitlines()
    told = [line.split() for line in lines if line.startswith("    ")]
    return frozenset(Crash(scenario, int(number), kind, who) for scenario, number, kind, who in told)


def crashes(scenario: str, number: int) -> Iterator[Crash]:
    """All that may die after one action."""
    for kind in KINDS:
        for who in WHO:
            yield Crash(scenario, number, kind, who)
