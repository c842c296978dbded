"""What holds in every step of the failover engine that the walk finds: a function a promise, its docstring the words.

`make docs` refuses to describe an engine that breaks one of them, and says how; so does the unit test.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import TypeVar

from engine_walk import LATE_OP, NOW_MS, OP, Transition, Walk, canonical, let_run_out

from middlewared.plugins.failover.actions import Action, Answer, CloseTraffic, Participate, Perform, Reset
from middlewared.plugins.failover.engine import next_wake_ms, step
from middlewared.plugins.failover.events import Asked, Discovered, Done, FenceLost, PoolsChanged, Tick, Wish
from middlewared.plugins.failover.state import Phase, Role, State

Property = Callable[[Transition], bool]

WAY_UP = (Phase.ASKING, Phase.FENCING, Phase.IMPORTING, Phase.STARTING, Phase.OPENING)
WAY_DOWN = (Phase.CLOSING, Phase.STOPPING, Phase.EXPORTING, Phase.VERIFYING, Phase.RELEASING)
_ENTRANCES = (Phase.ASKING, Phase.FENCING, Phase.IMPORTING, Phase.CLOSING)
_WITHOUT_FENCE = (Phase.ASKING, Phase.FENCING)
_TICKS_MAX = 2 * (len(WAY_UP) + len(WAY_DOWN))


A = TypeVar("A", bound=Action)


def _said(transition: Transition, kind: type[A]) -> list[A]:
    return [action for action in transition.actions if isinstance(action, kind)]


def _succeeded(transition: Transition, phase: Phase) -> bool:
    event = transition.event
    under_way = transition.before.phase is phase and transition.before.deadline_ms is not None
    return under_way and isinstance(event, Done) and event.ok and event.op == OP


def _late(transition: Transition) -> bool:
    """A MASTER without a pool hears of one."""
    event = transition.event
    return isinstance(event, PoolsChanged) and event.late and transition.before.role is Role.MASTER


# ------------------------------------------------------------------------------------------ the disks


def releases_only_what_is_verified(t: Transition) -> bool:
    """The reservations are released only directly after VERIFYING found that nothing is imported."""
    released = any(action.phase is Phase.RELEASING for action in _said(t, Perform))
    return not released or _succeeded(t, Phase.VERIFYING)


def holds_the_disks_while_it_uses_them(t: Transition) -> bool:
    """From IMPORTING on, as MASTER, and all the way down it counts as holding reservations; at rest it does not."""
    if t.reset:
        return True
    if t.after.role in (Role.BOOTING, Role.BACKUP, Role.ERROR):
        return not t.after.fenced
    return t.after.fenced is (t.after.phase not in _WITHOUT_FENCE)


def lost_reservations_reset(t: Transition) -> bool:
    """Whoever counts as holding reservations and hears that they are lost resets, unless it is releasing them."""
    if not isinstance(t.event, FenceLost):
        return True
    return t.reset is (t.before.fenced and t.before.phase is not Phase.RELEASING)


def takes_the_disks_only_when_entitled(t: Transition) -> bool:
    """Without an operator's word, only the elected controller takes the disks, or the designated one without a pair."""
    if not any(action.phase is Phase.FENCING and not action.forced for action in _said(t, Perform)):
        return True
    config, election = t.after.config, t.after.election
    if config is None:
        return False
    if not config.available:
        return config.designated
    return election.elected and (config.enabled or config.designated)


def force_is_the_operators(t: Transition) -> bool:
    """Force is used for FENCING alone, and only when an operator asked for it."""
    asked = isinstance(t.event, Asked) and t.event.wish is Wish.FORCE_MASTER
    return all(
        action.phase is Phase.FENCING and (t.before.forced or asked) for action in _said(t, Perform) if action.forced
    )


# ------------------------------------------------------------------------------------------ the order of things


def phases_follow_one_another(t: Transition) -> bool:
    """Each phase follows the one before it (OPENING only after STARTING); ways begin at their beginnings."""
    for action in _said(t, Perform):
        way = WAY_UP if action.phase in WAY_UP else WAY_DOWN
        index = way.index(action.phase)
        follows = index > 0 and t.before.phase is way[index - 1]
        again = action.phase is Phase.FENCING and t.before.phase is Phase.FENCING
        if not (follows or again or action.phase in _ENTRANCES):
            return False
        if action.phase is Phase.IMPORTING and not (
            _succeeded(t, Phase.FENCING)
            or _late(t)
            or (t.before.phase is None and t.before.role in (Role.BOOTING, Role.TAKING))
        ):
            return False
    return True


