"""Time-based one-time passwords: TOTP (RFC 6238) over HOTP (RFC 4226), as authenticator apps make them."""

import base64
import binascii
import hmac
import secrets
from urllib.parse import quote

STEP_S = 30
DIGITS = 6
DRIFT_STEPS_MAX = 1  # a clock may be one step ahead or behind (RFC 6238 section 5.2)
SECRET_BYTES = 20  # the length of the hash (RFC 4226 section 4, R6)


def new_secret() -> str:
    """A fresh secret in base32."""
    return base64.b32encode(secrets.token_bytes(SECRET_BYTES)).decode()


def provisioning_uri(secret: str, username: str, issuer: str) -> str:
    """The URI that authenticator apps read from a QR code."""
    label = quote(f"{issuer}:{username}", safe="")
    return f"otpauth://totp/{label}?secret={secret}&issuer={quote(issuer, safe='')}&digits={DIGITS}&period={STEP_S}"


def code(secret: str, step: int, digits: int = DIGITS) -> str:
    """The one-time password of one time step (RFC 4226 section 5.3, HMAC-SHA-1)."""
    digest = hmac.digest(_decode(secret), step.to_bytes(8, "big"), "sha1")
    offset = digest[-1] & 0x0F
    number = int.from_bytes(digest[offset : offset + 4], "big") & 0x7FFFFFFF
    return str(number % 10**digits).zfill(digits)


def matching_step(secret: str, given: str, now_s: float) -> int | None:
    """The time step that `given` is good for, near now; None if it is wrong. All candidates are compared."""
    current = int(now_s) // STEP_S
    found = None
    for step in range(current - DRIFT_STEPS_MAX, current + DRIFT_STEPS_MAX + 1):
        if hmac.compare_digest(code(secret, step).encode(), given.encode("utf-8", "surrogatepass")):
            found = step
    return found


def _decode(secret: str) -> bytes:
    padded = secret.upper() + "=" * (-len(secret) % 8)
    try:
        return base64.b32decode(padded)
    except binascii.Error as error:
        raise ValueError("a TOTP secret must be base32 (RFC 4648)") from error
