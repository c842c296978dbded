"""Pairing, undisturbed and disturbed: all or nothing, and whoever is in between learns nothing and changes nothing."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.pairing import CODE, MESSAGES, controller, introduce

from middlewared.licence.document import LicenceError
from middlewared.peer.introduction import CodeRefused, Controller, HalfPaired, NotProven, Paired, PairingError
from middlewared.peer.pairfiles import der
from middlewared.peer.pairing import VALID_DAYS, generate_certificate
from middlewared.peer.pake import MAGIC

SHOWER_IS_PAIRED = 8  # the number of the message that the shower sends once it has written everything down


@pytest.fixture
def a(tmp_path: Path) -> Controller:
    return controller(tmp_path, "A")


@pytest.fixture
def b(tmp_path: Path) -> Controller:
    return controller(tmp_path, "B")


def content(one: Controller) -> dict[str, bytes]:
    """What a pairing changes, by path."""
    state = one.licence.path.parent
    watched = [*state.glob("licence.json"), *state.glob("licence-keys/*"), *state.glob("peer/*")]
    return {str(path): path.read_bytes() for path in watched if path.name != ".lock"}


def assert_paired(a: Controller, b: Controller) -> None:
    assert [der(one) for one in a.files.pinned()] == [der(b.files.own())]
    assert [der(one) for one in b.files.pinned()] == [der(a.files.own())]
    ring = a.files.ring()
    assert ring is not None
    assert ring == b.files.ring()
    for one in (a, b):
        assert set(one.licence.check(one.serial).serials) == {a.serial, b.serial}


def secrets_of(one: Controller) -> Iterator[bytes]:
    ring = one.files.ring()
    assert ring is not None
    yield from ring.encode().split()
    yield one.files.own_path.read_bytes().split(b"-----")[2].strip()[:40]  # of the private key


@pytest.mark.parametrize("shower", ["A", "B"])
async def test_each_knows_the_other_afterwards(a: Controller, b: Controller, shower: str) -> None:
    key_of_a = a.files.make_ring().keys[0]
    key_of_b = b.files.make_ring().keys[0]
    ends = (b, a) if shower == "A" else (a, b)
    outcomes = dict(zip("BA" if shower == "A" else "AB", await introduce(*ends), strict=True))
    assert_paired(a, b)
    told_a, told_b = outcomes["A"], outcomes["B"]
    assert isinstance(told_a, Paired)
    assert isinstance(told_b, Paired)
    assert (told_a.node, told_a.hostname, told_a.serial) == ("B", "controller-b", "SN-B")
    assert told_a.own_fingerprint == told_b.other_fingerprint
    assert told_b.own_fingerprint == told_a.other_fingerprint
    assert a.files.partner() == "B (controller-b)"
    ring = a.files.ring()
    assert ring is not None
    assert ring.keys == (key_of_a, key_of_b), "A's key becomes the pair's, and B's opens what was sealed before"


async def test_the_files_are_for_root_alone(a: Controller, b: Controller) -> None:
    await introduce(a, b)
    for one in (a, b):
        peer = one.files.own_path.parent
        assert peer.stat().st_mode & 0o777 == 0o700
        assert {path.stat().st_mode & 0o777 for path in peer.iterdir()} == {0o600}


async def test_nothing_secret_goes_over_the_wire(a: Controller, b: Controller) -> None:
    heard: list[bytes] = []

    def listen(number: int, message: bytes) -> bytes:
        heard.append(message)
        return message

    await introduce(a, b, alter=listen)
    assert len(heard) == MESSAGES
    wire = b"".join(heard)
    for secret in (*secrets_of(a), *secrets_of(b), b"controller-", b"SN-", b"CERTIFICATE", CODE.encode()):
        assert secret not in wire


async def test_a_wrong_code(a: Controller, b: Controller) -> None:
    before = content(a), content(b)
    caller, shower = await introduce(a, b, codes=(CODE, "7K3DQ9MY"))
    assert isinstance(caller, CodeRefused)
    assert "compare it letter by letter" in str(caller)
    assert isinstance(shower, CodeRefused)
    assert (content(a), content(b)) == before


@pytest.mark.parametrize("again", [False, True], ids=["fresh", "paired with others before"])
@pytest.mark.parametrize("number", range(1, MESSAGES + 1))
async def test_interrupted(a: Controller, b: Controller, tmp_path: Path, number: int, again: bool) -> None:
    """Before each message in turn. Whatever is left, pairing again mends it."""
    if again:
        await introduce(a, controller(tmp_path, "B", "SN-old-B"))
        await introduce(b, controller(tmp_path, "A", "SN-old-A"))
    before = a.files.pinned(), b.files.pinned()
    licences = [one.licence.path.read_bytes() if again else b"" for one in (a, b)]
    caller, shower = await introduce(a, b, alter=lambda at, message: None if at == number else message)
    assert isinstance(shower, NotProven if number <= 3 else HalfPaired if number >= SHOWER_IS_PAIRED else PairingError)
    if number > SHOWER_IS_PAIRED:
        assert isinstance(caller, Paired)
        assert_paired(a, b)
    else:
        assert isinstance(caller, PairingError)
        assert "air again" in str(caller) or isinstance(caller, CodeRefused)
        assert a.files.pinned() == before[0]
        assert not again or a.licence.path.read_bytes() == licences[0]
    if number < SHOWER_IS_PAIRED:
        assert b.files.pinned() == before[1]
        assert not again or b.licence.path.read_bytes() == licences[1]
    if not again and number < SHOWER_IS_PAIRED:
        for one in (a, b):
            with pytest.raises(LicenceError, match="there is no"):
                one.licence.check(one.serial)
    await introduce(a, b)
    assert_paired(a, b)


@pytest.mark.parametrize("position", [0, 8, -1], ids=["first", "inside", "last"])
@pytest.mark.parametrize("number", range(1, MESSAGES + 1))
async def test_altered(a: Controller, b: Controller, number: int, position: int) -> None:
    """A bit of each message in turn: it is noticed where it arrives, and nobody trusts anybody by it."""

    def flip(at: int, message: bytes) -> bytes:
        changed = bytearray(message)
        if at == number:
            changed[position] ^= 1
        return bytes(changed)

    caller, shower = await introduce(a, b, alter=flip)
    if number < MESSAGES:
        assert isinstance(caller, PairingError)
        assert a.files.pinned() == ()
    assert isinstance(shower, PairingError)
    assert isinstance(shower, HalfPaired) == (number >= SHOWER_IS_PAIRED)
    assert (b.files.pinned() == ()) == (number < SHOWER_IS_PAIRED)


@pytest.mark.parametrize("number", range(2, MESSAGES + 1))
async def test_replayed(a: Controller, b: Controller, number: int) -> None:
    """An earlier message of the same direction once more, where another one is due."""
    heard: dict[int, bytes] = {}

    def repeat(at: int, message: bytes) -> bytes:
        heard[at] = message
        return heard.get(at - 2, heard[1]) if at == number else message

    caller, shower = await introduce(a, b, alter=repeat)
    assert isinstance(shower, PairingError)
    assert isinstance(caller, PairingError) or number == MESSAGES
    if number < SHOWER_IS_PAIRED:
        assert a.files.pinned() == b.files.pinned() == ()


async def test_a_whole_conversation_replayed(a: Controller, b: Controller, tmp_path: Path) -> None:
    """What was recorded when A called B does not bring anybody else in, with the same code."""
    recorded: dict[int, bytes] = {}
    await introduce(a, b, alter=lambda at, message: recorded.setdefault(at, message))
    stranger, again = controller(tmp_path, "A", "SN-stranger"), controller(tmp_path, "B", "SN-again")
    caller, shower = await introduce(stranger, again, alter=lambda at, message: recorded[at] if at % 2 else message)
    assert isinstance(caller, PairingError)
    assert isinstance(shower, CodeRefused)
    assert again.files.pinned() == ()


async def test_somebody_in_between_with_another_code(a: Controller, b: Controller) -> None:
    """He answers with messages of his own: a point, a proof. One guess, and it is told."""
    caller, shower = await introduce(
        a, b, alter=lambda at, message: MAGIC + b"B" + bytes(32) if at == 2 else bytes(32) if at == 4 else message
    )
    assert isinstance(caller, PairingError)
    assert isinstance(shower, NotProven)


# ---------------------------------------------------------------------------------------------- what does not fit


async def refused(a: Controller, b: Controller) -> str:
    """What both say who do not fit; nothing was pinned."""
    caller, shower = await introduce(a, b)
    for end in (caller, shower):
        assert isinstance(end, PairingError)
    assert a.files.pinned() == b.files.pinned() == ()
    return f"{caller}\n{shower}"


async def test_two_of_the_same_letter(tmp_path: Path) -> None:
    text = await refused(controller(tmp_path, "A", "SN-1"), controller(tmp_path, "A", "SN-2"))
    assert text.count("Both controllers say that they are node A") == 2


async def test_the_same_serial_number(a: Controller, b: Controller) -> None:
    text = await refused(a, replace(b, serial="SN-A"))
    assert text.count("Both controllers have the serial number SN-A: set platform.serial") == 2


async def test_a_copied_certificate(a: Controller, b: Controller) -> None:
    pem = generate_certificate("A")
    a.files.write_own(pem)
    b.files.write_own(pem)
    assert "the same certificate" in await refused(a, b)


async def test_a_clock_that_is_wrong(a: Controller, b: Controller, monkeypatch: pytest.MonkeyPatch) -> None:
    future = datetime.now(UTC) + timedelta(days=400)
    a.files.write_own(generate_certificate("A", now=future))
    b.files.write_own(generate_certificate("B"))
    monkeypatch.setattr(
        "middlewared.peer.introduction._own_certificate", lambda me: me.files.own()
    )  # A's clock is wrong
    assert "the certificate of A is not valid: set both clocks" in await refused(a, b)


async def test_an_expired_certificate_of_ours_is_replaced(a: Controller, b: Controller) -> None:
    a.files.write_own(generate_certificate("A", now=datetime.now(UTC) - timedelta(days=VALID_DAYS + 1)))
    await introduce(a, b)
    assert_paired(a, b)
    assert a.files.own().not_valid_after_utc > datetime.now(UTC)


async def test_a_certificate_without_its_key_is_replaced(a: Controller, b: Controller) -> None:
    pem = generate_certificate("A")
    a.files.write_own(pem[pem.index(b"-----BEGIN CERTIFICATE") :])
    await introduce(a, b)
    assert_paired(a, b)
    assert a.files.own_key_fits()


async def test_a_disk_that_cannot_be_written(a: Controller, b: Controller) -> None:
    await introduce(controller(b.licence.path.parent.parent, "A", "SN-old"), b)
    old = b.files.pinned()
    b.licence.path.unlink()
    b.licence.path.mkdir()  # where the licence should go
    caller, shower = await introduce(a, b)
    assert "refuses: Controller B could not write" in str(caller)
    assert "could not write" in str(shower)
    assert a.files.pinned() == ()
    assert b.files.pinned() == old


async def test_one_at_a_time(a: Controller, b: Controller) -> None:
    with b.files.exclusive():
        caller, shower = await introduce(a, b)
    assert isinstance(caller, PairingError)
    assert "under way here" in str(shower)


# ---------------------------------------------------------------------------------------------- again, and licences


async def test_pairing_again_keeps_certificates_and_keys(a: Controller, b: Controller) -> None:
    await introduce(a, b)
    before = content(a), content(b)
    await introduce(b, a)
    assert (content(a), content(b)) == before


async def test_a_replaced_controller(a: Controller, b: Controller, tmp_path: Path) -> None:
    """The new one is trusted, the old one is not any more; what was sealed before still opens."""
    await introduce(a, b)
    ring = a.files.ring()
    assert ring is not None
    sealed = ring.seal("user", "otp_secret", 1, "secret")
    new = controller(tmp_path, "B", "SN-new-B")
    await introduce(a, new)
    assert_paired(a, new)
    assert der(b.files.own()) not in [der(one) for one in a.files.pinned()]
    fresh = new.files.ring()
    assert fresh is not None
    assert fresh.open("user", "otp_secret", 1, sealed) == "secret"


async def test_a_replaced_node_a_reads_what_b_sealed(a: Controller, b: Controller, tmp_path: Path) -> None:
    await introduce(a, b)
    ring = b.files.ring()
    assert ring is not None
    sealed = ring.seal("user", "otp_secret", 1, "secret")
    new = controller(tmp_path, "A", "SN-new-A")
    own = new.files.make_ring().keys[0]
    await introduce(new, b)
    joint = new.files.ring()
    assert joint is not None
    assert joint.keys[0] == own
    assert joint.open("user", "otp_secret", 1, sealed) == "secret"


@pytest.mark.parametrize("owner", ["A", "B"])
async def test_a_licence_for_both_is_kept(a: Controller, b: Controller, owner: str) -> None:
    """Whoever has one, from whomever."""
    issued = (a if owner == "A" else b).licence.issue((a.serial, b.serial), expires_at="2099-01-01T00:00:00Z")
    outcome, _ = await introduce(a, b)
    assert isinstance(outcome, Paired)
    assert a.licence.path.read_bytes() == b.licence.path.read_bytes() == issued.licence
    assert_paired(a, b)


async def test_a_licence_that_names_others_is_replaced(a: Controller, b: Controller) -> None:
    a.licence.issue((a.serial, "SN-former"))
    b.licence.issue((b.serial, "SN-former"))
    await introduce(a, b)
    assert_paired(a, b)