def role_and_phase_agree(t: Transition) -> bool:
    """The phases of the way up belong to TAKING, those of the way down to YIELDING; other roles have none."""
    phase, role = t.after.phase, t.after.role
    if phase is None:  # both ways without a phase: found so at start, and the configuration is not known yet
        return t.reset or role not in (Role.TAKING, Role.YIELDING) or t.after.config is None
    return role is (Role.TAKING if phase in WAY_UP else Role.YIELDING)


def master_by_opening_or_discovery(t: Transition) -> bool:
    """A controller becomes MASTER by OPENING alone, or because a restarted daemon finds that it was."""
    if t.after.role is not Role.MASTER or t.before.role is Role.MASTER:
        return True
    found = isinstance(t.event, Discovered) and t.event.held and t.event.complete and t.event.open
    return found or _succeeded(t, Phase.OPENING)


def looks_before_it_acts(t: Transition) -> bool:
    """Nothing is done before the first look at the machine, and there is only one such look."""
    if t.before.role is Role.BOOTING:
        return isinstance(t.event, Discovered) or (t.after.role is Role.BOOTING and not _said(t, Perform))
    return not isinstance(t.event, Discovered) or bool(t.due) or not t.actions


def designated_master_stays(t: Transition) -> bool:
    """A MASTER gives way by itself only in a pair, and not if it is the designated one while failover is disabled."""
    config = t.after.config
    if t.before.role is not Role.MASTER or t.after.role in (Role.MASTER, Role.TAKING) or isinstance(t.event, Asked):
        return True
    return config is not None and config.available and (config.enabled or not config.designated)


def gives_up_towards_error(t: Transition) -> bool:
    """A failed takeover goes down to ERROR, every other way down to BACKUP."""
    if t.before.role is not Role.YIELDING or t.after.role is Role.YIELDING:
        return not t.after.giving_up or t.after.role is Role.YIELDING
    return (t.after.role is Role.ERROR) is t.before.giving_up


# ------------------------------------------------------------------------------------------ what is said


def reset_is_the_last_word(t: Transition) -> bool:
    """A Reset is said once, and nothing after it."""
    return not any(isinstance(action, Reset) for action in t.actions[:-1])


def one_operation_at_a_time(t: Transition) -> bool:
    """A step begins at most one operation, under a new number, and that is the phase it is in."""
    performed = _said(t, Perform)
    if not performed:
        return t.after.op == t.before.op
    return len(performed) == 1 and (performed[0].op, performed[0].phase) == (t.before.op + 1, t.after.phase)


def late_results_change_nothing(t: Transition) -> bool:
    """The result of an operation that is not under way changes nothing."""
    if not isinstance(t.event, Done) or t.event.op != LATE_OP:
        return True
    if t.due:  # whatever happens lets the engine see that a time has run out; no more than that
        seen = tuple(name for name in t.due if name != "deadline_ms")
        return step(let_run_out(t.source, seen), Tick(), NOW_MS)[1] == t.actions
    return t.after == t.before and not t.actions


def participation_is_said_on_change(t: Transition) -> bool:
    """Taking part in the election is said only when it changes."""
    said = [action.wanted for action in _said(t, Participate)]
    return said == ([] if t.after.participating is t.before.participating else [t.after.participating])


def leaders_take_part(t: Transition) -> bool:
    """TAKING and MASTER take part in the election, ERROR and a failed takeover's way down do not."""
    if t.after.config is None or t.reset:
        return True
    if t.after.role is Role.ERROR or t.after.giving_up:
        return t.after.participating is False
    return t.after.participating is True or t.after.role not in (Role.TAKING, Role.MASTER)


