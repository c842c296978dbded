"""Where a controller keeps its licence and the keys that it trusts: all of it in state_dir.

licence.json       the licence, the same on both controllers
licence-keys/      *.pem, public keys that are trusted; that of the pair, or a vendor's
licence-key.pem    the private key of a pair that issued its licence itself; only where it was issued
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from middlewared.licence.document import BYTES_MAX, Keys, Licence, LicenceError, check, fingerprint, issue, read
from middlewared.peer.pairing import write_private

KEYS_MAX = 64
SELF_ISSUER = "this pair"
_FILE = "licence.json"
_KEYS = "licence-keys"
_OWN_KEY = "licence-key.pem"
_PAIR_KEY = "pair.pem"


@dataclass(frozen=True, slots=True)
class Issued:
    """What the other controller has to get: `install` there."""

    licence: bytes
    public_key: bytes  # PEM


class LicenceFiles:
    def __init__(self, state_dir: Path, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._folder = state_dir
        self._now = now

    @property
    def path(self) -> Path:
        return self._folder / _FILE

    @property
    def keys_folder(self) -> Path:
        """The public keys that are trusted, *.pem."""
        return self._folder / _KEYS

    def read(self) -> Licence:
        """What the licence says, not whether it holds. Raises LicenceError."""
        return read(self._data())

    def check(self, serial: str) -> Licence:
        """The licence, if it holds here. Raises LicenceError."""
        return check(self._data(), self._trusted(), serial, self._now())

    def stamp(self) -> tuple[tuple[str, int, int], ...]:
        """Changes whenever one of the files does: name, time in ns and size of each."""
        paths = [self.path, *sorted((self._folder / _KEYS).glob("*.pem"))[:KEYS_MAX]]
        return tuple(_stamp(path) for path in paths if path.exists())

    def issue(self, serials: tuple[str, str], *, expires_at: str = "") -> Issued:
        """Make the pair's licence and keep it; the key pair too, if there is none. Raises LicenceError and OSError."""
        issued = self.draft(serials, expires_at=expires_at)
        self.install(issued)
        return issued

    def draft(self, serials: tuple[str, str], *, expires_at: str = "") -> Issued:
        """Make a licence that does not hold here before it is installed. Raises LicenceError and OSError."""
        own = self._folder / _OWN_KEY
        if own.exists():
            key = _private_key(own)
        else:
            key = Ed25519PrivateKey.generate()
            pem = key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            write_private(own, pem)
        data = issue(key, serials, issuer=SELF_ISSUER, now=self._now(), expires_at=expires_at)
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return Issued(data, public)

    def present(self, serial: str) -> Issued | None:
        """The licence that holds here, with the key that it was signed with, for the other controller; None: none."""
        try:
            key = self._trusted()[self.check(serial).key]
        except LicenceError:
            return None
        public = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        return Issued(self._data(), public)

    def install(self, issued: Issued) -> None:
        """Keep a licence and trust its key; whoever calls has made sure whom it comes from. Raises OSError."""
        (self._folder / _KEYS).mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(self._folder / _KEYS / _PAIR_KEY, issued.public_key)
        write_private(self.path, issued.licence)

    def _data(self) -> bytes:
        if not self.path.exists():
            raise LicenceError(f"there is no {self.path}; `middlewared pair` makes one for both")
        return _read(self.path)

    def _trusted(self) -> Keys:
        """Unreadable keys are nobody's; whose licence they signed is told that its key is not trusted."""
        keys: dict[str, Ed25519PublicKey] = {}
        for path in sorted((self._folder / _KEYS).glob("*.pem"))[:KEYS_MAX]:
            try:
                key = serialization.load_pem_public_key(_read(path))
            except (LicenceError, ValueError, UnsupportedAlgorithm):
                continue
            if isinstance(key, Ed25519PublicKey):
                keys[fingerprint(key)] = key
        return keys


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(BYTES_MAX + 1)
    except OSError as error:
        raise LicenceError(f"{path} cannot be read: {error.strerror}") from error


def _stamp(path: Path) -> tuple[str, int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return (path.name, 0, 0)
    return (path.name, status.st_mtime_ns, status.st_size)


def _private_key(path: Path) -> Ed25519PrivateKey:
    try:
        key = serialization.load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise LicenceError(f"{path} holds no private key") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise LicenceError(f"{path} holds a private key of another kind than Ed25519")
    return key
