"""What an entry of the list is: what is changed, what that breaks, and which runs of the simulator notice."""

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Edit:
    """`old` occurs exactly once in `file`."""

    file: str
    old: str
    new: str


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """A directed run: commands with their seconds since the start, separated by semicolons, in place of a seed's own.

    Beside those of tests/simulator/commands.py there are

        expect master WHO|none    who is the only MASTER now; not found so: rule P
        expect resets N           so many resets at most until now
        protect                   from now on the MASTER is untroubled (O7)
        end                       when everything heals; else 3 s after the last command
    """

    lines: str
    seed: int = 1  # of chance
    tgt: bool = False  # the shelf can do no more than tgt: no PREEMPT AND ABORT

    def __str__(self) -> str:
        return f"plan “{self.lines}” with seed {self.seed}{' on tgt' if self.tgt else ''}"


@dataclasses.dataclass(frozen=True, slots=True)
class Scenario:
    """A transcript of tests/scenarios: what happens differs from what is written there: rule T."""

    name: str

    def __str__(self) -> str:
        return f"scenario {self.name}"


Case = int | Plan | Scenario  # an int is a seed with the faults that it draws


@dataclasses.dataclass(frozen=True, slots=True)
class Mutant:
    """One deliberately broken version."""

    name: str
    breaks: str  # one sentence
    edits: tuple[Edit, ...]
    caught_by: tuple[Case, ...]  # the quickest first


@dataclasses.dataclass(frozen=True, slots=True)
class Equivalent:
    """A change that breaks no promise, or none that the simulator can see; `why` says which."""

    name: str
    edits: tuple[Edit, ...]
    why: str


def change(file: str, old: str, new: str) -> tuple[Edit, ...]:
    """One edit."""
    return (Edit(file, old, new),)
