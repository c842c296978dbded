"""The simulated target against the standard's sentences. A wrong target would let a wrong fence pass."""

import json
import struct

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from middlewared.lab.shelf import STANDARD, TGT, QueuedWrite, Shelf, ShelfDisk, Target
from middlewared.lab.writes import WriteLog
from middlewared.plugins.fencing import scsi, scsi_pr
from middlewared.plugins.fencing.scsi import BLOCK_BYTES, Status
from middlewared.plugins.fencing.scsi_pr import Kind

A, B, C = "a", "b", "c"
KEY = {A: 0xA1, B: 0xB1, C: 0xC1}
BLOCK = bytes(range(256)) * 2
GOOD, CHECK, CONFLICT = Status.GOOD, Status.CHECK_CONDITION, Status.RESERVATION_CONFLICT


class Bench:
    """A shelf of one disk, and words for what initiators do to it."""

    def __init__(self, target: Target = STANDARD) -> None:
        self.shelf = Shelf([ShelfDisk(0, "S0", 1 << 20)], target=target, initiators=(A, B, C))

    def do(self, who: str, cdb: bytes, data: bytes = b"") -> int:
        return self.shelf.execute(who, 0, cdb, data)[0]

    def sense(self, who: str, cdb: bytes | None = None, data: bytes = b"") -> str:
        """The sense data of a command that must end with CHECK CONDITION."""
        status, sense, _ = self.shelf.execute(who, 0, cdb or scsi.test_unit_ready(), data)
        assert status == CHECK
        return str(scsi.parse_sense(sense))

    def register(self, *who: str) -> None:
        for one in who:
            assert self.do(one, *scsi_pr.register_and_ignore(KEY[one])) == GOOD

    def reserve(self, who: str, kind: Kind = Kind.WRITE_EXCLUSIVE_REGISTRANTS) -> int:
        return self.do(who, *scsi_pr.reserve(KEY[who], kind))

    def write(self, who: str, lba: int = 0) -> int:
        return self.do(who, scsi.write_10(lba, 1), BLOCK)

    def read(self, who: str) -> int:
        return self.do(who, scsi.read_10(0, 1))

    def preempt(self, who: str, victim: int, *, abort: bool = False) -> int:
        return self.do(who, *scsi_pr.preempt(KEY[who], victim, abort=abort))

    def keys(self) -> tuple[int, ...]:
        return scsi_pr.parse_keys(self.shelf.execute("looker", 0, scsi_pr.read_keys())[2])[1]

    def generation(self) -> int:
        return scsi_pr.parse_keys(self.shelf.execute("looker", 0, scsi_pr.read_keys())[2])[0]

    def reservation(self) -> scsi_pr.Reservation | None:
        return scsi_pr.parse_reservation(self.shelf.execute("looker", 0, scsi_pr.read_reservation())[2])[1]


# who may do what: (type, registered B writes, registered B reads, stranger C writes, stranger C reads)
ACCESS = [
    (Kind.WRITE_EXCLUSIVE, CONFLICT, GOOD, CONFLICT, GOOD),
    (Kind.EXCLUSIVE_ACCESS, CONFLICT, CONFLICT, CONFLICT, CONFLICT),
    (Kind.WRITE_EXCLUSIVE_REGISTRANTS, GOOD, GOOD, CONFLICT, GOOD),
    (Kind.EXCLUSIVE_ACCESS_REGISTRANTS, GOOD, GOOD, CONFLICT, CONFLICT),
    (Kind.WRITE_EXCLUSIVE_ALL, GOOD, GOOD, CONFLICT, GOOD),
    (Kind.EXCLUSIVE_ACCESS_ALL, GOOD, GOOD, CONFLICT, CONFLICT),
]


