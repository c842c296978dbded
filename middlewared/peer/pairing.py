"""The certificates by which the two controllers know one another: made here, exchanged once, pinned for ever."""

import contextlib
import os
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALID_DAYS = 3653  # ten years
RENEW_BEFORE = timedelta(days=30)  # from then on somebody is told
CLOCK_SKEW = timedelta(days=1)  # a controller whose clock is behind accepts a new certificate all the same


def generate_certificate(node: str, *, now: datetime | None = None) -> bytes:
    """PEM with a new EC P-256 key and its self-signed certificate, CN controller-<node>, valid for ten years.

    No two have the same name: OpenSSL looks a pinned certificate up by it, and would take one for the other. TLS shows
    it to strangers, too, before they have to prove anything: so it says no more than the letter.
    """
    moment = now if now is not None else datetime.now(UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    number = x509.random_serial_number()
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, f"controller-{node}"),
            x509.NameAttribute(NameOID.SERIAL_NUMBER, f"{number:x}"),
        ]
    )
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(number)
        .not_valid_before(moment - CLOCK_SKEW)
        .not_valid_after(moment + timedelta(days=VALID_DAYS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + certificate.public_bytes(serialization.Encoding.PEM)


def public_part(pem: bytes) -> bytes:
    """The certificate alone, as PEM: what the other controller gets. Raises ValueError when there is none."""
    return x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.PEM)


def fingerprint(pem: bytes) -> str:
    """SHA-256 of the certificate, colon hex, for two people to compare. Raises ValueError when there is none."""
    return x509.load_pem_x509_certificate(pem).fingerprint(hashes.SHA256()).hex(":")


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner may read, durably and all or nothing. Raises OSError."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)  # the rename itself
    finally:
        os.close(folder)
