"""A licence as bytes: rendered, signed and judged. Pure.

A JSON object; the signature is Ed25519 (RFC 8032) over its rendering without the member `signature`. There is one
rendering only: a file that differs from it in a single byte was not issued like that, and is refused.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

FAILOVER = "FAILOVER"
BYTES_MAX = 16 << 10
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z")


class LicenceError(Exception):
    """Why the licence does not count, a sentence."""


@dataclass(frozen=True, slots=True)
class Licence:
    """Times read `2026-11-26T12:00:00Z`; `expires_at` empty: never. `key`: SHA-256 of the issuer's public key, hex."""

    serials: tuple[str, str]
    features: tuple[str, ...]
    issued_at: str
    expires_at: str
    issuer: str
    key: str
    signature: str = ""  # hex


Keys = Mapping[str, Ed25519PublicKey]  # by fingerprint


def fingerprint(key: Ed25519PublicKey) -> str:
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return sha256(raw).hexdigest()


def issue(key: Ed25519PrivateKey, serials: Sequence[str], *, issuer: str, now: datetime, expires_at: str = "") -> bytes:
    """A licence for the two controllers with these serial numbers. Raises LicenceError."""
    if len(serials) != 2 or not all(serials) or serials[0] == serials[1]:
        raise LicenceError("a licence names two different serial numbers, one of each controller")
    if expires_at and not _TIME.fullmatch(expires_at):
        raise LicenceError(f"expires_at {expires_at!r}: must read 2026-11-26T12:00:00Z")
    blank = Licence(
        (serials[0], serials[1]), (FAILOVER,), _text(now), expires_at, issuer, fingerprint(key.public_key())
    )
    return _render({**_members(blank), "signature": key.sign(_render(_members(blank))).hex()})


def read(data: bytes) -> Licence:
    """What a file says, not whether it is true. Raises LicenceError."""
    try:
        members = json.loads(data[:BYTES_MAX].decode())
        licence = Licence(**members)
        texts = (licence.issued_at, licence.expires_at, licence.issuer, licence.key, licence.signature)
        if not (_texts(licence.serials) and len(licence.serials) == 2 and _texts(licence.features) and _texts(texts)):
            raise ValueError
    except (ValueError, TypeError, RecursionError):
        raise LicenceError("it is not a licence file") from None
    licence = Licence(**{**members, "serials": tuple(licence.serials), "features": tuple(licence.features)})
    if _render({**_members(licence), "signature": licence.signature}) != data:
        raise LicenceError("it was changed after it was issued")
    return licence


def check(data: bytes, keys: Keys, serial: str, now: datetime) -> Licence:
    """The licence, if it holds for the controller with this serial number. Raises LicenceError."""
    licence = read(data)
    key = keys.get(licence.key)
    if key is None:
        raise LicenceError(f"it is signed by a key that is not trusted here, {licence.key[:16]}…")
    try:
        signature = bytes.fromhex(licence.signature)
        if signature.hex() != licence.signature:  # upper case and blanks would do for fromhex
            raise ValueError
        key.verify(signature, _render(_members(licence)))
    except (InvalidSignature, ValueError):
        raise LicenceError("its signature is wrong: it was changed after it was issued") from None
    if serial not in licence.serials:
        raise LicenceError(f"it is for the controllers {' and '.join(licence.serials)}, and this one is {serial}")
    if FAILOVER not in licence.features:
        raise LicenceError(f"it does not include {FAILOVER}")
    if licence.expires_at and licence.expires_at <= _text(now):
        raise LicenceError(f"it expired at {licence.expires_at}")
    return licence


def _members(licence: Licence) -> dict[str, Any]:
    """What is signed."""
    members = asdict(licence)
    del members["signature"]
    return members


def _render(members: Mapping[str, Any]) -> bytes:
    return (json.dumps(members, indent=1, sort_keys=True, ensure_ascii=True) + "\n").encode()


def _texts(values: Any) -> bool:
    return isinstance(values, list | tuple) and all(isinstance(value, str) for value in values)


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