@pytest.mark.parametrize(("kind", "b_writes", "b_reads", "c_writes", "c_reads"), ACCESS)
def test_access_by_type(kind: Kind, b_writes: int, b_reads: int, c_writes: int, c_reads: int) -> None:
    bench = Bench()
    bench.register(A, B)
    assert bench.reserve(A, kind) == GOOD
    assert (bench.write(A), bench.read(A)) == (GOOD, GOOD)
    assert (bench.write(B), bench.read(B)) == (b_writes, b_reads)
    assert (bench.write(C), bench.read(C)) == (c_writes, c_reads)
    shown = bench.reservation()
    assert shown is not None
    assert (shown.kind, shown.key) == (kind, 0 if kind.all_registrants else KEY[A])


def test_without_reservation_everybody_writes() -> None:
    bench = Bench()
    bench.register(A)
    assert bench.write(C) == GOOD


@pytest.mark.parametrize(
    ("registered", "key", "new", "status", "keys"),
    [
        (False, 0, 7, GOOD, (7,)),
        (False, 9, 7, CONFLICT, ()),
        (False, 0, 0, GOOD, ()),
        (True, KEY[A], 7, GOOD, (7,)),
        (True, 0, 7, CONFLICT, (KEY[A],)),  # "REGISTER with key 0 while registered gives 0x18"
        (True, 9, 0, CONFLICT, (KEY[A],)),
        (True, KEY[A], 0, GOOD, ()),
    ],
)
def test_register(registered: bool, key: int, new: int, status: int, keys: tuple[int, ...]) -> None:
    bench = Bench()
    if registered:
        bench.register(A)
    assert bench.do(A, *scsi_pr.register(key, new)) == status
    assert bench.keys() == keys


def test_register_and_ignore_replaces_and_removes() -> None:
    bench = Bench()
    bench.register(A)
    assert bench.do(A, *scsi_pr.register_and_ignore(7)) == GOOD
    assert bench.keys() == (7,)
    assert bench.do(A, *scsi_pr.register_and_ignore(0)) == GOOD
    assert bench.keys() == ()


def test_aptpl_is_refused_where_it_is_not_kept() -> None:
    bench = Bench()
    assert bench.sense(A, *scsi_pr.register_and_ignore(7, aptpl=True)) == "05/26/00"


def test_reserve_needs_the_registered_key() -> None:
    bench = Bench()
    assert bench.reserve(A) == CONFLICT
    bench.register(A, B)
    assert bench.do(A, *scsi_pr.reserve(0x99)) == CONFLICT
    assert bench.reserve(A) == GOOD
    assert bench.reserve(A) == GOOD, "the holder may ask again"
    assert bench.reserve(A, Kind.WRITE_EXCLUSIVE) == CONFLICT, "but not for another type"
    assert bench.reserve(B) == CONFLICT


def test_release() -> None:
    bench = Bench()
    bench.register(A, B)
    bench.reserve(A)
    assert bench.do(C, *scsi_pr.release(0)) == CONFLICT, "an unregistered nexus"
    assert bench.do(B, *scsi_pr.release(KEY[B])) == GOOD, "not the holder: nothing happens"
    assert bench.reservation() is not None
    assert bench.sense(A, *scsi_pr.release(KEY[A], Kind.WRITE_EXCLUSIVE)) == "05/26/04"
    assert bench.do(A, *scsi_pr.release(KEY[A])) == GOOD
    assert bench.reservation() is None
    assert bench.sense(B) == "06/2A/04", "the registrants that stay hear of it"
    assert bench.do(A, scsi.test_unit_ready()) == GOOD


def test_unregistering_the_holder_releases() -> None:
    bench = Bench()
    bench.register(A, B)
    bench.reserve(A)
    assert bench.do(A, *scsi_pr.register(KEY[A], 0)) == GOOD
    assert bench.reservation() is None
    assert bench.sense(B) == "06/2A/04"


def test_all_registrants_hold_until_the_last_leaves() -> None:
    bench = Bench()
    bench.register(A, B)
    bench.reserve(A, Kind.WRITE_EXCLUSIVE_ALL)
    bench.do(A, *scsi_pr.register(KEY[A], 0))
    assert bench.reservation() is not None
    bench.do(B, *scsi_pr.register(KEY[B], 0))
    assert bench.reservation() is None


