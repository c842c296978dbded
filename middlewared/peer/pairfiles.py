"""What a controller keeps of its pairing: its own certificate, the other's, and the keys of the pair.

Whether it is paired says the file with the other's certificate: no such file, or an empty one, and nobody is trusted.
For a while there may be two certificates in it: the one that the other uses, and the next one that it will use.
"""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from middlewared.peer.pairing import write_private
from middlewared.settings import PeerSettings, SettingsError
from middlewared.store.sealing import KeyRing

PINNED_MAX = 2
FILE_BYTES_MAX = 64 << 10
_NOTE = "# controller "

Stamp = tuple[tuple[int, int, int] | None, ...]


class PairFiles:
    """The three files, as the settings name them. Reads and writes at each call; raises OSError where it says."""

    def __init__(self, settings: PeerSettings) -> None:
        self._own = Path(settings.certificate)
        self._other = Path(settings.peer_certificate)
        self._key = Path(settings.pair_key)
        self._named = bool(settings.certificate and settings.peer_certificate)

    @property
    def paired(self) -> bool:
        """Somebody is pinned; whether the file can be read is another matter."""
        if not self._named:
            return False
        try:
            return self._other.stat().st_size > 0
        except FileNotFoundError:
            return False
        except OSError:
            return True  # there, and unreadable: not for us to say that there is no other controller

    def stamp(self) -> Stamp:
        """Changes whenever one of the files does: inode, time in ns and size of each."""
        return tuple(_stamp(path) for path in (self._own, self._other, self._key))

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Nobody else changes the files meanwhile. Raises SettingsError when somebody does just now, and OSError."""
        _make_folder(self._other)
        descriptor = os.open(self._other.with_name(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError as error:
            raise SettingsError("Another pairing, or the renewal of a certificate, is under way here") from error
        finally:
            os.close(descriptor)

    # ------------------------------------------------------------------------------------------ certificates

    @property
    def own_path(self) -> Path:
        return self._own

    def own(self) -> x509.Certificate:
        """Our certificate. Raises SettingsError that says what is wrong with the file."""
        [certificate] = _certificates("peer.certificate", self._own, 1)
        return certificate

    def own_key_fits(self) -> bool:
        """Our certificate has its private key with it, which needs no password."""
        try:
            pem = _read(self._own)
            public = x509.load_pem_x509_certificate(pem).public_key()
            return load_pem_private_key(pem, None).public_key() == public
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
            return False

    def pinned(self) -> tuple[x509.Certificate, ...]:
        """The other's, the one in use first; empty: not paired. Raises SettingsError: what is wrong with the file."""
        return _certificates("peer.peer_certificate", self._other, PINNED_MAX) if self.paired else ()

    def partner(self) -> str:
        """Who was pinned, as "B (controller-b)"; empty: the file was not written by us."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            first, _, _ = _read(self._other).decode().partition("\n")
            if first.startswith(_NOTE):
                return first.removeprefix(_NOTE)
        return ""

    def write_own(self, pem: bytes) -> None:
        """Our key and certificate from now on. Raises OSError."""
        _make_folder(self._own)
        write_private(self._own, pem)

    def pin(self, certificates: Sequence[x509.Certificate], partner: str) -> None:
        """These and no others are trusted from now on; the one in use first. Raises OSError."""
        pems = b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)
        note = f"{_NOTE}{partner}\n" if partner else ""
        _make_folder(self._other)
        write_private(self._other, note.encode() + pems)

    def forget(self) -> bool:
        """Nobody is trusted any more; whether somebody was. Durable when it returns. Raises OSError."""
        try:
            self._other.unlink()
        except FileNotFoundError:
            return False
        _sync_folder(self._other.parent)
        return True

    # ------------------------------------------------------------------------------------------ keys

    @property
    def key_path(self) -> Path:
        return self._key

    def ring(self) -> KeyRing | None:
        """The keys; None: there is no such file. Raises SettingsError."""
        try:
            return KeyRing.decode(_read(self._key))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SettingsError(f"peer.pair_key {self._key}: {error.strerror}") from error
        except ValueError as error:
            raise SettingsError(
                f"peer.pair_key {self._key}: {error}; copy the other controller's file here, or pair again"
            ) from error

    def make_ring(self) -> KeyRing:
        """The keys; made, if there are none (once, whoever asks at the same time). Raises SettingsError, OSError."""
        there = self.ring()
        if there is not None:
            return there
        _make_folder(self._key)
        draft = self._key.with_name(f".{self._key.name}.{secrets.token_hex(8)}")
        write_private(draft, KeyRing.generate().encode())
        try:
            with contextlib.suppress(FileExistsError):
                os.link(draft, self._key)
        finally:
            draft.unlink()
        _sync_folder(self._key.parent)
        made = self.ring()
        if made is None:
            raise SettingsError(f"peer.pair_key {self._key}: somebody removed it as it was made")
        return made

    def write_ring(self, ring: KeyRing) -> None:
        """Raises OSError."""
        _make_folder(self._key)
        write_private(self._key, ring.encode())


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def is_valid(certificate: x509.Certificate, now: datetime | None = None) -> bool:
    """It has begun, and has not expired."""
    moment = now if now is not None else datetime.now(UTC)
    return certificate.not_valid_before_utc <= moment <= certificate.not_valid_after_utc


def read_certificate(text: str) -> x509.Certificate:
    """The one certificate in a PEM text that the other controller sent. Raises ValueError."""
    certificates = x509.load_pem_x509_certificates(text.encode())
    if len(certificates) != 1:
        raise ValueError(f"{len(certificates)} certificates where there should be one")
    return certificates[0]


def _certificates(key: str, path: Path, count_max: int) -> tuple[x509.Certificate, ...]:
    try:
        found = tuple(x509.load_pem_x509_certificates(_read(path)))
    except OSError as error:
        raise SettingsError(
            f"{key} {path}: {error.strerror}; `middlewared pair` on both controllers mends it"
        ) from error
    except ValueError as error:
        raise SettingsError(f"{key} {path}: no PEM certificate in it; `middlewared pair` mends it") from error
    if len(found) > count_max:
        raise SettingsError(f"{key} {path}: {len(found)} certificates, at most {count_max} are expected")
    return found


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(FILE_BYTES_MAX)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _make_folder(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
