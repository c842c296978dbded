"""The engine alone: events in, actions out, in virtual time."""

from dataclasses import replace

import pytest

from middlewared.plugins.failover.actions import Action, Answer, CloseTraffic, Participate, Perform, Reset
from middlewared.plugins.failover.engine import next_wake_ms, step
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
from middlewared.plugins.failover.state import Config, Election, Limits, Lost, PeerView, Phase, Role, State
from middlewared.ports import FenceCode

PAIR = Config(available=True, enabled=True, designated=False)
ELECTED = Election(elected=True)
STANDING_BY = Election(elected=False, lost=Lost.RIVAL)
CUT_OFF = Election(elected=False, lost=Lost.LINK)
FIT = PeerView(master=False, could_lead=True)
LEADER = PeerView(master=True, could_lead=True)
WAY_UP = [Phase.FENCING, Phase.IMPORTING, Phase.STARTING, Phase.OPENING]
WAY_DOWN = [Phase.CLOSING, Phase.STOPPING, Phase.EXPORTING, Phase.VERIFYING, Phase.RELEASING]


class Engine:
    """Drives one engine by hand and remembers what it asked for."""

    def __init__(self, config: Config = PAIR) -> None:
        self.state = State(limits=Limits())
        self.now_ms = 1_000
        self.log: list[Action] = []
        self.tell(Configured(config))

    def tell(self, event: Event) -> list[Action]:
        self.state, actions = step(self.state, event, self.now_ms)
        self.log += actions
        return list(actions)

    def boot(self) -> "Engine":
        self.tell(Discovered(held=False, imported=False, complete=False, open=False))
        return self

    def succeed(self) -> list[Action]:
        return self.tell(Done(self.state.op, ok=True))

    def fail(self, detail: str = "broken", code: FenceCode = FenceCode.OK) -> list[Action]:
        return self.tell(Done(self.state.op, ok=False, detail=detail, code=code))

    def wait(self) -> list[Action]:
        wake_ms = next_wake_ms(self.state)
        assert wake_ms is not None
        self.now_ms = max(self.now_ms, wake_ms)
        return self.tell(Tick())

    def walk(self, phases: list[Phase]) -> None:
        for phase in phases:
            assert self.state.phase is phase
            self.succeed()


def master() -> Engine:
    engine = Engine().boot()
    engine.tell(Elected(ELECTED))
    engine.walk(WAY_UP)
    assert engine.state.role is Role.MASTER
    return engine


def phases(actions: list[Action]) -> list[Phase]:
    return [action.phase for action in actions if isinstance(action, Perform)]


def test_boot_as_backup_closes_traffic_and_joins_the_election() -> None:
    engine = Engine().boot()
    assert engine.state.role is Role.BACKUP
    assert engine.log == [CloseTraffic(), Participate(True)]


def test_nothing_is_decided_before_the_machine_was_looked_at() -> None:
    engine = Engine()
    engine.tell(Elected(ELECTED))
    assert engine.state.role is Role.BOOTING
    assert engine.log == []


def test_elected_backup_fences_then_imports_then_serves() -> None:
    engine = master()
    assert phases(engine.log) == WAY_UP


def test_restart_of_the_daemon_on_the_master_moves_nothing() -> None:
    engine = Engine()
    engine.tell(Elected(ELECTED))
    actions = engine.tell(Discovered(held=True, imported=True, complete=True, open=True))
    assert engine.state.role is Role.MASTER
    assert actions == [Participate(True)]


def test_restart_during_a_takeover_carries_on_with_the_import() -> None:
    engine = Engine()
    engine.tell(Discovered(held=True, imported=True, complete=False, open=False))
    assert engine.state.phase is Phase.IMPORTING
    engine.walk(WAY_UP[1:])
    assert engine.state.role is Role.MASTER


def test_pools_without_reservations_reset_the_machine() -> None:
    actions = Engine().tell(Discovered(held=False, imported=True, complete=True, open=True))
    assert [type(action) for action in actions] == [Reset]


def test_reservations_without_pools_are_given_back() -> None:
    engine = Engine()
    engine.tell(Discovered(held=True, imported=False, complete=False, open=False))
    engine.walk(WAY_DOWN)
    assert engine.state.role is Role.BACKUP