def test_clear() -> None:
    bench = Bench()
    bench.register(A, B)
    bench.reserve(A)
    assert bench.do(C, *scsi_pr.clear(0)) == CONFLICT
    assert bench.do(B, *scsi_pr.clear(KEY[B])) == GOOD
    assert (bench.keys(), bench.reservation()) == ((), None)
    assert bench.sense(A) == "06/2A/03"


@pytest.mark.parametrize(
    ("target", "attention", "refusal"), [(STANDARD, "06/2A/05", "conflict"), (TGT, "06/2A/03", "05/24/00")]
)
def test_preempt_the_holder(target: Target, attention: str, refusal: str) -> None:
    bench = Bench(target)
    bench.register(A)
    bench.reserve(A)
    if refusal == "conflict":
        assert bench.preempt(B, KEY[A]) == CONFLICT, "an unregistered nexus"
    else:
        assert bench.sense(B, *scsi_pr.preempt(KEY[B], KEY[A])) == refusal
    bench.register(B)
    assert bench.preempt(B, 0x99) == CONFLICT, "of a key that nobody has"
    assert bench.preempt(B, KEY[A]) == GOOD
    assert bench.keys() == (KEY[B],)
    assert bench.reservation() == scsi_pr.Reservation(KEY[B], Kind.WRITE_EXCLUSIVE_REGISTRANTS)
    assert bench.sense(A, scsi.write_10(0, 1), BLOCK) == attention
    assert bench.write(A) == CONFLICT, "told once, refused for ever"
    assert bench.write(B) == GOOD


def test_preempt_of_a_mere_registrant_leaves_the_reservation() -> None:
    bench = Bench()
    bench.register(A, B, C)
    bench.reserve(A)
    assert bench.preempt(B, KEY[C]) == GOOD
    shown = bench.reservation()
    assert shown is not None
    assert shown.key == KEY[A]
    assert bench.sense(C) == "06/2A/05"


def test_preempt_without_a_reservation_makes_none() -> None:
    bench = Bench()
    bench.register(A, B)
    assert bench.preempt(B, KEY[A]) == GOOD
    assert (bench.keys(), bench.reservation()) == ((KEY[B],), None)


def test_preempting_oneself_changes_the_type() -> None:
    bench = Bench()
    bench.register(A, B)
    bench.reserve(A, Kind.WRITE_EXCLUSIVE)
    assert bench.preempt(A, KEY[A]) == GOOD
    assert bench.reservation() == scsi_pr.Reservation(KEY[A], Kind.WRITE_EXCLUSIVE_REGISTRANTS)
    assert bench.keys() == (KEY[A], KEY[B])
    assert bench.sense(B) == "06/2A/04"


def test_preempt_with_key_zero() -> None:
    bench = Bench()
    bench.register(A, B)
    bench.reserve(A)
    assert bench.sense(B, *scsi_pr.preempt(KEY[B], 0)) == "05/26/00"
    everyone = Bench()
    everyone.register(A, B, C)
    everyone.reserve(A, Kind.WRITE_EXCLUSIVE_ALL)
    assert everyone.preempt(B, 0) == GOOD
    assert everyone.keys() == (KEY[B],)
    assert everyone.reservation() == scsi_pr.Reservation(KEY[B], Kind.WRITE_EXCLUSIVE_REGISTRANTS)


def test_generation_counts_registrations_and_preemptions_only() -> None:
    bench = Bench()
    counted = []
    for step in (
        lambda: bench.register(A, B),
        lambda: bench.reserve(A),
        lambda: bench.do(A, *scsi_pr.release(KEY[A])),
        lambda: (bench.sense(B), bench.preempt(B, KEY[A])),  # B first hears of the release
        lambda: bench.do(B, *scsi_pr.clear(KEY[B])),
    ):
        step()
        counted.append(bench.generation())
    assert counted == [2, 2, 2, 3, 4]


