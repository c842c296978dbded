"""The fold of the engine's steps into passages: the real engine, driven by hand in virtual time."""

from middlewared.plugins.failover.engine import next_wake_ms, step
from middlewared.plugins.failover.events import Asked, Configured, Discovered, Done, Elected, Event, Tick, Wish
from middlewared.plugins.failover.passage import RESUME_MS_MAX, Passage, Recorder, interrupted
from middlewared.plugins.failover.state import Config, Election, Lost, Role, State
from middlewared.ports import FenceCode

PAIR = Config(available=True, enabled=True, designated=False)
WALL_S = 1_780_000_000.0
UP = ["FENCING", "IMPORTING", "STARTING", "OPENING"]
DOWN = ["CLOSING", "STOPPING", "EXPORTING", "VERIFYING", "RELEASING"]


class Site:
    """An engine, a recorder, and what it wrote down."""

    def __init__(self) -> None:
        self.state = State()
        self.now_ms = 5_000
        self.kept: list[Passage] = []
        self.recorder = Recorder(
            7, self.kept.append, clock_s=lambda: self.now_ms / 1000, wall_s=lambda: WALL_S + self.now_ms / 1000
        )
        self.tell(Configured(PAIR))
        self.tell(Discovered(held=False, imported=False, complete=False, open=False))

    def tell(self, event: Event) -> None:
        before = self.state
        self.state, _ = step(before, event, self.now_ms)
        self.recorder.follow(before, event, self.state)

    def done(self, took_ms: int = 10, *, ok: bool = True, detail: str = "", code: FenceCode = FenceCode.OK) -> None:
        self.now_ms += took_ms
        self.tell(Done(self.state.op, ok, detail, code))

    def wait(self) -> None:
        self.now_ms = max(self.now_ms, next_wake_ms(self.state) or 0)
        self.tell(Tick())

    def elect(self) -> None:
        self.tell(Elected(Election(elected=True)))

    def lead(self) -> "Site":
        self.elect()
        for _ in UP:
            self.done()
        assert self.state.role is Role.MASTER
        return self

    @property
    def last(self) -> Passage:
        return self.kept[-1]

    def phases(self) -> list[tuple[str, int | None, str, str]]:
        return [(one.phase, one.duration_ms, one.outcome, one.detail) for one in self.last.phases]


def test_a_takeover_is_written_down_step_by_step() -> None:
    site = Site()
    site.elect()
    assert (site.last.role, site.last.trigger, site.last.outcome) == ("takeover", "elected on the network", "RUNNING")
    assert site.phases() == [("FENCING", None, "running", "")]
    site.done(31, detail="8 of 8 disks are held")
    for took_ms in (100, 20, 3):
        site.done(took_ms)
    assert site.phases() == [
        ("FENCING", 31, "ok", "8 of 8 disks are held"),
        ("IMPORTING", 100, "ok", ""),
        ("STARTING", 20, "ok", ""),
        ("OPENING", 3, "ok", ""),
    ]
    assert (site.last.number, site.last.outcome, site.last.error, site.last.duration_ms) == (7, "MASTER", None, 154)
    assert site.last.started_ms == int(WALL_S * 1000) + 5_000


def test_resting_is_no_passage() -> None:
    site = Site()
    site.tell(Tick())
    assert site.kept == []


def test_a_handover_ends_in_backup_and_has_a_number_of_its_own() -> None:
    site = Site().lead()
    site.tell(Asked(1, Wish.BECOME_PASSIVE, "become_passive by admin"))
    for _ in DOWN:
        site.done()
    assert (site.last.number, site.last.role, site.last.outcome) == (8, "handover", "BACKUP")
    assert site.last.trigger == "become_passive by admin"
    assert [phase.phase for phase in site.last.phases] == DOWN
    assert site.last.error is None


def test_a_phase_that_does_not_stop_the_way_is_marked_failed() -> None:
    site = Site()
    site.elect()
    site.done()
    site.done()
    site.done(ok=False, detail="nfs: will not")
    site.done()
    assert site.phases()[2] == ("STARTING", 10, "failed", "nfs: will not")
    assert site.last.outcome == "MASTER"


def test_a_missed_deadline_is_said() -> None:
    site = Site()
    site.elect()
    site.done()
    site.done()
    site.wait()
    phase, duration_ms, outcome, detail = site.phases()[2]
    assert (phase, outcome, detail) == ("STARTING", "failed", "STARTING took too long")
    assert duration_ms == site.state.limits.services_ms