@pytest.mark.parametrize("phase", [None, Phase.IMPORTING, Phase.STARTING, Phase.OPENING])
def test_losing_the_fence_resets_in_every_phase_that_has_it(phase: Phase | None) -> None:
    engine = Engine().boot()
    engine.tell(Elected(ELECTED))
    while engine.state.phase is not phase:
        engine.succeed()
    assert [type(action) for action in engine.tell(FenceLost())] == [Reset]


def test_fence_given_back_on_purpose_is_not_lost() -> None:
    engine = master()
    engine.tell(PeerChanged(FIT))
    engine.tell(Asked(1, Wish.BECOME_PASSIVE, "test"))
    engine.walk(WAY_DOWN[:-1])
    assert engine.state.phase is Phase.RELEASING
    assert engine.tell(FenceLost()) == []


def test_a_peer_alive_on_the_disks_is_not_robbed_but_waited_for() -> None:
    engine = Engine().boot()
    engine.tell(Elected(ELECTED))
    assert engine.fail("alive", FenceCode.PEER_ALIVE) == []
    assert engine.state.role is Role.TAKING
    assert phases(engine.wait()) == [Phase.FENCING]
    assert not any(action.forced for action in engine.log if isinstance(action, Perform))


def test_waiting_for_the_disks_ends_when_the_election_is_lost() -> None:
    engine = Engine().boot()
    engine.tell(Elected(ELECTED))
    engine.fail("alive", FenceCode.PEER_ALIVE)
    engine.tell(Elected(STANDING_BY))
    assert engine.state.role is Role.BACKUP


@pytest.mark.parametrize(
    "code", [FenceCode.NONE_REGISTERED, FenceCode.TOO_MANY_REFUSED, FenceCode.ALL_EXCLUDED, FenceCode.UNEXPECTED]
)
def test_failed_fencing_is_an_error_that_leaves_the_election_and_tries_again(code: FenceCode) -> None:
    engine = Engine().boot()
    engine.tell(Elected(ELECTED))
    assert Participate(False) in engine.fail("refused", code)
    assert engine.state.role is Role.ERROR
    assert engine.state.error == "refused"
    assert phases(engine.wait()) == [Phase.FENCING]  # still elected (nobody else): tries again


def test_fencing_without_an_answer_takes_the_whole_way_down() -> None:
    engine = Engine().boot()
    engine.tell(Elected(ELECTED))
    assert phases(engine.wait()) == [Phase.CLOSING]
    engine.walk(WAY_DOWN)
    assert engine.state.role is Role.ERROR


@pytest.mark.parametrize("failing", [Phase.IMPORTING, Phase.OPENING])
def test_a_takeover_that_fails_is_undone_in_order(failing: Phase) -> None:
    engine = Engine().boot()
    engine.tell(Elected(ELECTED))
    while engine.state.phase is not failing:
        engine.succeed()
    actions = engine.fail()
    assert phases(actions) == [Phase.CLOSING]
    assert Participate(False) in actions  # the other may try at once
    engine.walk(WAY_DOWN)
    assert engine.state.role is Role.ERROR


def test_an_import_that_does_not_end_is_reset() -> None:
    """It could end when the reservations are gone, and nobody would know."""
    engine = Engine().boot()
    engine.tell(Elected(ELECTED))
    engine.walk(WAY_UP[:1])
    assert engine.wait() == [Reset("IMPORTING failed: IMPORTING took too long")]


def test_who_gave_up_keeps_traffic_out() -> None:
    """CLOSING may have failed."""
    engine = master()
    engine.tell(Asked(1, Wish.BECOME_PASSIVE, "test"))
    engine.walk(WAY_DOWN[:-1])
    assert CloseTraffic() in engine.succeed()


def test_a_link_that_returns_has_its_own_time() -> None:
    """While the addresses are being won back, the other seems to be elected for a moment."""
    patient = replace(PAIR, timeout_ms=3_000)
    engine = master()
    engine.tell(Configured(patient))
    engine.tell(PeerChanged(FIT))
    engine.tell(Elected(CUT_OFF))
    engine.now_ms += 1_000
    engine.tell(Elected(STANDING_BY))
    assert engine.state.role is Role.MASTER
    engine.now_ms += 400
    engine.tell(Elected(ELECTED))
    assert engine.state.role is Role.MASTER
    assert next_wake_ms(engine.state) is None


