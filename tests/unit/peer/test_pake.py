"""What the code protects: a key that only those have who know it."""

import pytest

from middlewared.peer import pake
from middlewared.peer.pake import MAGIC, Pake, PakeError, WrongCode

CODE = "7K3DQ9MX"


def pair(codes: tuple[str, str] = (CODE, CODE)) -> tuple[Pake, Pake]:
    """Caller and shower after their first messages."""
    caller, shower = Pake(codes[0], caller=True), Pake(codes[1], caller=False)
    shower.finish(caller.message)
    caller.finish(shower.message)
    return caller, shower


def test_with_the_same_code_they_understand_each_other() -> None:
    caller, shower = pair()
    shower.check(caller.confirmation())
    caller.check(shower.confirmation())
    for text in (b"one", b"two"):
        assert shower.open(caller.seal(text)) == text
        assert caller.open(shower.seal(text)) == text


def test_with_another_code_they_do_not() -> None:
    caller, shower = pair((CODE, "7K3DQ9MY"))
    with pytest.raises(WrongCode):
        shower.check(caller.confirmation())
    with pytest.raises(WrongCode):
        caller.check(shower.confirmation())
    with pytest.raises(PakeError, match="altered"):
        shower.open(caller.seal(b"one"))


def test_a_proof_is_not_the_others_proof() -> None:
    """Sent back, it proves nothing."""
    caller, shower = pair()
    with pytest.raises(WrongCode):
        caller.check(caller.confirmation())
    with pytest.raises(WrongCode):
        shower.check(shower.confirmation())


def test_a_message_of_ones_own_is_refused() -> None:
    caller = Pake(CODE, caller=True)
    with pytest.raises(PakeError, match="does not keep to the protocol"):
        caller.finish(caller.message)


@pytest.mark.parametrize("side", [b"A", b"B"])
@pytest.mark.parametrize(
    "point",
    [
        bytes(32),
        b"\x01" + bytes(31),  # the neutral element
        b"\xec" + b"\xff" * 30 + b"\x7f",  # of order 2
        b"\xff" * 32,
        b"\x02" + bytes(31),  # not on the curve
    ],
)
def test_what_is_no_point_is_refused(side: bytes, point: bytes) -> None:
    with pytest.raises(PakeError, match="does not keep to the protocol"):
        Pake(CODE, caller=side == b"B").finish(MAGIC + side + point)


@pytest.mark.parametrize("message", [b"", MAGIC, b"GET / HTTP/1.1\r\n\r\n", b"mwpair2\0" + bytes(33)])
def test_another_language_is_refused(message: bytes) -> None:
    with pytest.raises(PakeError, match="does not pair"):
        Pake(CODE, caller=False).finish(message)


def test_messages_count() -> None:
    """None twice, none left out, none of the other direction."""
    caller, shower = pair()
    first, second = caller.seal(b"one"), caller.seal(b"two")
    with pytest.raises(PakeError):
        shower.open(second)
    caller, shower = pair()
    first = caller.seal(b"one")
    assert shower.open(first) == b"one"
    with pytest.raises(PakeError):
        shower.open(first)
    with pytest.raises(PakeError):
        caller.open(caller.seal(b"three"))


def test_messages_of_another_conversation_are_refused() -> None:
    old_caller, _ = pair()
    _, shower = pair()
    with pytest.raises(WrongCode):
        shower.check(old_caller.confirmation())
    with pytest.raises(PakeError):
        shower.open(old_caller.seal(b"one"))


def test_codes_are_typed_as_people_type() -> None:
    code = pake.new_code()
    assert pake.normalise(f" {code.lower()} ") == pake.normalise(code.replace("-", "")) == code.replace("-", "")
    assert len({pake.new_code() for _ in range(100)}) == 100


@pytest.mark.parametrize("text", ["", "7K3D", "7K3D-Q9MX-2", "7K3D-Q9M0", "7K3D-Q9M!", "ÄÖÜ-ÄÖÜÄ"])
def test_what_cannot_be_a_code(text: str) -> None:
    with pytest.raises(PakeError, match="8 letters and digits, like 7K3D-Q9MX"):
        pake.normalise(text)
