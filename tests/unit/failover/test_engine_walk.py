"""Every state that the engine can reach, by the walk that also makes docs/engine.md: what must hold in all of them."""

from dataclasses import dataclass
from typing import get_args

import pytest
from engine_properties import KNOWN, PROPERTIES, Judge
from engine_walk import ANYTIME, DISCOVERIES, OP, Transition, Walk

from middlewared.plugins.failover.events import Done, Event
from middlewared.plugins.failover.state import Phase, Role, State


@dataclass(frozen=True)
class Seen:
    judge: Judge
    states: frozenset[State]
    resets: frozenset[Phase | None]
    shortest_to_master: tuple[Transition, ...]


@pytest.fixture(scope="module")
def seen() -> Seen:
    judge = Judge(Walk())
    resets: set[Phase | None] = set()
    to_master: Transition | None = None
    for transition in judge.transitions():
        if transition.reset:
            resets.add(transition.before.phase)
        if to_master is None and transition.before.phase is Phase.OPENING and transition.after.role is Role.MASTER:
            to_master = transition
    assert to_master is not None
    path = tuple(judge.walk.path_to(to_master))
    return Seen(judge, frozenset(judge.walk.found), frozenset(resets), path)


@pytest.mark.parametrize("promise", [promise.__name__ for promise in PROPERTIES])
def test_what_must_always_hold(seen: Seen, promise: str) -> None:
    assert promise not in seen.judge.broken, f"\n{seen.judge.broken[promise]}"


def test_no_breach_is_known_but_those_that_are_described(seen: Seen) -> None:
    assert seen.judge.known <= set(KNOWN)


def test_every_kind_of_event_is_in_the_alphabet() -> None:
    told = {type(event) for event in (*ANYTIME, *DISCOVERIES, Done(OP, ok=True))}
    assert told == set(get_args(Event))


def test_the_walk_comes_everywhere(seen: Seen) -> None:
    assert {state.role for state in seen.states} == set(Role)
    assert {state.phase for state in seen.states} == {None, *Phase}


def test_resets_come_from_where_reservations_are_held(seen: Seen) -> None:
    assert seen.resets == {None, *Phase} - {Phase.ASKING, Phase.FENCING}


def test_the_way_to_a_state_is_told_step_by_step(seen: Seen) -> None:
    path = seen.shortest_to_master
    assert path[0].before.role is Role.BOOTING
    phases = [transition.after.phase for transition in path]
    assert phases[-4:] == [Phase.IMPORTING, Phase.STARTING, Phase.OPENING, None]


def test_a_breach_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody_opens(transition: Transition) -> bool:
        """A promise that does not hold."""
        return transition.after.phase is not Phase.OPENING

    monkeypatch.setattr("engine_properties.PROPERTIES", (nobody_opens,))
    judge = Judge(Walk())
    for _ in judge.transitions():
        if judge.broken:
            break
    assert "TAKING OPENING" in judge.broken["nobody_opens"].splitlines()[-1]