def test_a_living_master_whose_links_return_gets_the_addresses_back() -> None:
    """It does not preempt the one that was elected meanwhile; a MASTER that is only not heard has not lost them."""
    engine = Engine().boot()
    engine.tell(PeerChanged(PeerView(master=True, could_lead=False)))
    engine.tell(Elected(ELECTED))
    engine.fail(code=FenceCode.PEER_ALIVE)
    assert engine.tell(PeerChanged(LEADER)) == []
    assert engine.tell(PeerChanged(replace(LEADER, outvoted=True))) == [Participate(False)]
    assert engine.state.role is Role.BACKUP
    assert engine.tell(Elected(Election())) == [Participate(True)]


def test_an_answer_of_the_disks_comes_after_the_links_have_returned() -> None:
    engine = Engine().boot()
    engine.tell(PeerChanged(replace(LEADER, outvoted=True)))
    engine.tell(Elected(ELECTED))
    assert engine.fail(code=FenceCode.PEER_ALIVE) == [Participate(False)]


def test_force_does_not_hand_the_addresses_back() -> None:
    engine = Engine().boot()
    engine.tell(Asked(1, Wish.FORCE_MASTER, "test"))
    engine.tell(Elected(ELECTED))
    engine.fail(code=FenceCode.PEER_ALIVE)
    engine.tell(PeerChanged(replace(LEADER, outvoted=True)))
    assert engine.state.role is Role.TAKING


def test_force_ends_with_an_answer_when_the_disks_stay_contested() -> None:
    engine = Engine().boot()
    engine.tell(Asked(1, Wish.FORCE_MASTER, "test"))
    asked_ms = engine.now_ms
    while engine.state.role is Role.TAKING:
        assert engine.now_ms <= asked_ms + engine.state.limits.force_ms + engine.state.limits.fence_retry_ms
        engine.fail("contested", code=FenceCode.PEER_ALIVE)
        if engine.state.role is Role.TAKING:
            engine.wait()
    assert Answer(1, False, "The disks could not be taken by force either: contested.") in engine.log
    assert engine.state.role is Role.BACKUP


def test_force_that_ended_leaves_an_elected_controller_waiting() -> None:
    engine = Engine().boot()
    engine.tell(Asked(1, Wish.FORCE_MASTER, "test"))
    engine.tell(Elected(ELECTED))
    engine.now_ms += engine.state.limits.force_ms
    actions = engine.fail("contested", code=FenceCode.PEER_ALIVE)
    assert [type(action) for action in actions] == [Answer]
    assert [action for action in engine.wait() if isinstance(action, Perform)] == [
        Perform(engine.state.op, Phase.FENCING, forced=False)
    ]


def test_force_is_refused_where_it_would_be_undone_at_once() -> None:
    engine = Engine().boot()
    engine.tell(PeerChanged(FIT))
    engine.tell(Elected(CUT_OFF))
    (answer,) = engine.tell(Asked(1, Wish.FORCE_MASTER, "test"))
    assert isinstance(answer, Answer)
    assert "links" in answer.refusal
    assert engine.state.role is Role.BACKUP


def test_an_operator_hears_that_links_were_lost_during_the_takeover() -> None:
    engine = Engine().boot()
    engine.tell(PeerChanged(FIT))
    engine.tell(Asked(1, Wish.FORCE_MASTER, "test"))
    engine.walk(WAY_UP[:-1])
    engine.tell(Elected(CUT_OFF))
    answers = [action for action in engine.succeed() if isinstance(action, Answer)]
    assert [(answer.changed, bool(answer.refusal)) for answer in answers] == [(False, True)]
    assert engine.state.role is Role.YIELDING


def test_without_a_pair_standing_aside_lasts_its_time() -> None:
    """The other's role says nothing there: nobody is elected."""
    engine = Engine().boot()
    engine.tell(Configured(replace(PAIR, available=False, designated=True)))
    engine.walk(WAY_UP)
    engine.tell(Asked(1, Wish.BECOME_PASSIVE, "test"))
    engine.walk(WAY_DOWN)
    assert phases(engine.tell(PeerChanged(LEADER))) == []
    assert phases(engine.wait()) == [Phase.FENCING]


def test_services_that_do_not_start_do_not_keep_the_pools_away() -> None:
    engine = Engine().boot()
    engine.tell(Elected(ELECTED))
    engine.walk(WAY_UP[:2])
    assert phases(engine.fail()) == [Phase.OPENING]


