"""The speaker's state machine in virtual time: RFC 9568 section 6, with nopreempt, FAULT and STOP."""

from dataclasses import dataclass, field

import pytest

from middlewared.lab.vrrp import (
    Advert,
    Configured,
    DropAddresses,
    Event,
    LinkChanged,
    Participate,
    Router,
    SendAdvert,
    State,
    TakeAddresses,
    Tick,
    step,
)
from middlewared.ports import Vrrp

ADVERT_MS = 100
A = Router(router_id=1, priority=254, advert_ms=ADVERT_MS, address=1)
B = Router(router_id=1, priority=253, advert_ms=ADVERT_MS, address=2)


def joined(router: Router, now_ms: float = 0) -> State:
    state, _ = step(State(router), Participate(True), now_ms)
    return state


def master(router: Router, now_ms: float = 0) -> State:
    state = joined(router, now_ms - router.down_ms(ADVERT_MS))
    state, _ = step(state, Tick(), now_ms)
    assert state.phase is Vrrp.MASTER
    return state


def advert_of(router: Router, priority: int | None = None) -> Advert:
    return Advert(router.priority if priority is None else priority, router.advert_ms, router.address)


@dataclass
class Wire:
    """Two routers and the wire between them, in virtual time."""

    states: dict[str, State]
    now_ms: float = 0
    dead: set[str] = field(default_factory=set)
    cut: bool = False
    masters: list[tuple[float, str]] = field(default_factory=list)

    def feed(self, name: str, event: Event) -> None:
        before = self.states[name].phase
        self.states[name], actions = step(self.states[name], event, self.now_ms)
        if self.states[name].phase is Vrrp.MASTER and before is not Vrrp.MASTER:
            self.masters.append((self.now_ms, name))
        for action in actions:
            if isinstance(action, SendAdvert) and not self.cut:
                for other in self.states.keys() - {name} - self.dead:
                    self.feed(other, advert_of(self.states[name].router, action.priority))

    def run(self, until_ms: float) -> None:
        while True:
            due = [
                (state.due_at_ms, name)
                for name, state in self.states.items()
                if name not in self.dead and state.due_at_ms is not None
            ]
            if not due or min(due)[0] > until_ms:
                self.now_ms = until_ms
                return
            self.now_ms, name = min(due)
            self.feed(name, Tick())

    @property
    def phases(self) -> dict[str, Vrrp]:
        return {name: state.phase for name, state in self.states.items()}


def pair() -> Wire:
    """A is MASTER, B stands by."""
    wire = Wire({"a": joined(A), "b": State(B)})
    wire.run(1000)
    wire.feed("b", Participate(True))
    wire.run(2000)
    assert wire.phases == {"a": Vrrp.MASTER, "b": Vrrp.BACKUP}
    return wire


@pytest.mark.parametrize("phase_ms", [0, 1, 33, 50, 99])
def test_a_dead_master_is_replaced_after_three_adverts_and_the_skew(phase_ms: int) -> None:
    wire = pair()
    wire.run(2000 + phase_ms)
    wire.dead.add("a")
    died_ms = wire.now_ms
    wire.run(4000)
    took_over_ms, who = wire.masters[-1]
    assert who == "b"
    skew_ms = (256 - 253) / 256 * ADVERT_MS
    assert 2 * ADVERT_MS + skew_ms <= took_over_ms - died_ms <= 3 * ADVERT_MS + skew_ms


def test_the_highest_priority_is_first_when_nobody_leads() -> None:
    wire = Wire({"a": joined(A), "b": joined(B)})
    wire.run(1000)
    assert wire.phases == {"a": Vrrp.MASTER, "b": Vrrp.BACKUP}
    assert [who for _, who in wire.masters] == ["a"]


def test_a_backup_of_higher_priority_does_not_preempt() -> None:
    wire = Wire({"b": joined(B), "a": State(A)})
    wire.run(1000)
    wire.feed("a", Participate(True))
    wire.run(5000)
    assert wire.phases == {"b": Vrrp.MASTER, "a": Vrrp.BACKUP}


