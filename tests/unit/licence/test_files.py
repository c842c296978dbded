"""The licence on disk: issued here, installed there."""

from pathlib import Path

import pytest

from middlewared.licence.document import LicenceError
from middlewared.licence.files import LicenceFiles


def test_a_pair_issues_its_own(tmp_path: Path) -> None:
    here, there = LicenceFiles(tmp_path / "a"), LicenceFiles(tmp_path / "b")
    (tmp_path / "a").mkdir()
    with pytest.raises(LicenceError, match=r"there is no .*licence\.json; `middlewared pair`"):
        here.check("A-1")
    issued = here.issue(("A-1", "B-1"))
    assert here.check("A-1").issuer == "this pair"
    there.install(issued)
    assert there.check("B-1") == here.check("A-1")
    assert not (tmp_path / "b" / "licence-key.pem").exists(), "the private key stays where it was made"
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "a").rglob("*") if path.is_file()}
    assert modes == {"licence-key.pem": 0o600, "licence.json": 0o600, "pair.pem": 0o600}


def test_the_key_is_kept(tmp_path: Path) -> None:
    files = LicenceFiles(tmp_path)
    first, second = files.issue(("A-1", "B-1")), files.issue(("A-1", "B-2"))
    assert first.public_key == second.public_key
    assert files.check("B-2")


def test_a_change_is_noticed(tmp_path: Path) -> None:
    files = LicenceFiles(tmp_path)
    stamps = [files.stamp()]
    files.issue(("A-1", "B-1"))
    stamps.append(files.stamp())
    (tmp_path / "licence-keys" / "vendor.pem").write_text("nonsense")
    stamps.append(files.stamp())
    files.path.unlink()
    stamps.append(files.stamp())
    assert len(set(stamps)) == len(stamps)


def test_a_key_that_is_none_is_nobodys(tmp_path: Path) -> None:
    files = LicenceFiles(tmp_path)
    files.issue(("A-1", "B-1"))
    (tmp_path / "licence-keys" / "a-first.pem").write_text("nonsense")
    assert files.check("A-1")
    (tmp_path / "licence-keys" / "pair.pem").write_text("nonsense")
    with pytest.raises(LicenceError, match="not trusted here"):
        files.check("A-1")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    files = LicenceFiles(tmp_path)
    files.path.mkdir()
    with pytest.raises(LicenceError, match="cannot be read: Is a directory"):
        files.check("A-1")
    (tmp_path / "licence-key.pem").write_text("nonsense")
    with pytest.raises(LicenceError, match="holds no private key"):
        files.issue(("A-1", "B-1"))