@pytest.mark.parametrize("failing", [Phase.EXPORTING, Phase.VERIFYING, Phase.RELEASING])
@pytest.mark.parametrize("how", ["fails", "hangs"])
def test_what_cannot_be_proved_exported_is_reset(failing: Phase, how: str) -> None:
    engine = master()
    engine.tell(Asked(1, Wish.BECOME_PASSIVE, "test"))
    while engine.state.phase is not failing:
        engine.succeed()
    actions = engine.fail() if how == "fails" else engine.wait()
    assert [type(action) for action in actions] == [Reset]


@pytest.mark.parametrize("failing", [Phase.CLOSING, Phase.STOPPING])
def test_trouble_early_on_the_way_down_does_not_stop_it(failing: Phase) -> None:
    engine = master()
    engine.tell(Asked(1, Wish.BECOME_PASSIVE, "test"))
    while engine.state.phase is not failing:
        engine.succeed()
    engine.fail()
    assert engine.state.role is Role.YIELDING
    assert engine.state.phase is not failing


def test_a_master_whose_pool_is_suspended_makes_room_for_one_who_can_lead() -> None:
    engine = master()
    engine.tell(PeerChanged(FIT))
    [reset] = engine.tell(PoolsChanged(suspended=True))
    assert reset == Reset("a pool is suspended, the other can lead")


def test_a_suspended_pool_is_kept_as_long_as_nobody_else_could_serve_it() -> None:
    engine = master()
    assert engine.tell(PoolsChanged(suspended=True)) == []
    assert engine.tell(PeerChanged(PeerView(master=False, could_lead=False))) == []
    assert isinstance(engine.tell(PeerChanged(FIT))[0], Reset), "as soon as it can"


def test_a_master_without_a_pool_imports_one_that_appears() -> None:
    engine = master()
    actions = engine.tell(PoolsChanged(suspended=False, late=True))
    assert actions[0] == CloseTraffic()
    assert (engine.state.role, engine.state.phase) == (Role.TAKING, Phase.IMPORTING)
    engine.walk([Phase.IMPORTING, Phase.STARTING, Phase.OPENING])
    assert engine.state.role is Role.MASTER


def test_a_pool_that_appears_is_no_news_to_a_standby() -> None:
    engine = Engine().boot()
    assert engine.tell(PoolsChanged(suspended=False, late=True)) == []
    assert engine.state.role is Role.BACKUP


def test_a_suspended_pool_stays_where_failover_is_disabled() -> None:
    engine = master()
    engine.tell(PeerChanged(FIT))
    engine.tell(Configured(replace(PAIR, enabled=False, designated=True)))
    assert engine.tell(PoolsChanged(suspended=True)) == []


def test_switchover_answers_stands_aside_and_comes_back_when_nobody_takes_over() -> None:
    engine = master()
    engine.tell(PeerChanged(FIT))
    engine.tell(Asked(7, Wish.BECOME_PASSIVE, "test"))
    engine.walk(WAY_DOWN)
    assert engine.state.role is Role.BACKUP
    assert engine.log[-2:] == [Answer(7, changed=True), Participate(False)]
    assert engine.wait()[-1] == Participate(True)


def test_standing_aside_ends_as_soon_as_the_other_leads() -> None:
    engine = master()
    engine.tell(Asked(7, Wish.BECOME_PASSIVE, "test"))
    engine.tell(Elected(Election()))
    engine.walk(WAY_DOWN)
    assert engine.tell(PeerChanged(LEADER)) == [Participate(True)]


def test_standing_aside_lasts_until_the_addresses_are_gone() -> None:
    engine = master()
    engine.tell(Asked(7, Wish.BECOME_PASSIVE, "test"))
    engine.walk(WAY_DOWN)
    assert engine.tell(PeerChanged(LEADER)) == []  # still elected: it would only fence against the new MASTER
    assert engine.tell(Elected(Election())) == [Participate(True)]


def test_a_master_without_links_gives_way_to_a_fit_peer_at_once() -> None:
    engine = master()
    engine.tell(PeerChanged(FIT))
    assert phases(engine.tell(Elected(CUT_OFF))) == [Phase.CLOSING]


def test_the_timeout_of_the_administrator_is_waited_out() -> None:
    engine = master()
    engine.tell(Configured(replace(PAIR, timeout_ms=5000)))
    engine.tell(PeerChanged(FIT))
    assert engine.tell(Elected(CUT_OFF)) == []
    assert next_wake_ms(engine.state) == engine.now_ms + 5000
    engine.tell(Elected(ELECTED))
    assert next_wake_ms(engine.state) is None


