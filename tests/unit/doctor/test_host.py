"""What a controller needs of its host apart from its drivers."""

import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from middlewared.doctor import host
from middlewared.peer.pairfiles import PairFiles
from middlewared.peer.pairing import VALID_DAYS, generate_certificate
from middlewared.ports import Finding
from middlewared.settings import ApiSettings, PeerSettings, Settings

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


def test_ports() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        taken = host.port("api.listen", address, running=False)
        assert (taken.ok, taken.detail) == (False, "Address already in use")
        assert "ss -ltnp" in taken.remedy
        assert host.port("api.listen", address, running=True).ok
    assert host.port("api.listen", address, running=False) == Finding(f"api.listen {address}", True, "free")
    absent = host.port("peer.listen", "192.0.2.77:6000", running=True)
    assert (absent.ok, absent.detail) == (False, "Cannot assign requested address")
    assert "heartbeat interface" in absent.remedy
    assert not host.port("peer.listen", "nonsense", running=True).ok


def test_the_daemon_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "middlewared.sock"
    assert host.daemon_runs(path) is False
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        assert host.daemon_runs(path) is False
        listener.listen()
        assert host.daemon_runs(path) is True


def test_folders(tmp_path: Path) -> None:
    assert host.folder("state_dir", tmp_path) == Finding("state_dir", True, f"{tmp_path} is writable")
    missing = tmp_path / "a" / "b"
    assert host.folder("run_dir", missing) == Finding("run_dir", True, f"{missing} can be made")
    (tmp_path / "a").write_text("a file")
    assert not host.folder("run_dir", missing).ok
    assert not missing.exists()


def test_the_clock() -> None:
    assert host.clock(NOW).ok
    assert not host.clock(datetime(1970, 1, 1, tzinfo=UTC)).ok


@pytest.mark.parametrize(
    ("days", "ok", "detail"),
    [
        (0, True, "valid until 2036-11-26"),
        (VALID_DAYS - 29, False, "expires on 2036-11-26"),
        (VALID_DAYS + 1, False, "expired on 2036-11-26"),
        (-2, False, "not valid before 2026-11-25"),
    ],
)
def test_a_certificate_ages(tmp_path: Path, days: int, ok: bool, detail: str) -> None:
    path = tmp_path / "peer.pem"
    path.write_bytes(generate_certificate("A", now=NOW))
    finding = host.certificate("peer.certificate", str(path), NOW + timedelta(days=days), "pair again")
    assert (finding.ok, finding.detail) == (ok, detail)
    assert bool(finding.remedy) is not ok


def test_certificates_that_are_none(tmp_path: Path) -> None:
    nonsense = tmp_path / "api.pem"
    nonsense.write_text("nonsense")
    settings = Settings(
        peer=PeerSettings(certificate=str(tmp_path / "no.pem"), pair_key=str(tmp_path / "no.key")),
        api=ApiSettings(certificate=str(nonsense)),
    )
    assert [(finding.subject, finding.detail) for finding in host.certificates(settings, NOW)] == [
        ("peer.certificate", f"{tmp_path / 'no.pem'}: No such file or directory"),
        ("peer.peer_certificate", "not set"),
        ("api.certificate", f"{nonsense}: no PEM certificate in it"),
        ("peer.pair_key", f"{tmp_path / 'no.key'}: No such file or directory"),
    ]


def test_the_key_of_the_pair(tmp_path: Path) -> None:
    peer = PeerSettings(pair_key=str(tmp_path / "pair.key"))
    assert not host.pair_key(peer).ok
    ring = PairFiles(peer).make_ring()
    assert host.pair_key(peer).ok
    assert ring.current_id in host.pair_key(peer).detail
    (tmp_path / "pair.key").chmod(0o644)
    assert host.pair_key(peer).remedy == f"chmod 600 {tmp_path / 'pair.key'}"
    (tmp_path / "pair.key").write_text("nonsense")
    assert not host.pair_key(peer).ok


def test_rights_count_only_for_real_drivers() -> None:
    assert [finding.subject for finding in host.system(Settings(drivers="simulated"))] == ["Python", "kernel"]
    assert [finding.subject for finding in host.system(Settings())] == ["Python", "kernel", "root"]