def test_unit_attentions_wait_in_order_and_spare_inquiry() -> None:
    bench = Bench(TGT)
    bench.register(A)
    bench.reserve(A)
    bench.register(B)
    bench.preempt(B, KEY[A])
    bench.shelf.lun_reset(B, 0)
    assert bench.do(A, scsi.inquiry()) == GOOD
    assert bench.do(A, scsi.report_luns()) == GOOD
    assert [bench.sense(A), bench.sense(A)] == ["06/2A/03", "06/29/00"]
    assert bench.do(A, scsi.test_unit_ready()) == GOOD
    assert bench.sense(B) == "06/29/00", "this target tells the one who reset it, too"


def test_lun_reset_keeps_the_reservation() -> None:
    bench = Bench()
    bench.register(A)
    bench.reserve(A)
    bench.shelf.lun_reset(B, 0)
    assert bench.keys() == (KEY[A],)
    assert bench.reservation() is not None
    assert bench.sense(A) == "06/29/03"
    assert bench.do(B, scsi.test_unit_ready()) == GOOD


def test_restart_forgets_unless_told_to_keep() -> None:
    bench = Bench()
    bench.register(A)
    bench.reserve(A)
    bench.shelf.restart()
    assert bench.sense(A) == "06/29/00"
    assert (bench.keys(), bench.reservation(), bench.generation()) == ((), None, 0)
    keeping = Bench(Target(aptpl=True))
    keeping.do(A, *scsi_pr.register_and_ignore(KEY[A], aptpl=True))
    keeping.reserve(A)
    keeping.shelf.restart()
    assert keeping.keys() == (KEY[A],)
    assert keeping.reservation() is not None


def _queued(bench: Bench, who: str, lba: int) -> QueuedWrite:
    answer = bench.shelf.submit(who, 0, scsi.write_10(lba, 1), BLOCK)
    assert isinstance(answer, QueuedWrite)
    return answer


@pytest.mark.parametrize(
    ("event", "lands"),
    [
        ("preempt", True),  # the failure that fencing by a bare PREEMPT has
        ("preempt and abort", False),
        ("preempt, lun reset", False),
        ("power off", False),
        ("restart", False),
    ],
)
def test_a_queued_write_after(event: str, lands: bool) -> None:
    bench = Bench()
    bench.register(A)
    bench.reserve(A)
    write = _queued(bench, A, 3)
    bench.register(B)
    if event.startswith("preempt"):
        assert bench.preempt(B, KEY[A], abort=event.endswith("abort")) == GOOD
    if event.endswith("lun reset"):
        bench.shelf.lun_reset(B, 0)
    if event == "power off":
        bench.shelf.drop(A)
    if event == "restart":
        bench.shelf.restart()
    assert (bench.shelf.complete(write) is not None) is lands
    _, _, data = bench.shelf.execute("looker", 0, scsi.read_10(3, 1))
    assert (data == BLOCK) is lands
    landed = [write for write in bench.shelf.log.recent if write.accepted]
    assert [(write.holder_key, write.writer_key) for write in landed] == ([(KEY[B], 0)] if lands else [])


def test_preempt_and_abort_spares_the_others() -> None:
    bench = Bench()
    bench.register(A, B)
    bench.reserve(A)
    mine = _queued(bench, B, 1)
    bench.preempt(B, KEY[A], abort=True)
    assert bench.shelf.complete(mine) is not None


def test_preempt_and_abort_where_the_target_lacks_it() -> None:
    bench = Bench(TGT)
    bench.register(A, B)
    assert bench.sense(B, *scsi_pr.preempt(KEY[B], KEY[A], abort=True)) == "05/24/00"
    assert bench.keys() == (KEY[A], KEY[B])
    assert bench.sense(B, scsi_pr.read_full_status()) == "05/24/00"


