"""Stores that were set aside are whole, private, and not too many."""

import os
import stat
from pathlib import Path

import pytest

from middlewared.plugins.failover.kept import Kept, sentence
from middlewared.store.lineage import Position


def test_a_store_is_kept_privately_and_once(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "state" / "kept")
    path = kept.keep(b"first", Position(10, 3))
    assert path == str(tmp_path / "state" / "kept" / "store-10-3.db")
    assert kept.keep(b"again", Position(10, 3)) == path
    assert Path(path).read_bytes() == b"first"
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
    assert stat.S_IMODE(Path(path).parent.stat().st_mode) == 0o700
    assert kept.files() == [path]


def test_a_draft_that_a_power_loss_left_is_no_store(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    (tmp_path / "store-10-3.new").write_bytes(b"half")
    assert kept.files() == []
    kept.keep(b"whole", Position(10, 3))
    assert (tmp_path / "store-10-3.db").read_bytes() == b"whole"


def test_the_oldest_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("middlewared.plugins.failover.kept.FILES_MAX", 2)
    kept = Kept(tmp_path)
    for age, seq in ((3, 1), (2, 9), (1, 5)):
        os.utime(kept.keep(b"", Position(10, seq)), (1_000_000_000 - age, 1_000_000_000 - age))
    kept.keep(b"", Position(10, 2))
    assert [Path(path).name for path in kept.files()] == ["store-10-5.db", "store-10-2.db"]


def test_no_folder_is_no_file(tmp_path: Path) -> None:
    assert Kept(tmp_path / "none").files() == []


def test_what_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("in the way")
    with pytest.raises(OSError, match="kept"):
        Kept(tmp_path / "kept").keep(b"", Position(1, 1))


def test_the_sentence_names_files_and_remedy() -> None:
    text = sentence([f"/kept/{number}" for number in range(5)], "A", "B")
    assert "Controller A accepted configuration changes that controller B never saw" in text
    assert "/kept/2, /kept/3, /kept/4 and 2 older" in text
    assert "remove the file" in text