def test_a_failed_takeover_is_one_passage_to_its_end() -> None:
    site = Site()
    site.elect()
    site.done()
    site.done(ok=False, detail="tank: no")
    for _ in DOWN:
        site.done()
    assert (site.last.number, site.last.role, site.last.outcome, site.last.error) == (
        7,
        "takeover",
        "ERROR",
        "tank: no",
    )
    assert [phase.phase for phase in site.last.phases] == ["FENCING", "IMPORTING", *DOWN]
    assert site.last.trigger == "elected on the network"


def refused(site: Site) -> None:
    site.done(ok=False, detail="3 of 8 disks could not be taken", code=FenceCode.TOO_MANY_REFUSED)


def test_attempts_soon_after_a_failure_are_one_passage() -> None:
    site = Site()
    site.elect()
    for _ in range(3):
        refused(site)
        assert (site.last.outcome, site.last.error) == ("ERROR", "3 of 8 disks could not be taken")
        site.wait()
    for _ in UP:
        site.done()
    assert {passage.number for passage in site.kept} == {7}
    assert (site.last.attempts, site.last.outcome, site.last.error) == (4, "MASTER", None)
    assert [phase.phase for phase in site.last.phases] == UP
    assert site.last.duration_ms == site.now_ms - 5_000


def test_a_takeover_long_after_a_failure_is_another_one() -> None:
    site = Site()
    site.elect()
    refused(site)
    site.tell(Elected(Election(elected=False, lost=Lost.RIVAL)))
    site.now_ms += RESUME_MS_MAX + 1
    site.tell(Tick())
    site.elect()
    assert (site.last.number, site.last.attempts) == (8, 1)


def test_waiting_for_a_living_peer_is_one_phase_until_the_election_is_lost() -> None:
    site = Site()
    site.elect()
    for _ in range(5):
        site.done(ok=False, detail="the other's key is moving", code=FenceCode.PEER_ALIVE)
        site.wait()
    assert [phase.phase for phase in site.last.phases] == ["FENCING"]
    site.done(ok=False, detail="the other's key is moving", code=FenceCode.PEER_ALIVE)
    site.tell(Elected(Election(elected=False, lost=Lost.RIVAL)))
    assert (site.last.outcome, site.last.error) == ("BACKUP", "the other's key is moving")
    [(phase, duration_ms, outcome, detail)] = site.phases()
    assert (phase, outcome, detail) == ("FENCING", "failed", "the other's key is moving")
    assert duration_ms == site.now_ms - 5_000


def test_an_operator_who_forces_a_waiting_takeover_is_named() -> None:
    site = Site()
    site.elect()
    site.done(ok=False, detail="the other's key is moving", code=FenceCode.PEER_ALIVE)
    site.tell(Asked(1, Wish.FORCE_MASTER, "force_master by admin"))
    assert site.last.trigger == "elected on the network; then force_master by admin"


def test_long_texts_are_cut() -> None:
    site = Site()
    site.elect()
    site.done(ok=False, detail="x" * 1000, code=FenceCode.TOO_MANY_REFUSED)
    assert len(site.last.error or "") == len(site.last.phases[0].detail) == 300


def test_an_interrupted_passage_names_the_phase() -> None:
    site = Site()
    site.elect()
    site.done()
    ended = interrupted(site.last)
    assert (ended.outcome, ended.duration_ms) == ("INTERRUPTED", None)
    assert ended.error == "The controller or its daemon stopped during IMPORTING; nobody saw the end."
    assert [(phase.outcome, phase.detail) for phase in ended.phases] == [("ok", ""), ("failed", "interrupted")]


def test_a_daemon_that_starts_amid_a_takeover_begins_a_new_passage() -> None:
    site = Site()
    site.state = State()
    site.tell(Configured(PAIR))
    site.tell(Discovered(held=True, imported=True, complete=False, open=False))
    assert site.last.trigger == "middlewared was restarted during a takeover"
    assert [phase.phase for phase in site.last.phases] == ["IMPORTING"]


def test_a_way_down_right_after_the_way_up_is_another_passage() -> None:
    """Both within one step: the links fail while the last phase of the takeover runs."""
    site = Site()
    site.elect()
    for _ in UP[:-1]:
        site.done()
    before = site.state
    after = State(role=Role.YIELDING, phase=None, op=before.op, cause="its network links are down")
    site.recorder.follow(before, Done(before.op, ok=True), after)
    ended, begun = site.kept[-2], site.kept[-1]
    assert (ended.number, ended.outcome, begun.number, begun.role) == (7, "MASTER", 8, "handover")