def test_full_status_and_capabilities() -> None:
    bench = Bench()
    bench.register(A, B)
    bench.reserve(B)
    _, registrants = scsi_pr.parse_full_status(bench.shelf.execute(C, 0, scsi_pr.read_full_status())[2])
    assert [(one.key, one.holder, one.kind) for one in registrants] == [(KEY[A], False, 0), (KEY[B], True, 5)]
    capable = scsi_pr.parse_capabilities(bench.shelf.execute(C, 0, scsi_pr.report_capabilities())[2])
    assert (capable.survives_power_loss, capable.kinds) == (False, frozenset(Kind))


def test_blocks_inquiry_and_capacity() -> None:
    bench = Bench()
    assert bench.do(A, scsi.write_16(5, 2), BLOCK + BLOCK[::-1]) == GOOD
    assert bench.shelf.execute(B, 0, scsi.read_16(4, 3))[2] == bytes(BLOCK_BYTES) + BLOCK + BLOCK[::-1]
    assert scsi.parse_serial(bench.shelf.execute(A, 0, scsi.inquiry(scsi.SERIAL_PAGE))[2]) == "S0"
    for cdb in (scsi.read_capacity_10(), scsi.read_capacity_16()):
        assert scsi.parse_capacity(bench.shelf.execute(A, 0, cdb)[2]) == (2048, BLOCK_BYTES)
    luns = bench.shelf.execute(A, 0, scsi.report_luns())[2]
    assert luns == struct.pack(">I4xQ", 8, 0)


@pytest.mark.parametrize(
    ("cdb", "data", "sense"),
    [
        (scsi.write_10(2048, 1), BLOCK, "05/21/00"),
        (scsi.read_10(2048, 1), b"", "05/21/00"),
        (scsi.write_10(0, 2), BLOCK, "05/24/00"),
        (b"\xc1" + bytes(9), b"", "05/20/00"),
        (b"", b"", "05/20/00"),
        (scsi.write_10(0, 1)[:6], BLOCK, "05/20/00"),
        (scsi.inquiry(0x83), b"", "05/24/00"),
        (scsi_pr.reserve(1)[0], b"short", "05/1A/00"),
    ],
)
def test_wrong_commands(cdb: bytes, data: bytes, sense: str) -> None:
    status, raw, _ = Bench().shelf.execute(A, 0, cdb, data)
    assert (status, str(scsi.parse_sense(raw))) == (CHECK, sense)


def test_an_absent_unit() -> None:
    assert str(scsi.parse_sense(Bench().shelf.execute(A, 9, scsi.test_unit_ready())[1])) == "05/25/00"


def test_a_failed_disk_and_its_repair() -> None:
    bench = Bench()
    bench.register(A)
    bench.shelf.fail(0)
    assert bench.sense(A, scsi.read_10(0, 1)) == "03/11/00"
    assert bench.sense(A, scsi.write_10(0, 1), BLOCK) == "03/0C/00"
    assert bench.sense(A, scsi_pr.read_keys()) == "04/44/00"
    bench.shelf.repair(0)
    assert bench.keys() == (KEY[A],)


def test_writes_are_recorded(tmp_path) -> None:
    path = tmp_path / "writes.jsonl"
    now = iter(range(100))
    shelf = Shelf([ShelfDisk(0, "S0", 1 << 20)], log=WriteLog(path), now_ms=lambda: next(now))
    shelf.execute(A, 0, *scsi_pr.register_and_ignore(KEY[A]))
    shelf.execute(A, 0, *scsi_pr.reserve(KEY[A]))
    shelf.execute(A, 0, scsi.write_10(1, 1), BLOCK)
    shelf.execute(B, 0, scsi.write_10(2, 1), BLOCK)
    shelf.log.close()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["t_ms"], row["initiator"], row["lba"], row["accepted"]) for row in rows] == [
        (0, "a", 1, True),
        (1, "b", 2, False),
    ]
    assert rows[0]["holder_key"] == rows[0]["writer_key"] == rows[1]["holder_key"] == f"{KEY[A]:#018x}"
    assert rows[1]["writer_key"] == f"{0:#018x}"
    assert rows[0]["digest"] == rows[1]["digest"]


