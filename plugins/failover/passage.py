"""What the history remembers of a failover, folded out of the engine's steps. Pure: the clocks are handed in.

A passage lasts from leaving a resting role to resting again; a takeover that fails and gives everything back is one
passage. A takeover that is tried again soon after it failed goes on with the same passage: its phases are those of the
last attempt, its duration is that of the whole struggle.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from middlewared.plugins.failover.events import Done, Event, Tick
from middlewared.plugins.failover.state import Phase, Role, State

RESUME_MS_MAX = 60_000  # a takeover that begins so soon after a failed one is another attempt of the same
TEXT_CHARACTERS_MAX = 300

TAKEOVER, HANDOVER = "takeover", "handover"
RUNNING, INTERRUPTED = "RUNNING", "INTERRUPTED"
_WANTED = {TAKEOVER: Role.MASTER, HANDOVER: Role.BACKUP}
_MOVING = (Role.TAKING, Role.YIELDING)


@dataclass(frozen=True, slots=True)
class PhaseRecord:
    """One phase: how long it took, and how it ended (ok, failed; running while it has not)."""

    phase: str
    duration_ms: int | None = None
    outcome: str = "running"
    detail: str = ""  # a sentence: what failed and why, or what was reached


@dataclass(frozen=True, slots=True)
class Passage:
    """One failover of one controller. Instants are milliseconds since the epoch, durations those of a steady clock."""

    number: int
    role: str  # takeover or handover: what was wanted
    trigger: str
    started_ms: int
    attempts: int = 1
    duration_ms: int | None = None  # None: it has not ended, or nobody saw it end
    outcome: str = RUNNING
    error: str | None = None
    phases: tuple[PhaseRecord, ...] = ()


class Recorder:
    """Follows one engine; `keep` gets the passage whenever something is to be written down."""

    def __init__(
        self,
        first_number: int,
        keep: Callable[[Passage], None],
        *,
        clock_s: Callable[[], float],
        wall_s: Callable[[], float],
    ) -> None:
        self._next = first_number
        self._keep = keep
        self._clock_s = clock_s
        self._wall_s = wall_s
        self._passage: Passage | None = None  # the one under way
        self._last: Passage | None = None
        self._began_ms = self._ended_ms = 0
        self._phase: Phase | None = None
        self._phase_began_ms = 0

    def follow(self, before: State, event: Event, after: State) -> None:
        """Called after every step of the engine."""
        if self._passage is not None:
            self._phase_ended(before, event, after)
            self._maybe_end(before, after)
        if self._passage is None and after.role in _MOVING:
            self._begin(after)
        if self._passage is None:
            return
        if before.role is after.role is Role.TAKING and after.cause != before.cause:
            self._change(trigger=_cut(f"{self._passage.trigger}; then {after.cause}"))
        if self._phase is not after.phase and after.phase is not None:
            self._phase, self._phase_began_ms = after.phase, self._now_ms()
            self._change(phases=(*self._passage.phases, PhaseRecord(after.phase.value)))

    def _now_ms(self) -> int:
        return round(self._clock_s() * 1000)

    def _begin(self, after: State) -> None:
        role = TAKEOVER if after.role is Role.TAKING else HANDOVER
        now_ms = self._now_ms()
        last = self._last
        again = last is not None and last.outcome == Role.ERROR and now_ms - self._ended_ms <= RESUME_MS_MAX
        if last is not None and again and role == last.role == TAKEOVER:
            self._passage = replace(
                last, attempts=last.attempts + 1, duration_ms=None, outcome=RUNNING, error=None, phases=()
            )
        else:
            self._passage = Passage(self._next, role, _cut(after.cause), int(self._wall_s() * 1000))
            self._next += 1
            self._began_ms = now_ms
        self._keep(self._passage)

    def _phase_ended(self, before: State, event: Event, after: State) -> None:
        if self._passage is None or self._phase is None or after.phase is self._phase:
            return  # also a phase that is tried again: fencing, while the other controller is alive
        ok, detail = _ending(before, event, after)
        lasted_ms = self._now_ms() - self._phase_began_ms
        done = PhaseRecord(self._phase.value, lasted_ms, "ok" if ok else "failed", _cut(detail))
        self._phase = None
        self._change(phases=(*self._passage.phases[:-1], done))

    def _maybe_end(self, before: State, after: State) -> None:
        """The engine rests; or it rested within this very step, and is on its way again."""
        if self._passage is None:
            return
        role = after.role
        if role in _MOVING:
            if role is before.role or (role is Role.YIELDING and after.giving_up):
                return
            role = Role.MASTER if before.role is Role.TAKING else Role.BACKUP
        failed = role is not _WANTED[self._passage.role]
        self._ended_ms = self._now_ms()
        self._change(
            duration_ms=self._ended_ms - self._began_ms,
            outcome=role.value,
            error=_cut(after.error or after.cause) if failed else None,
        )
        self._last, self._passage, self._phase = self._passage, None, None

    def _change(self, **members: object) -> None:
        if self._passage is not None:
            self._passage = replace(self._passage, **members)  # type: ignore[arg-type]  # by name, typed where called
            self._keep(self._passage)


def interrupted(passage: Passage) -> Passage:
    """What is left to say of a passage whose end nobody saw."""
    phases = tuple(
        replace(phase, outcome="failed", detail="interrupted") if phase.outcome == "running" else phase
        for phase in passage.phases
    )
    where = f" during {phases[-1].phase}" if phases else ""
    error = f"The controller or its daemon stopped{where}; nobody saw the end."
    return replace(passage, outcome=INTERRUPTED, error=error, phases=phases)


def _ending(before: State, event: Event, after: State) -> tuple[bool, str]:
    """How the phase that `event` ended went: (ok, detail)."""
    if isinstance(event, Done) and event.op == before.op:
        return event.ok, event.detail
    if isinstance(event, Tick) and before.deadline_ms is not None:
        return False, f"{before.phase} took too long"
    return False, before.error or after.cause  # it was waiting to try again


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_CHARACTERS_MAX else text[: TEXT_CHARACTERS_MAX - 1] + "…"
