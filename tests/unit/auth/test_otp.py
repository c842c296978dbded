import base64

import pytest

from middlewared.auth import otp

RFC_SECRET = base64.b32encode(b"12345678901234567890").decode()


@pytest.mark.parametrize(
    ("now_s", "expected"),
    [
        (59, "94287082"),
        (1111111109, "07081804"),
        (1111111111, "14050471"),
        (1234567890, "89005924"),
        (2000000000, "69279037"),
        (20000000000, "65353130"),
    ],
)
def test_vectors_of_rfc_6238_appendix_b(now_s: int, expected: str) -> None:
    assert otp.code(RFC_SECRET, now_s // otp.STEP_S, digits=8) == expected


def test_one_step_of_drift_is_forgiven_two_are_not() -> None:
    now_s = 1_780_000_000.0
    step = int(now_s) // otp.STEP_S
    assert [otp.matching_step(RFC_SECRET, otp.code(RFC_SECRET, step + drift), now_s) for drift in range(-2, 3)] == [
        None,
        step - 1,
        step,
        step + 1,
        None,
    ]


@pytest.mark.parametrize("given", ["", "abcdef", "1234567", "١٢٣٤٥٦", "\ud800"])
def test_nonsense_does_not_match(given: str) -> None:
    assert otp.matching_step(RFC_SECRET, given, 59) is None


def test_secrets_are_fresh_and_travel_in_the_uri() -> None:
    secret = otp.new_secret()
    assert secret != otp.new_secret()
    assert len(base64.b32decode(secret)) == otp.SECRET_BYTES
    uri = otp.provisioning_uri(secret, "eve@home", "my box")
    assert uri.startswith(f"otpauth://totp/my%20box%3Aeve%40home?secret={secret}&issuer=my%20box&")
