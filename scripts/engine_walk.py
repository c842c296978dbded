"""Walks the failover engine: breadth first from State() over an alphabet of events, until nothing new is found.

A state is brought down to what the engine's decisions depend on: numbers of operations and requests to one, sentences
to none, and each of its times to "still to come" or "over". So the walk is finite, and covers every order of events and
every race between an event and a time that runs out. Used by engine_docs.py (the reference) and by the unit tests.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, combinations

from middlewared.plugins.failover.actions import Action, Reset
from middlewared.plugins.failover.engine import step
from middlewared.plugins.failover.events import (
    Asked,
    Configured,
    Discovered,
    Done,
    Elected,
    Event,
    FenceLost,
    PeerChanged,
    PoolsChanged,
    Tick,
    Wish,
)
from middlewared.plugins.failover.state import Config, Election, Lost, PeerView, Phase, Role, State
from middlewared.ports import FenceCode

NOW_MS = 10**9  # the walk stands still in time: what is over lies before, what is to come after
FAR_MS = 10**8  # longer than any limit
OP, LATE_OP = 1_000, 7  # the operation under way, and one of before
REQUEST, NEXT_REQUEST = 1, 2  # the operator who waits, and another one who asks

NO_PAIR = Config(available=False, enabled=True, designated=False)
ALONE = replace(NO_PAIR, designated=True)
PAIR = Config(available=True, enabled=True, designated=False)
PATIENT_PAIR = replace(PAIR, timeout_ms=5_000)
DISABLED = replace(PAIR, enabled=False)
DISABLED_DESIGNATED = replace(DISABLED, designated=True)

CONFIGS = (NO_PAIR, ALONE, PAIR, PATIENT_PAIR, DISABLED, DISABLED_DESIGNATED)
ELECTIONS = (
    Election(),
    Election(elected=True),
    Election(elected=False, lost=Lost.LINK),
    Election(elected=False, lost=Lost.RIVAL),
)
PEERS = (
    None,
    PeerView(master=False, could_lead=False),
    PeerView(master=False, could_lead=True),
    PeerView(master=True, could_lead=True),
    PeerView(master=True, could_lead=True, outvoted=True),
)
ANYTIME: tuple[Event, ...] = (
    *map(Configured, CONFIGS),
    *map(Elected, ELECTIONS),
    *map(PeerChanged, PEERS),
    *(PoolsChanged(suspended) for suspended in (False, True)),
    PoolsChanged(suspended=False, late=True),
    FenceLost(),
    *(Asked(NEXT_REQUEST, wish, "an operator") for wish in Wish),
    Tick(),
    Done(LATE_OP, ok=True),
    Done(LATE_OP, ok=False, detail="late"),
)
DISCOVERIES = tuple(
    Discovered(held=held, imported=imported, complete=complete, open=is_open)
    for held in (False, True)
    for imported, complete in ((False, False), (True, False), (True, True))
    for is_open in (False, True)
)
_FENCING_CODES = (FenceCode.OK, FenceCode.PEER_ALIVE, FenceCode.TOO_MANY_REFUSED)

_TIMES = ("deadline_ms", "retry_at_ms")  # that may run out in any state


@dataclass(frozen=True, slots=True)
class Transition:
    """One step. `source` is the state as it was found, `before` the same after the times in `due` had run out."""

    source: State
    due: tuple[str, ...]
    before: State
    event: Event
    after: State
    actions: tuple[Action, ...]

    @property
    def reset(self) -> bool:
        return any(isinstance(action, Reset) for action in self.actions)

    def __str__(self) -> str:
        late = f" after {', '.join(self.due)} ran out" if self.due else ""
        return f"{place(self.before)} -- {self.event}{late} --> {place(self.after)} {list(self.actions)}"


@dataclass(slots=True)
class Walk:
    """`transitions` may be gone through once; `path_to` then tells how a state was reached."""

    found: dict[State, Transition | None] = field(default_factory=dict)

    def transitions(self) -> Iterator[Transition]:
        start = canonical(State())
        self.found[start] = None
        waiting = deque([start])
        while waiting:
            source = waiting.popleft()
            for transition in _steps_from(source):
                yield transition
                if transition.reset:
                    continue  # the machine is gone
                state = canonical(transition.after)
                if state not in self.found:
                    self.found[state] = transition
                    waiting.append(state)

    def path_to(self, last: Transition) -> list[Transition]:
        """The shortest way from State() to this transition, itself included."""
        path = [last]
        while (previous := self.found[path[0].source]) is not None:
            path.insert(0, previous)
        return path


def place(state: State) -> str:
    return f"{state.role} {state.phase}" if state.phase else str(state.role)


def canonical(state: State) -> State:
    """What the engine's decisions depend on, and nothing else."""
    lost = state.lost_since_ms
    if lost is not None:  # only a MASTER counts the time since; whoever becomes one begins anew
        lost = NOW_MS if state.role is not Role.MASTER or lost == NOW_MS else NOW_MS - FAR_MS
    fencing = state.role is Role.TAKING and state.phase in (Phase.ASKING, Phase.FENCING)
    return replace(
        state,
        op=OP,
        forced_until_ms=_coming_or_over(state.forced_until_ms) if fencing else state.forced_until_ms and NOW_MS,
        deadline_ms=_coming_or_over(state.deadline_ms),
        retry_at_ms=_coming_or_over(state.retry_at_ms),
        lost_since_ms=lost,
        cause="",
        error="",
        request=None if state.request is None else REQUEST,
    )


def _coming_or_over(at_ms: int | None) -> int | None:
    if at_ms is None:
        return None
    return NOW_MS if at_ms <= NOW_MS else NOW_MS + FAR_MS


def _steps_from(source: State) -> Iterator[Transition]:
    for due in _subsets(_running(source)):
        before = let_run_out(source, due)
        for event in _events(source):
            if "deadline_ms" in due and not isinstance(event, Tick | Done):
                continue  # nothing else looks at a deadline: the same as the event, then the Tick
            after, actions = step(before, event, NOW_MS)
            yield Transition(source, due, before, event, after, actions)


def _events(state: State) -> Iterator[Event]:
    yield from ANYTIME
    yield from DISCOVERIES if state.role is Role.BOOTING else DISCOVERIES[:1]
    if state.phase is None:
        return
    yield Done(OP, ok=True)
    for code in _FENCING_CODES if state.phase is Phase.FENCING else (FenceCode.OK,):
        yield Done(OP, ok=False, detail="a sentence", code=code)


def _running(state: State) -> tuple[str, ...]:
    """The times that may run out next."""
    running = [name for name in _TIMES if (getattr(state, name) or 0) > NOW_MS]
    waiting = state.role is Role.TAKING and state.phase is Phase.FENCING and state.deadline_ms is None
    if waiting and (state.forced_until_ms or 0) > NOW_MS:  # nothing looks at it before
        running.append("forced_until_ms")
    if state.role is Role.MASTER and state.lost_since_ms == NOW_MS:
        running.append("lost_since_ms")
    return tuple(running)


def let_run_out(state: State, due: tuple[str, ...]) -> State:
    if not due:
        return state
    return replace(
        state,
        deadline_ms=NOW_MS if "deadline_ms" in due else state.deadline_ms,
        retry_at_ms=NOW_MS if "retry_at_ms" in due else state.retry_at_ms,
        forced_until_ms=NOW_MS if "forced_until_ms" in due else state.forced_until_ms,
        lost_since_ms=NOW_MS - FAR_MS if "lost_since_ms" in due else state.lost_since_ms,
    )


def _subsets(names: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    return chain.from_iterable(combinations(names, size) for size in range(len(names) + 1))