def test_priority_zero_leaves_only_the_skew_to_wait() -> None:
    wire = pair()
    left_ms = wire.now_ms
    wire.feed("a", Participate(False))
    assert wire.states["a"].phase is Vrrp.STOP
    wire.run(4000)
    took_over_ms, who = wire.masters[-1]
    assert who == "b"
    assert took_over_ms - left_ms == pytest.approx(B.skew_ms(ADVERT_MS))


def test_a_master_that_leaves_says_so_before_it_drops_its_addresses() -> None:
    _, actions = step(master(A), Participate(False), 1)
    assert actions == (SendAdvert(0), DropAddresses())


def test_a_new_master_advertises_and_takes_the_addresses() -> None:
    state = joined(B)
    assert state.due_at_ms is not None
    early, actions = step(state, Tick(), state.due_at_ms - 0.001)
    assert (early, actions) == (state, ())
    state, actions = step(state, Tick(), state.due_at_ms)
    assert state.phase is Vrrp.MASTER
    assert actions == (SendAdvert(253), TakeAddresses())


def test_a_lost_link_is_a_fault_at_once_and_nothing_is_sent_over_it() -> None:
    state, actions = step(master(A, 1000), LinkChanged(False), 1001)
    assert (state.phase, state.due_at_ms) == (Vrrp.FAULT, None)
    assert actions == (DropAddresses(),)


def test_after_a_fault_the_router_begins_as_backup() -> None:
    state, _ = step(master(A, 1000), LinkChanged(False), 1001)
    state, actions = step(state, LinkChanged(True), 2000)
    assert (state.phase, actions) == (Vrrp.BACKUP, ())
    assert state.due_at_ms == pytest.approx(2000 + A.down_ms(ADVERT_MS))


def test_a_router_that_does_not_take_part_ignores_link_and_adverts() -> None:
    state = State(A)
    for event in (LinkChanged(False), LinkChanged(True), advert_of(B), Tick()):
        state, actions = step(state, event, 10)
        assert (state.phase, actions) == (Vrrp.STOP, ())


def test_joining_with_the_link_down_is_a_fault() -> None:
    state, _ = step(State(A, link_up=False), Participate(True), 0)
    assert state.phase is Vrrp.FAULT


def test_of_two_masters_the_lower_priority_gives_way() -> None:
    wire = pair()
    wire.cut = True
    wire.run(3000)
    assert wire.phases == {"a": Vrrp.MASTER, "b": Vrrp.MASTER}
    wire.cut = False
    wire.run(4000)
    assert wire.phases == {"a": Vrrp.MASTER, "b": Vrrp.BACKUP}


def test_of_two_masters_of_one_priority_the_lower_address_gives_way() -> None:
    low, high = Router(1, 200, ADVERT_MS, address=1), Router(1, 200, ADVERT_MS, address=2)
    gives_way, actions = step(master(low, 1000), advert_of(high), 1001)
    assert gives_way.phase is Vrrp.BACKUP
    assert actions == (DropAddresses(),)
    stays, _ = step(master(high, 1000), advert_of(low), 1001)
    assert stays.phase is Vrrp.MASTER


def test_a_master_answers_a_weaker_one_with_an_advert_and_announces_itself_again() -> None:
    """So does a frozen MASTER that wakes up: it takes the addresses back until it gives way or is reset."""
    state, actions = step(master(A, 1000), advert_of(B), 60_000)
    assert state.phase is Vrrp.MASTER
    assert actions == (SendAdvert(254), TakeAddresses())


def test_a_master_answers_one_that_leaves_with_an_advert() -> None:
    _, actions = step(master(A, 1000), advert_of(B, priority=0), 1001)
    assert actions == (SendAdvert(254),)


def test_the_backup_waits_by_the_masters_interval_not_its_own() -> None:
    state, _ = step(joined(B), Advert(priority=254, advert_ms=1000, address=1), 0)
    assert state.due_at_ms == pytest.approx(B.down_ms(1000))


def test_new_parameters_keep_the_state() -> None:
    lower = Router(router_id=1, priority=10, advert_ms=50, address=1)
    before = master(A, 1000)
    state, actions = step(before, Configured(lower), 1001)
    assert (state.phase, state.due_at_ms, state.router) == (Vrrp.MASTER, before.due_at_ms, lower)
    assert actions == ()