class Anything(RuleBasedStateMachine):
    """Random initiators and commands: mostly with the right key, for else little would ever be reserved."""

    initiators = st.sampled_from([A, B, C])
    keys = st.sampled_from(["own", "own", "own", "own", "none", "wrong"])
    kinds = st.sampled_from(list(Kind))

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench()

    def _key(self, who: str, which: str) -> int:
        own = self.bench.shelf.reservations(0).keys.get(who, 0)
        return {"own": own, "none": 0, "wrong": 0x99}[which]

    def _do(self, who: str, cdb: bytes, data: bytes = b"") -> int:
        """The command itself: unit attentions before it are read away."""
        while self.bench.do(who, scsi.test_unit_ready()) != GOOD:
            pass
        return self.bench.do(who, cdb, data)

    @rule(who=initiators, which=keys, new=st.sampled_from([0, 1, 2, 3]))
    def register(self, who: str, which: str, new: int) -> None:
        self._do(who, *scsi_pr.register(self._key(who, which), new))

    @rule(who=initiators, new=st.sampled_from([0, 1, 2, 3]))
    def register_and_ignore(self, who: str, new: int) -> None:
        self._do(who, *scsi_pr.register_and_ignore(new))

    @rule(who=initiators, which=keys, kind=kinds)
    def reserve(self, who: str, which: str, kind: Kind) -> None:
        self._do(who, *scsi_pr.reserve(self._key(who, which), kind))

    @rule(who=initiators, which=keys, kind=kinds)
    def release(self, who: str, which: str, kind: Kind) -> None:
        self._do(who, *scsi_pr.release(self._key(who, which), kind))

    @rule(who=initiators, which=keys, victim=st.sampled_from([0, 1, 2, 3]), kind=kinds, abort=st.booleans())
    def preempt(self, who: str, which: str, victim: int, kind: Kind, abort: bool) -> None:
        status = self._do(who, *scsi_pr.preempt(self._key(who, which), victim, kind, abort=abort))
        left = [one for one, key in self.bench.shelf.reservations(0).keys.items() if key == victim and one != who]
        assert status != GOOD or not left, "a preempted nexus is still registered"

    @rule(who=initiators, event=st.sampled_from(["reset", "restart", "clear"]), which=keys)
    def upset(self, who: str, event: str, which: str) -> None:
        if event == "reset":
            self.bench.shelf.lun_reset(who, 0)
        elif event == "restart":
            self.bench.shelf.restart()
        else:
            self._do(who, *scsi_pr.clear(self._key(who, which)))

    @invariant()
    def nobody_writes_past_a_reservation(self) -> None:
        """Whose write is accepted under a reservation is registered, or the holder of a type 1 or 3 reservation."""
        _, registrants = scsi_pr.parse_full_status(self.bench.shelf.execute("looker", 0, scsi_pr.read_full_status())[2])
        holders = {one.transport_id[4:12].lstrip(b"\0").decode(): one.holder for one in registrants}
        reservation = self.bench.reservation()
        for who in (A, B, C):
            accepted = self._do(who, scsi.write_10(0, 1), BLOCK) == GOOD
            may = reservation is None or (who in holders and (Kind(reservation.kind).registrants or holders[who]))
            assert accepted is may, f"{who} under {reservation}"

    @invariant()
    def a_reservation_has_a_registered_holder(self) -> None:
        reservation = self.bench.reservation()
        if reservation is not None:
            keys = self.bench.keys()
            assert keys
            assert Kind(reservation.kind).all_registrants or reservation.key in keys


TestAnything = Anything.TestCase
TestAnything.settings = hypothesis_settings(max_examples=100, stateful_step_count=30, deadline=None)