def traffic_is_kept_out_at_rest(t: Transition) -> bool:
    """Whoever starts as BACKUP, gives back what was left, has given all up or imports late, keeps traffic out first."""
    closed = isinstance(t.event, Discovered) and t.before.role is Role.BOOTING and not t.event.imported
    if isinstance(t.event, Discovered) and t.event.held and t.event.complete and t.event.open:
        closed = False
    closed = closed or (t.before.phase is Phase.RELEASING and t.after.phase is not Phase.RELEASING)
    closed = closed or (_late(t) and not t.reset)
    if t.before.phase is Phase.RELEASING and t.actions and isinstance(t.actions[0], Reset):
        return True
    return bool(_said(t, CloseTraffic)) is closed and (not closed or isinstance(t.actions[0], CloseTraffic))


# ------------------------------------------------------------------------------------------ the operator


def requests_are_answered(t: Transition) -> bool:
    """An operator's request is answered once: at once, or when the way that it began has ended."""
    before = set() if t.before.request is None else {t.before.request}
    asked = {t.event.request} if isinstance(t.event, Asked) else set()
    waits = set() if t.after.request is None else {t.after.request}
    answered = [action.request for action in _said(t, Answer)]
    return t.reset or sorted([*answered, *waits]) == sorted(before | asked)


def who_waits_is_on_a_way(t: Transition) -> bool:
    """An operator waits only while a phase is under way."""
    return t.after.request is None or t.after.phase is not None


# ------------------------------------------------------------------------------------------ time


def nothing_hangs(t: Transition) -> bool:
    """Every phase has a deadline or a time at which it is tried again."""
    return t.reset or t.after.phase is None or next_wake_ms(t.after) is not None


def nothing_spins(t: Transition) -> bool:
    """When the engine was woken for a time, the next time lies ahead."""
    if not isinstance(t.event, Tick) or t.reset or t.after.config is None:
        return True
    wake_ms = next_wake_ms(t.after)
    return wake_ms is None or wake_ms > NOW_MS


def silence_comes_to_an_end(t: Transition) -> bool:
    """If nothing ever answers again, deadlines alone lead to rest or to a reset; a request is answered on the way."""
    if t.reset or t.after.config is None or not _said(t, Perform):
        return True
    return _ends_by_ticks(canonical(t.after))


@cache
def _ends_by_ticks(state: State) -> bool:
    now_ms = NOW_MS
    for _ in range(_TICKS_MAX):
        wake_ms = next_wake_ms(state)
        if state.phase is None or wake_ms is None:
            return state.phase is None
        now_ms = max(now_ms, wake_ms)
        waiting = state.request
        state, actions = step(state, Tick(), now_ms)
        if any(isinstance(action, Reset) for action in actions):
            return True
        answered = any(isinstance(action, Answer) and action.request == waiting for action in actions)
        if waiting is not None and state.request != waiting and not answered:
            return False
    return False


PROPERTIES: tuple[Property, ...] = (
    releases_only_what_is_verified,
    holds_the_disks_while_it_uses_them,
    lost_reservations_reset,
    takes_the_disks_only_when_entitled,
    force_is_the_operators,
    phases_follow_one_another,
    role_and_phase_agree,
    master_by_opening_or_discovery,
    looks_before_it_acts,
    designated_master_stays,
    gives_up_towards_error,
    reset_is_the_last_word,
    one_operation_at_a_time,
    late_results_change_nothing,
    participation_is_said_on_change,
    leaders_take_part,
    traffic_is_kept_out_at_rest,
    requests_are_answered,
    who_waits_is_on_a_way,
    nothing_hangs,
    nothing_spins,
    silence_comes_to_an_end,
)


# Promise -> which of its breaches are known, and their description.
KNOWN: dict[Property, tuple[Property, str]] = {}


@dataclass(slots=True)
class Judge:
    """Goes along with a walk and remembers the first breach of each promise."""

    walk: Walk
    broken: dict[str, str] = field(default_factory=dict)  # name -> the shortest way to the breach
    known: set[Property] = field(default_factory=set)  # promises with a breach that is KNOWN

    def transitions(self) -> Iterator[Transition]:
        for transition in self.walk.transitions():
            for holds in PROPERTIES:
                if not holds(transition):
                    self._breach(holds, transition)
            yield transition

    def _breach(self, promise: Property, transition: Transition) -> None:
        if promise in KNOWN and KNOWN[promise][0](transition):
            self.known.add(promise)
        elif promise.__name__ not in self.broken:
            self.broken[promise.__name__] = "\n".join(map(str, self.walk.path_to(transition)))
