"""Files of the pair: put in place all or none, whatever fails or dies in the middle."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from middlewared.errors import CallError
from middlewared.plugins.failover import belongings
from middlewared.plugins.failover.belongings import Belongings, Entry
from middlewared.settings import ApiSettings, Settings, SettingsError, SyncSettings, load


class Controller:
    """One controller's files below a folder of its own."""

    def __init__(self, root: Path, shared: Path) -> None:
        self.state = root / "state"
        self.keys = root / "ssh" / "authorized_keys"
        self.certificate = root / "api.pem"
        self.extra = shared  # the same path on both, as in life; so only one of the two may have it in a test
        self.state.mkdir(parents=True)
        self.settings = Settings(
            state_dir=str(self.state),
            api=ApiSettings(certificate=str(self.certificate)),
            sync=SyncSettings(files=(str(self.extra),), authorized_keys=str(self.keys)),
        )
        self.files = Belongings(self.settings)

    def tree(self) -> dict[str, bytes]:
        """Everything that lies here, the inbox left out."""
        paths = [path for path in self.state.parent.rglob("*") if path.is_file() and "incoming" not in path.parts]
        return {str(path.relative_to(self.state.parent)): path.read_bytes() for path in paths}


def fill(controller: Controller, mark: str) -> None:
    controller.keys.parent.mkdir(exist_ok=True)
    controller.keys.write_text(f"ssh-ed25519 {mark}\n")
    controller.keys.chmod(0o600)
    controller.certificate.write_text(f"certificate {mark}\n")
    controller.certificate.chmod(0o640)


@pytest.fixture
def a(tmp_path: Path) -> Controller:
    controller = Controller(tmp_path / "a", tmp_path / "extra.conf")
    fill(controller, "of A")
    (controller.state / "licence.json").write_text("a licence")
    controller.files._licence.keys_folder.mkdir()
    (controller.files._licence.keys_folder / "pair.pem").write_text("a key")
    return controller


@pytest.fixture
def b(tmp_path: Path) -> Controller:
    controller = Controller(tmp_path / "b", tmp_path / "extra.conf")
    fill(controller, "of B")
    return controller


def carry(a: Controller, b: Controller) -> list[Entry]:
    """Everything that A has waits in B's inbox."""
    found = a.files.here()
    b.files.inbox.folder.mkdir(exist_ok=True)
    for entry, path in found:
        (b.files.inbox.folder / entry.sha256).write_bytes(path.read_bytes())
    return [entry for entry, _ in found]


EVERYTHING = {"licence", "licence-keys/pair.pem", "authorized_keys", "api-certificate"}


def test_all_of_it_goes_over_and_once_is_enough(a: Controller, b: Controller) -> None:
    entries = carry(a, b)
    assert {entry.name for entry in entries} == EVERYTHING == set(b.files.missing(entries))
    b.files.install(entries)
    assert b.tree() == a.tree()
    assert b.keys.stat().st_mode & 0o777 == 0o600
    assert b.certificate.stat().st_mode & 0o777 == 0o640
    assert b.files.missing(entries) == []
    assert os.listdir(b.files.inbox.folder) == []
    before = b.certificate.stat().st_ino
    b.files.install(entries)  # nothing is waiting any more, and nothing is needed
    assert b.certificate.stat().st_ino == before


def test_a_file_that_settings_name(a: Controller, b: Controller) -> None:
    a.extra.write_text("named")
    entries = carry(a, b)
    assert {entry.name for entry in entries} == EVERYTHING | {str(a.extra)}
    b.extra.write_text("B's own")
    b.files.install(entries)
    assert b.extra.read_text() == "named"


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "licence-keys/../x.pem", "licence-keys/x", "../licence", "", "authorized_keys/x"]
)
def test_a_name_that_is_none_of_ours_is_refused(b: Controller, name: str) -> None:
    before = b.tree()
    entry = Entry(name, 1, "0" * 64, 0o600, 0, 0)
    for attempt in (b.files.missing, b.files.install):
        with pytest.raises(CallError, match="settings must name it") as refused:
            attempt([entry])
        assert refused.value.errno == errno.EPERM
    assert b.tree() == before


