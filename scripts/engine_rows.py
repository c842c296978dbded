"""Collapses the engine's walk to the rows of a table: in which place, what happens, where it leads, what is done.

Steps that differ only in what nobody asks about become one row. Where the same event leads to different places, the row
says what decides, in the words of CONDITIONS; an outcome that they cannot tell apart is an error, so nothing is hidden.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from engine_walk import LATE_OP, NOW_MS, Transition

from middlewared.invariants import invariant
from middlewared.plugins.failover import engine
from middlewared.plugins.failover.actions import Action, Answer, CloseTraffic, Participate, Perform, Reset
from middlewared.plugins.failover.events import Asked, Discovered, Done, FenceLost, Tick
from middlewared.plugins.failover.state import Phase, Role, State
from middlewared.ports import FenceCode

ROLE_WORDS = {
    Role.BOOTING: "It has not yet found out where things stand.",
    Role.BACKUP: "It rests. After giving the role up it stands aside for a while, so that the other can take over.",
    Role.TAKING: "It is becoming MASTER.",
    Role.MASTER: "It has the pools and serves. When it loses the election, it gives way after the grace that stands "
    "below or the administrator's timeout; and when a pool is suspended, it resets, so that the other can take over. "
    "It stays if the other could not lead, without a pair, and if it is the "
    "designated one and failover is disabled.",
    Role.YIELDING: "It gives everything up: because it was told to or lost the election, or because a takeover failed.",
    Role.ERROR: "A takeover failed. It stays out of the election and tries again after a while.",
}
PHASE_WORDS = {
    Phase.ASKING: "asks the MASTER to hand over",
    Phase.FENCING: "takes the reservations on the disks",
    Phase.IMPORTING: "imports the pools",
    Phase.STARTING: "starts the services",
    Phase.OPENING: "lets traffic to the virtual addresses in",
    Phase.CLOSING: "keeps traffic to the virtual addresses out",
    Phase.STOPPING: "stops the services",
    Phase.EXPORTING: "exports the pools",
    Phase.VERIFYING: "looks whether anything is still imported",
    Phase.RELEASING: "releases the reservations",
}
_FENCING_WORDS = {
    FenceCode.OK: "no answer comes",
    FenceCode.PEER_ALIVE: "the other controller is alive on the disks",
    FenceCode.TOO_MANY_REFUSED: "refused",
}
_OPERATOR, _TOO_LONG, _OTHERWISE = "an operator says", "takes longer than", "otherwise"
_PARTICIPATION = "it may lead now, or may not any more"
_RETRY_WORDS = {
    Role.TAKING: "waits, asks again after {} ms",
    Role.BACKUP: "stands aside for {} ms",
    Role.ERROR: "tries again after {} ms",
}


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a state stands in the table. `waiting`: for its retry time."""

    role: Role
    phase: Phase | None
    waiting: bool = False

    @property
    def name(self) -> str:
        if self.waiting and self.role is Role.BACKUP:
            return "standing aside"
        name = self.phase or self.role
        return f"{name}, waiting" if self.waiting and self.role is Role.TAKING else str(name)

    @property
    def full_name(self) -> str:
        return self.name if self.name == self.role else f"{self.role}: {self.name}"

    @property
    def box(self) -> str:
        """Its name in the diagram."""
        return f"{self.phase or self.role}{'_AGAIN' if self.waiting and self.phase else ''}"


