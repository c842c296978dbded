from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from middlewared.peer import pairing


def test_a_certificate_is_what_it_should_be() -> None:
    pem = pairing.generate_certificate("A")
    assert pem.count(b"-----BEGIN") == 2
    certificate = x509.load_pem_x509_certificate(pem)
    assert certificate.subject == certificate.issuer
    assert "CN=controller-A" in certificate.subject.rfc4514_string()
    assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)
    left = certificate.not_valid_after_utc - datetime.now(UTC)
    assert timedelta(days=3650) < left < timedelta(days=3654)
    certificate.verify_directly_issued_by(certificate)


def test_no_two_have_the_same_name() -> None:
    """Both may be pinned for a while, and OpenSSL looks them up by name."""
    first, second = (x509.load_pem_x509_certificate(pairing.generate_certificate("A")) for _ in range(2))
    assert first.subject != second.subject


def test_the_public_part_has_no_key_and_the_same_fingerprint() -> None:
    pem = pairing.generate_certificate("B")
    public = pairing.public_part(pem)
    assert b"PRIVATE" not in public
    assert pairing.fingerprint(public) == pairing.fingerprint(pem)
    assert len(pairing.fingerprint(pem).split(":")) == 32
    assert pairing.fingerprint(pem) != pairing.fingerprint(pairing.generate_certificate("B"))


@pytest.mark.parametrize("function", [pairing.public_part, pairing.fingerprint])
def test_what_is_no_certificate_is_refused(function: object) -> None:
    with pytest.raises(ValueError, match="PEM"):
        function(b"nonsense")  # type: ignore[operator]  # parametrized


def test_private_files_are_private_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.pem"
    path.write_bytes(b"old")
    path.chmod(0o644)
    pairing.write_private(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        pairing.write_private(tmp_path / "folder", b"data")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