@pytest.mark.parametrize(
    ("peer", "config"),
    [
        (PeerView(master=False, could_lead=False), PAIR),  # its links are down as well, or it is booting
        (FIT, replace(PAIR, enabled=False, designated=True)),
        (FIT, replace(PAIR, available=False, designated=True)),
    ],
)
def test_a_master_without_links_stays_when_nobody_is_better(peer: PeerView, config: Config) -> None:
    engine = master()
    engine.tell(Configured(config))
    engine.tell(PeerChanged(peer))
    engine.tell(Elected(CUT_OFF))
    assert engine.state.role is Role.MASTER
    assert next_wake_ms(engine.state) is None


def test_a_master_gives_way_to_the_designated_one_also_while_failover_is_disabled() -> None:
    engine = master()
    engine.tell(Configured(replace(PAIR, enabled=False, designated=False)))
    engine.tell(PeerChanged(FIT))
    engine.tell(Elected(CUT_OFF))
    assert engine.state.role is Role.YIELDING


def test_an_isolated_master_gives_way_after_a_while() -> None:
    engine = master()
    engine.tell(Elected(CUT_OFF))
    assert engine.state.role is Role.MASTER
    assert phases(engine.wait()) == [Phase.CLOSING]


def test_a_master_without_pairing_partner_keeps_the_role_when_only_the_heartbeat_is_cut() -> None:
    engine = master()
    engine.tell(PeerChanged(FIT))
    assert engine.tell(PeerChanged(None)) == []
    assert engine.state.role is Role.MASTER


def test_disabled_standby_does_not_take_over_and_stays_out_of_the_election() -> None:
    engine = Engine(replace(PAIR, enabled=False)).boot()
    assert engine.state.participating is False
    engine.tell(Elected(ELECTED))
    assert engine.state.role is Role.BACKUP


def test_disabled_but_designated_controller_leads_after_a_boot() -> None:
    engine = Engine(replace(PAIR, enabled=False, designated=True)).boot()
    assert engine.state.participating is True
    assert phases(engine.tell(Elected(ELECTED))) == [Phase.FENCING]


def test_a_master_keeps_its_addresses_when_there_is_no_pair_any_more() -> None:
    engine = master()
    assert engine.tell(Configured(replace(PAIR, available=False, designated=True))) == []
    assert engine.state.participating is True


def test_without_a_pair_the_designated_controller_takes_the_disks_by_itself() -> None:
    engine = Engine(replace(PAIR, available=False, designated=True)).boot()
    assert engine.state.phase is Phase.FENCING
    engine.walk(WAY_UP)
    assert engine.state.role is Role.MASTER


def test_force_master_asks_a_living_master_first() -> None:
    engine = Engine().boot()
    engine.tell(PeerChanged(LEADER))
    assert phases(engine.tell(Asked(3, Wish.FORCE_MASTER, "test"))) == [Phase.ASKING]
    actions = engine.succeed()
    assert phases(actions) == [Phase.FENCING]
    engine.walk(WAY_UP)
    assert Answer(3, changed=True) in engine.log


def test_force_master_takes_the_disks_when_the_other_does_not_hand_over() -> None:
    engine = Engine().boot()
    engine.tell(PeerChanged(LEADER))
    engine.tell(Asked(3, Wish.FORCE_MASTER, "test"))
    assert Perform(engine.state.op + 1, Phase.FENCING, forced=True) in engine.fail()


def test_a_master_by_force_gives_the_old_one_time_to_lose_the_addresses() -> None:
    engine = Engine().boot()
    engine.tell(Elected(STANDING_BY))
    engine.now_ms += 60_000
    engine.tell(Asked(3, Wish.FORCE_MASTER, "test"))
    engine.walk(WAY_UP)
    assert engine.state.role is Role.MASTER
    wake_ms = next_wake_ms(engine.state)
    assert wake_ms is not None
    assert wake_ms > engine.now_ms


def test_force_master_on_the_master_changes_nothing() -> None:
    assert master().tell(Asked(1, Wish.FORCE_MASTER, "test")) == [Answer(1, changed=False)]


def test_become_passive_on_the_standby_is_refused() -> None:
    (answer,) = Engine().boot().tell(Asked(1, Wish.BECOME_PASSIVE, "test"))
    assert isinstance(answer, Answer)
    assert answer.refusal


def test_late_results_are_ignored() -> None:
    engine = master()
    before = engine.state
    assert engine.tell(Done(before.op, ok=False, detail="late")) == []
    assert engine.tell(Done(1, ok=True)) == []
    assert engine.state == before
