"""What a licence promises: it holds for its two controllers, and any other byte in it ends that."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from middlewared.licence.document import LicenceError, check, fingerprint, issue, read

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
TRUSTED = {fingerprint(KEY.public_key()): KEY.public_key()}
LICENCE = issue(KEY, ("A-1", "B-1"), issuer="this pair", now=NOW)


def test_it_reads_like_this() -> None:
    assert list(json.loads(LICENCE)) == [
        "expires_at",
        "features",
        "issued_at",
        "issuer",
        "key",
        "serials",
        "signature",
    ]
    assert read(LICENCE).issued_at == "2026-11-26T12:00:00Z"


@pytest.mark.parametrize("serial", ["A-1", "B-1"])
def test_it_holds_on_both(serial: str) -> None:
    assert check(LICENCE, TRUSTED, serial, NOW).serials == ("A-1", "B-1")


@given(st.integers(0, len(LICENCE) - 1), st.integers(1, 255))
def test_any_changed_byte_is_refused(place: int, change: int) -> None:
    data = bytearray(LICENCE)
    data[place] ^= change
    with pytest.raises(LicenceError):
        check(bytes(data), TRUSTED, "A-1", NOW)


@given(st.integers(0, len(LICENCE)), st.binary(max_size=8))
def test_what_is_cut_or_longer_is_refused(place: int, more: bytes) -> None:
    for data in (LICENCE[:place] + more, LICENCE[:place] + more + LICENCE[place:]):
        if data != LICENCE:
            with pytest.raises(LicenceError):
                check(data, TRUSTED, "A-1", NOW)


@given(st.binary(max_size=200) | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(json.dumps))
def test_anything_else_is_not_a_licence(data: Any) -> None:
    with pytest.raises(LicenceError):
        read(data if isinstance(data, bytes) else data.encode())


@pytest.mark.parametrize(
    "spoil",
    [
        {"serials": "AB"},
        {"serials": ["A-1"]},
        {"serials": [1, 2]},
        {"features": {"FAILOVER": 1}},
        {"issuer": None},
        {"more": 1},
    ],
)
def test_members_of_another_kind(spoil: dict[str, Any]) -> None:
    with pytest.raises(LicenceError, match="not a licence file"):
        read(json.dumps({**json.loads(LICENCE), **spoil}).encode())


def test_why_not() -> None:
    other = Ed25519PrivateKey.generate()
    foreign = issue(other, ("A-1", "B-1"), issuer="somebody", now=NOW)
    with pytest.raises(LicenceError, match="signed by a key that is not trusted here"):
        check(foreign, TRUSTED, "A-1", NOW)
    with pytest.raises(LicenceError, match="signature is wrong"):
        check(LICENCE, {fingerprint(KEY.public_key()): other.public_key()}, "A-1", NOW)
    with pytest.raises(LicenceError, match="for the controllers A-1 and B-1, and this one is C-1"):
        check(LICENCE, TRUSTED, "C-1", NOW)
    short = issue(KEY, ("A-1", "B-1"), issuer="this pair", now=NOW, expires_at="2026-11-26T12:00:01Z")
    assert check(short, TRUSTED, "A-1", NOW)
    with pytest.raises(LicenceError, match="expired at 2026-11-26T12:00:01Z"):
        check(short, TRUSTED, "A-1", NOW.replace(second=1))


@pytest.mark.parametrize("serials", [("A-1",), ("A-1", "A-1"), ("A-1", ""), ("A", "B", "C")])
def test_what_is_not_issued(serials: Any) -> None:
    with pytest.raises(LicenceError, match="two different serial numbers"):
        issue(KEY, serials, issuer="this pair", now=NOW)
    with pytest.raises(LicenceError, match="expires_at"):
        issue(KEY, ("A", "B"), issuer="this pair", now=NOW, expires_at="tomorrow")