def place_of(state: State) -> Place:
    waiting = state.retry_at_ms is not None and state.role in (Role.BACKUP, Role.TAKING)
    return Place(state.role, state.phase, waiting)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where a step leads and what it does for certain; None is a reset."""

    target: Place | None
    does: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Row:
    sources: tuple[Place, ...]  # several only where all stay, or all are reset
    labels: tuple[str, ...]
    condition: str
    target: Place | None
    stays: bool
    does: str

    @property
    def source(self) -> Place:
        return self.sources[0]

    @property
    def source_name(self) -> str:
        return "; ".join(source.name for source in self.sources)

    @property
    def what(self) -> str:
        labels = "; or ".join(self.labels).replace(f"; or {_OPERATOR}", " or")
        joint = "" if not self.condition else ", " if self.condition == _OTHERWISE else ", and "
        return f"{labels}{joint}{self.condition}"

    @property
    def short(self) -> str:
        """For the diagram: to take too long is to fail, and only success is told apart by what decides."""
        labels = [label.removeprefix(f"{_OPERATOR} ") for label in self.labels if not label.startswith(_TOO_LONG)]
        told = "done" in labels and self.condition not in ("", _OTHERWISE)
        return " or ".join(labels) + (f", {self.condition}" if told else "")

    @property
    def failing(self) -> bool:
        return "fails" in self.labels

    @property
    def target_name(self) -> str:
        if self.target is None:
            return "reset"
        return "stays" if self.stays else self.target.full_name


# ------------------------------------------------------------------------------------------ what decides


def _taken_over(t: Transition) -> bool:
    peer, config = t.after.peer, t.after.config
    pair = config is not None and config.available
    return pair and peer is not None and peer.master and not t.after.election.elected


def _gives_way_at_once(t: Transition) -> bool:
    return t.after.election.lost is not None and engine._grace_ms(t.after) == 0


def _outvoted(t: Transition) -> bool:
    return t.after.election.elected and t.after.peer is not None and t.after.peer.outvoted


def _stuck(t: Transition) -> bool:
    return t.after.suspended and engine._replaceable(t.after)


# What an outcome may depend on beside the event: (words when so, words when not, test). All look at what is known after
# the event; the engine's own functions are asked where it has one.
Test = Callable[[Transition], bool]
CONDITIONS: tuple[tuple[str, str, Test], ...] = (
    ("a takeover had failed", "no takeover had failed", lambda t: t.before.giving_up),
    ("the other leads", "the other does not lead", lambda t: t.after.peer is not None and t.after.peer.master),
    ("the role falls to it", "the role does not fall to it", lambda t: engine._entitled(t.after)),
    ("the other has taken over", "the other has not taken over", _taken_over),
    ("an operator forces it", "nobody forces it", lambda t: t.before.forced),
    ("the other has its links back", "the other has not its links back", _outvoted),
    ("a pool is suspended, and the other could lead", "no pool is suspended", _stuck),
    ("its links are down, the other could lead, and the timeout is 0", _OTHERWISE, _gives_way_at_once),
)


@dataclass(slots=True)
class _Cases:
    """All outcomes of one event in one place, by what CONDITIONS say; what was done in some of the cases only."""

    outcomes: dict[tuple[bool, ...], set[Outcome]] = field(default_factory=dict)
    sometimes: dict[Outcome, set[str]] = field(default_factory=dict)


class Table:
    """Takes transitions in, gives rows out."""

    def __init__(self) -> None:
        self._cases: dict[tuple[Place, str], _Cases] = {}

    def add(self, t: Transition) -> None:
        if len(t.due) > 1 or (t.due and not isinstance(t.event, Tick)):
            return  # races: checked by the walk's promises, of no news to a reader
        if t.before.config is None or NOW_MS in (t.source.deadline_ms, t.source.retry_at_ms):
            return  # the configuration is read before anything else; and what such a race leaves is a race, too
        if isinstance(t.event, Done) and t.event.op == LATE_OP:
            return
        source = place_of(t.before)
        always, sometimes = _words(t)
        target = None if t.reset else place_of(t.after)
        moved = target != source or bool(always) or t.after.op != t.before.op
        label = _label(t, moved=moved)
        if not moved and not (sometimes and label):
            return
        cases = self._cases.setdefault((source, label), _Cases())
        outcome = Outcome(target, always)
        cases.outcomes.setdefault(tuple(test(t) for _, _, test in CONDITIONS), set()).add(outcome)
        cases.sometimes.setdefault(outcome, set()).update(sometimes)

    def rows(self) -> list[Row]:
        """In the order of the ways; events with the same outcome share a row."""
        merged: dict[tuple[Place, str, Outcome, str, str], list[str]] = {}
        for (source, label), cases in sorted(self._cases.items(), key=lambda item: _order(item[0][0])):
            for outcome, condition in _conditions(source, label, cases).items():
                does = ", ".join([*outcome.does, *_sometimes(cases.sometimes[outcome])])
                merged.setdefault((source, condition, outcome, does, _kind(label)), []).append(label)
        rows: dict[tuple[object, ...], Row] = {}
        for (source, condition, outcome, does, kind), labels in merged.items():
            stays, what = outcome.target == source, tuple(labels)
            alike = (stays or outcome.target is None) and kind != "work"
            row = Row((source,), what, condition, outcome.target, stays, does)
            key = (source.role, what, condition, stays, does) if alike else (row,)
            rows[key] = replace(rows[key], sources=(*rows[key].sources, source)) if key in rows else row
        return list(rows.values())


def _kind(label: str) -> str:
    """Only what is of a kind shares a row."""
    if label.startswith(_OPERATOR):
        return "operator"
    is_work = label in ("done", "fails", *_FENCING_WORDS.values()) or label.startswith(_TOO_LONG)
    return "work" if is_work else "news"


def _sometimes(words: set[str]) -> list[str]:
    election = " or ".join(sorted(word for word in words if not word.startswith("[")))
    return [*([election] if election else []), *sorted(word for word in words if word.startswith("["))]


def _order(place: Place) -> tuple[int, int, bool]:
    return [*Role].index(place.role), [*Phase].index(place.phase) if place.phase else -1, place.waiting


def _conditions(source: Place, label: str, cases: _Cases) -> dict[Outcome, str]:
    """What decides between the outcomes of one event: a small tree of CONDITIONS, as words for each outcome."""
    leaves: dict[Outcome, list[str]] = {}

    def grow(vectors: dict[tuple[bool, ...], set[Outcome]], said: tuple[str, ...]) -> None:
        outcomes = set().union(*vectors.values())
        if len(outcomes) == 1:
            leaves.setdefault(outcomes.pop(), []).append(", ".join(said))
            return
        splits = [
            (sum(len(set().union(*half.values())) for half in halves), index, halves)
            for index in range(len(CONDITIONS))
            if all(halves := _split(vectors, index))
        ]
        best = min(splits, key=lambda split: split[:2], default=None)
        invariant(best is not None, f"CONDITIONS do not tell apart {outcomes} in {source} when {label}")
        if best is not None:
            _, index, (yes, no) = best
            grow(yes, (*said, CONDITIONS[index][0]))
            grow(no, (*said, CONDITIONS[index][1]))

    grow(cases.outcomes, ())
    return {outcome: "; or ".join(words) for outcome, words in leaves.items()}


Vectors = dict[tuple[bool, ...], set[Outcome]]


def _split(vectors: Vectors, index: int) -> tuple[Vectors, Vectors]:
    yes = {vector: found for vector, found in vectors.items() if vector[index]}
    return yes, {vector: found for vector, found in vectors.items() if not vector[index]}


# ------------------------------------------------------------------------------------------ words


def _label(t: Transition, *, moved: bool) -> str:
    """The event in words. News and time are told by what the engine makes of them: its own sentence, the cause."""
    match t.event:
        case Discovered():
            return _discovery(t.event)
        case Done():
            return "done" if t.event.ok else _failure(t)
        case FenceLost():
            return "the reservations are lost"
        case Asked():
            return f"{_OPERATOR} `{t.event.wish.lower()}`"
        case Tick() if "deadline_ms" in t.due:
            return f"{_TOO_LONG} {_limit_ms(t)} ms"
    if not moved:
        return _PARTICIPATION
    return t.after.cause or ("the pause is over" if isinstance(t.event, Tick) else "the other has taken over")


def _failure(t: Transition) -> str:
    fencing = t.before.phase is Phase.FENCING and isinstance(t.event, Done)
    return _FENCING_WORDS[t.event.code] if fencing and isinstance(t.event, Done) else "fails"


def _limit_ms(t: Transition) -> int:
    if t.before.phase is None:
        return 0
    state, _ = engine._enter(t.before, t.before.phase, NOW_MS)
    return (state.deadline_ms or NOW_MS) - NOW_MS


def _discovery(found: Discovered) -> str:
    if not found.held:
        return f"it finds {'pools imported' if found.imported else 'no pools imported'}, no reservations"
    if not found.imported:
        return "it finds reservations, no pools imported"
    if not found.complete:
        return "it finds reservations, some pools imported"
    return f"it finds reservations, all pools imported, traffic {'let in' if found.open else 'kept out'}"


def _words(t: Transition) -> tuple[tuple[str, ...], set[str]]:
    """What is done for certain, and what depends on whether it is news or an operator waits."""
    always: list[str] = []
    sometimes: set[str] = set()
    for action in t.actions:
        match action:
            case Participate(wanted):
                sometimes.add("takes part" if wanted else "stays out")
            case Answer(request) if request == t.before.request:
                sometimes.add("[done]" if action.changed else "[not done]")
            case _:
                always.append(_action(action))
    if t.after.retry_at_ms is not None and t.after.retry_at_ms != t.before.retry_at_ms:
        always.append(_RETRY_WORDS[t.after.role].format(t.after.retry_at_ms - NOW_MS))
    return tuple(always), sometimes


def _action(action: Action) -> str:
    match action:
        case Perform():
            return PHASE_WORDS[action.phase] + (", by force" if action.forced else "")
        case CloseTraffic():
            return "keeps traffic out at once"
        case Reset():
            return "resets the machine"
        case Answer():
            return "answers: refused" if action.refusal else "answers: nothing to do"
    return str(action)