def test_what_did_not_arrive_whole_changes_nothing(a: Controller, b: Controller) -> None:
    entries = carry(a, b)
    (b.files.inbox.folder / entries[-1].sha256).write_text("half of i")
    before = b.tree()
    with pytest.raises(CallError, match="did not arrive whole"):
        b.files.install(entries)
    assert b.tree() == before
    (b.files.inbox.folder / entries[0].sha256).unlink()
    with pytest.raises(CallError, match="cannot be prepared"):
        b.files.install(entries)
    assert b.tree() == before


def test_a_folder_in_the_way_changes_nothing(a: Controller, b: Controller) -> None:
    entries = carry(a, b)
    b.keys.unlink()
    b.keys.mkdir()
    before = b.tree()
    with pytest.raises(CallError, match="is a folder here"):
        b.files.install(entries)
    assert b.tree() == before


class Died(BaseException):
    """SIGKILL: nothing runs after it, so neither does what cleans up."""


STEPS = ["link", "replace", "unlink", "fsync"]


class Executioner:
    """Ends the process, or fails once, at the n-th call of a step that changes the disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, error: BaseException) -> None:
        self.left = at
        self.dead = False
        for name in STEPS:
            monkeypatch.setattr(os, name, self._guard(getattr(os, name), error))
        monkeypatch.setattr(Path, "unlink", self._guard(Path.unlink, error))
        monkeypatch.setattr(Path, "replace", self._guard(Path.replace, error))

    def _guard(self, act: Any, error: BaseException) -> Any:
        def guarded(*args: Any, **more: Any) -> Any:
            if self.dead:
                raise Died
            self.left -= 1
            if self.left == 0:
                self.dead = isinstance(error, Died)
                raise error
            return act(*args, **more)

        return guarded


@pytest.mark.parametrize("fails", [False, True], ids=["killed", "an error"])
def test_it_is_all_or_nothing_wherever_it_ends(
    a: Controller, b: Controller, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """At each step that changes the disk in turn: the process dies, or the disk refuses that one step."""
    fresh, wanted = b.tree(), a.tree()
    finished = 0
    for at in range(1, 200):
        entries = carry(a, b)
        with monkeypatch.context() as patches:
            executioner = Executioner(patches, at, OSError(errno.EIO, "refused", "a file") if fails else Died())
            try:
                b.files.install(entries)
                done = True
            except (Died, CallError):
                done = False
        if executioner.left > 0:
            break  # it ran through: every step has had its turn
        Belongings(b.settings).recover()
        tree = b.tree()
        assert tree in (fresh, wanted), f"step {at}: {sorted(tree)}"
        if fails and not done:
            assert tree == fresh or b.files.missing(entries) == []
        finished += tree == wanted
        for path in list(b.state.parent.rglob("*")):
            if path.is_file():
                path.unlink()
        fill(b, "of B")
        if b.files._licence.keys_folder.exists():
            b.files._licence.keys_folder.rmdir()
    assert at > 12
    assert finished > 2
    assert b.tree() == wanted


@pytest.mark.parametrize(
    "line", ['files = ["etc/x"]', 'files = ["/etc/../x"]', 'authorized_keys = "keys"', 'files = "/x"']
)
def test_settings_name_whole_paths(tmp_path: Path, line: str) -> None:
    path = tmp_path / "middlewared.toml"
    path.write_text(f"[sync]\n{line}\n")
    with pytest.raises(SettingsError, match="files"):
        load(path)
    path.write_text('[sync]\nfiles = ["/etc/x"]\nauthorized_keys = ""\n')
    assert load(path).sync.files == ("/etc/x",)


def test_an_unreadable_journal_is_said(b: Controller, caplog: pytest.LogCaptureFixture) -> None:
    b.files._journal.write_text("{")
    b.files.recover()
    assert "sync again" in caplog.text


def test_what_cannot_be_read_is_named(a: Controller, monkeypatch: pytest.MonkeyPatch) -> None:
    a.certificate.unlink()
    a.certificate.mkdir()
    with pytest.raises(CallError, match=r"api\.pem belongs to the pair"):
        a.files.here()
    a.certificate.rmdir()
    monkeypatch.setattr(belongings, "FILES_MAX", 1)
    with pytest.raises(CallError, match="at most 1"):
        a.files.here()
