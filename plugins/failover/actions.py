"""What the engine asks the machine to do."""

from dataclasses import dataclass

from middlewared.plugins.failover.state import Phase


@dataclass(frozen=True, slots=True)
class Perform:
    """Do the work of a phase; report Done with this number."""

    op: int
    phase: Phase
    forced: bool = False  # FENCING only: take the disks from a living peer


@dataclass(frozen=True, slots=True)
class Participate:
    """Take part in the election of the virtual addresses, or stay out of it."""

    wanted: bool


@dataclass(frozen=True, slots=True)
class CloseTraffic:
    """Keep traffic to the virtual addresses out (the resting state of a BACKUP); nobody waits for it."""


@dataclass(frozen=True, slots=True)
class Reset:
    """Reset the machine at once: it must not go on (DESIGN S3)."""

    reason: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome of an operator's request: changed or not, or refused with a sentence."""

    request: int
    changed: bool
    refusal: str = ""


Action = Perform | Participate | CloseTraffic | Reset | Answer
