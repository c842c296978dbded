"""Bytes by hand from the layouts of SPC-4 and SBC-3: the parsers may not agree with our own target alone."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from middlewared.plugins.fencing import scsi, scsi_pr
from middlewared.plugins.fencing.scsi import Reply, Sense
from middlewared.plugins.fencing.scsi_pr import Kind, Reservation

KEY, OTHER = 0xA000_0001_0000_0007, 0xB000_0001_0000_0009
MINE, THEIRS = "a000000100000007", "b000000100000009"
ZERO = "0000000000000000"


@pytest.mark.parametrize(
    ("built", "cdb", "parameters"),
    [
        (scsi_pr.register(KEY, OTHER), "5f000000000000001800", MINE + THEIRS + ZERO),
        (scsi_pr.register(0, KEY, aptpl=True), "5f000000000000001800", ZERO + MINE + "0000000001000000"),
        (scsi_pr.register_and_ignore(KEY), "5f060000000000001800", ZERO + MINE + ZERO),
        (scsi_pr.reserve(KEY), "5f010500000000001800", MINE + ZERO + ZERO),
        (scsi_pr.reserve(KEY, Kind.WRITE_EXCLUSIVE), "5f010100000000001800", MINE + ZERO + ZERO),
        (scsi_pr.release(KEY), "5f020500000000001800", MINE + ZERO + ZERO),
        (scsi_pr.clear(KEY), "5f030000000000001800", MINE + ZERO + ZERO),
        (scsi_pr.preempt(KEY, OTHER), "5f040500000000001800", MINE + THEIRS + ZERO),
        (scsi_pr.preempt(KEY, OTHER, abort=True), "5f050500000000001800", MINE + THEIRS + ZERO),
    ],
)
def test_reserve_out(built: tuple[bytes, bytes], cdb: str, parameters: str) -> None:
    assert (built[0].hex(), built[1].hex()) == (cdb, parameters)


@pytest.mark.parametrize(
    ("built", "cdb"),
    [
        (scsi_pr.read_keys(), "5e000000000000100000"),
        (scsi_pr.read_reservation(), "5e010000000000001800"),
        (scsi_pr.report_capabilities(), "5e020000000000000800"),
        (scsi_pr.read_full_status(256), "5e030000000000010000"),
        (scsi.test_unit_ready(), "000000000000"),
        (scsi.inquiry(), "12000000fc00"),
        (scsi.inquiry(0x80), "12018000fc00"),
        (scsi.report_luns(16), "a00000000000000000100000"),
        (scsi.read_capacity_10(), "25000000000000000000"),
        (scsi.read_capacity_16(), "9e100000000000000000000000200000"),
        (scsi.read_10(0x01020304, 5), "28000102030400000500"),
        (scsi.write_10(0x01020304, 5), "2a000102030400000500"),
        (scsi.read_16(0x0102030405060708, 9), "88000102030405060708000000090000"),
        (scsi.write_16(0x0102030405060708, 9), "8a000102030405060708000000090000"),
    ],
)
def test_cdbs(built: bytes, cdb: str) -> None:
    assert built.hex() == cdb


def test_parse_keys() -> None:
    assert scsi_pr.parse_keys(bytes.fromhex("0000000500000010" + MINE + THEIRS)) == (5, (KEY, OTHER))
    assert scsi_pr.parse_keys(bytes.fromhex("0000000000000000")) == (0, ())


def test_parse_reservation() -> None:
    held = "0000000500000010" + MINE + "00000000" + "00" + "05" + "0000"
    assert scsi_pr.parse_reservation(bytes.fromhex(held)) == (5, Reservation(KEY, 5, 0))
    assert scsi_pr.parse_reservation(bytes.fromhex("0000000500000000")) == (5, None)


def test_parse_capabilities() -> None:
    capable = scsi_pr.parse_capabilities(bytes.fromhex("0008018120000000"))
    assert (capable.survives_power_loss, capable.survives_power_loss_now) == (True, True)
    assert capable.kinds == {Kind.WRITE_EXCLUSIVE_REGISTRANTS}
    silent = scsi_pr.parse_capabilities(bytes.fromhex("00080000ea010000"))
    assert silent.kinds == frozenset(), "without TMV the mask says nothing"


def test_supported_commands() -> None:
    assert scsi.report_opcodes(512).hex() == "a30c00000000000002000000"
    # REPORT LUNS; PREEMPT with timeouts, PREEMPT AND ABORT
    told = bytes.fromhex("a00000000000000c 5f0000040003000a" + "00" * 12 + "5f0000050001000a")
    assert scsi.parse_opcodes(len(told).to_bytes(4, "big") + told) == {(0xA0, None), (0x5F, 4), (0x5F, 5)}
    assert scsi.parse_opcodes(bytes(4)) == frozenset()


@pytest.mark.parametrize("data", ["", "00", "00000008a0000000000000"])
def test_a_list_of_commands_that_is_cut_short_is_refused(data: str) -> None:
    with pytest.raises(ValueError, match="bytes announced"):
        scsi.parse_opcodes(bytes.fromhex(data))


def test_parse_full_status() -> None:
    entry = MINE + "00000000" + "01" + "05" + "00000000" + "0001" + "00000008" + "0600000000000001"
    _, registrants = scsi_pr.parse_full_status(bytes.fromhex("0000000500000020" + entry))
    assert registrants == (scsi_pr.Registrant(KEY, True, 5, 1, bytes.fromhex("0600000000000001")),)


@pytest.mark.parametrize("parse", [scsi_pr.parse_keys, scsi_pr.parse_reservation, scsi_pr.parse_full_status])
@pytest.mark.parametrize("data", ["", "00000005", "0000000500000018" + MINE])
def test_what_is_cut_short_is_refused(parse, data: str) -> None:
    with pytest.raises(ValueError, match=r"short|came"):
        parse(bytes.fromhex(data))


@given(st.binary(max_size=80))
def test_parsers_refuse_or_return_but_never_break(data: bytes) -> None:
    for parse in (
        scsi_pr.parse_keys,
        scsi_pr.parse_reservation,
        scsi_pr.parse_capabilities,
        scsi_pr.parse_full_status,
        scsi.parse_serial,
        scsi.parse_capacity,
    ):
        with contextlib.suppress(ValueError):
            assert parse(data) is not None
    sense = scsi.parse_sense(data)
    assert sense is None or 0 <= sense.key <= 15


@pytest.mark.parametrize(
    ("raw", "sense"),
    [
        ("700006000000000a000000002a0300000000", scsi.RESERVATIONS_PREEMPTED),
        ("f00006000000000a00000000290000000000", scsi.POWER_ON_OR_RESET),  # VALID bit set
        ("720005240000000072", None),  # see below
        ("7206290000000000", scsi.POWER_ON_OR_RESET),
        ("72062a0500000000", scsi.REGISTRATIONS_PREEMPTED),
        ("700005", Sense(5, 0, 0)),
        ("00", None),
        ("", None),
    ],
)
def test_sense(raw: str, sense: Sense | None) -> None:
    if raw.startswith("720005"):  # descriptor format with NO SENSE: key 0, not 5
        sense = Sense(0, 0x05, 0x24)
    assert scsi.parse_sense(bytes.fromhex(raw)) == sense


@given(st.integers(0, 15), st.integers(0, 255), st.integers(0, 255))
def test_sense_survives_both_formats(key: int, code: int, qualifier: int) -> None:
    sense = Sense(key, code, qualifier)
    assert scsi.parse_sense(scsi.fixed_sense(sense)) == scsi.parse_sense(scsi.descriptor_sense(sense)) == sense


def test_sense_classes() -> None:
    assert scsi.POWER_ON_OR_RESET.target_was_reset
    assert scsi.BUS_DEVICE_RESET.target_was_reset
    assert scsi.RESERVATIONS_PREEMPTED.reservations_changed
    assert not scsi.POWER_ON_OR_RESET.reservations_changed
    assert scsi.INVALID_OPCODE.unsupported
    assert not scsi.LBA_OUT_OF_RANGE.unsupported


def test_explain() -> None:
    assert scsi.explain(Reply(0x18)) == "RESERVATION CONFLICT"
    assert scsi.explain(Reply(2, scsi.fixed_sense(scsi.POWER_ON_OR_RESET))) == "CHECK CONDITION 06/29/00"
    assert scsi.explain(Reply(0x55)) == "status 0x55"


def test_serial_and_capacity() -> None:
    assert scsi.parse_serial(bytes.fromhex("00800004") + b"S 1 ") == "S 1"
    assert scsi.parse_capacity(bytes.fromhex("000007ff00000200")) == (2048, 512)
    assert scsi.parse_capacity(bytes.fromhex("00000000000007ff00000200") + bytes(20)) == (2048, 512)


def test_keys_are_host_and_generation() -> None:
    key = scsi_pr.make_key(0xA0000001, 7)
    assert (key, scsi_pr.host_of(key), scsi_pr.generation_of(key)) == (KEY, 0xA0000001, 7)


@pytest.mark.parametrize(("before", "after"), [(0, 1), (7, 8), (0xFFFF_FFFF, 1)])
def test_next_generation_skips_zero(before: int, after: int) -> None:
    assert scsi_pr.next_generation(before) == after
    assert scsi_pr.not_before(after, before)
    assert not scsi_pr.not_before(before, after)
