"""The files that belong to the pair: licence, authorized_keys of root, the API's certificate, and what settings name.

Each controller says itself where such a file lies here; the other sends contents under agreed names, and can put
nothing anywhere else. A set of files is put in place whole or not at all: they are prepared beside their places, a
journal says that it begins, and whatever ends in the middle is finished, or taken back, at the next start.

Blocking: to be called in threads.
"""

import contextlib
import errno
import hashlib
import logging
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from middlewared.errors import CallError
from middlewared.licence.files import LicenceFiles
from middlewared.peer.files import Inbox
from middlewared.peer.pairing import write_private
from middlewared.settings import Settings

log = logging.getLogger(__name__)

INBOX = "sync"
FILES_MAX = 256
FILE_BYTES_MAX = 1 << 30
_LICENCE = "licence"
_LICENCE_KEY = re.compile(r"licence-keys/([A-Za-z0-9][A-Za-z0-9._-]{0,127}\.pem)")
_AUTHORIZED_KEYS = "authorized_keys"
_CERTIFICATE = "api-certificate"


@dataclass(frozen=True, slots=True)
class Entry:
    """One file as it is on the controller that sends it. `name` is the pair's name for it, not a path."""

    name: str
    size_bytes: int
    sha256: str  # lower-case hex
    mode: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class _Swap:
    """A new file beside its place, about to go there. Every step may be done twice."""

    path: Path
    existed: bool

    @property
    def new(self) -> Path:
        return self.path.with_name(f".{self.path.name}.sync-new")

    @property
    def old(self) -> Path:
        return self.path.with_name(f".{self.path.name}.sync-old")

    def put(self) -> None:
        if not self.new.exists():
            return  # it is there already
        self.old.unlink(missing_ok=True)
        if self.existed:
            os.link(self.path, self.old, follow_symlinks=False)
        os.replace(self.new, self.path)

    def take_back(self) -> None:
        if self.existed:
            with contextlib.suppress(FileNotFoundError):
                os.replace(self.old, self.path)
        elif not self.new.exists():
            self.path.unlink(missing_ok=True)
        self.new.unlink(missing_ok=True)

    def tidy(self) -> None:
        _remove(self.new)
        _remove(self.old)


class Belongings:
    """One controller's side."""

    def __init__(self, settings: Settings) -> None:
        state_dir = Path(settings.state_dir)
        self._licence = LicenceFiles(state_dir)
        self._journal = state_dir / "sync-journal.json"
        self._places: dict[str, Path] = {_LICENCE: self._licence.path}
        if settings.sync.authorized_keys:
            self._places[_AUTHORIZED_KEYS] = Path(settings.sync.authorized_keys)
        if settings.api.certificate:
            self._places[_CERTIFICATE] = Path(settings.api.certificate)
        self._places |= {path: Path(path) for path in settings.sync.files}
        self.inbox = Inbox(state_dir / "incoming", FILE_BYTES_MAX, FILES_MAX)

    # ------------------------------------------------------------------------------------------ to the other

    def here(self) -> list[tuple[Entry, Path]]:
        """Every file of the pair that exists on this controller, and where. Raises CallError naming one that fails."""
        keys = sorted(self._licence.keys_folder.glob("*.pem"))
        places = self._places | {f"licence-keys/{path.name}": path for path in keys}
        found = [(entry, path) for name, path in places.items() if (entry := _look(name, path)) is not None]
        if len(found) > FILES_MAX:
            raise CallError(f"{len(found)} files belong to the pair; at most {FILES_MAX} are copied", errno.E2BIG)
        return found

    # ------------------------------------------------------------------------------------------ from the other

    def missing(self, entries: Iterable[Entry]) -> list[str]:
        """The names of those that are not here as they are there. Raises CallError for a name that is none of ours."""
        return [entry.name for entry in entries if not _same(entry, self._place(entry.name))]

    def install(self, entries: Sequence[Entry]) -> None:
        """Put all of them in their places, from the inbox, durably; or raise CallError, and all is as before."""
        changed = [(entry, path) for entry in entries if not _same(entry, path := self._place(entry.name))]
        swaps: list[_Swap] = []
        try:
            with _said("cannot be prepared"):
                for entry, path in changed:
                    swaps.append(_Swap(path, os.path.lexists(path)))
                    _prepare(swaps[-1], self.inbox.folder / entry.sha256, entry)
                if swaps:
                    self._write_journal(swaps, undo=False)
        except BaseException:
            _remove(self._journal)
            for swap in swaps:
                _remove(swap.new)
            raise
        if swaps:
            self._swap(swaps)
        for entry in entries:
            _remove(self.inbox.folder / entry.sha256)

    def recover(self) -> None:
        """At start: finish, or take back, what an earlier life of this daemon had begun."""
        try:
            journal = orjson.loads(self._journal.read_bytes())
            swaps = [_Swap(Path(row["path"]), row["existed"]) for row in journal["swaps"]]
            undo = bool(journal["undo"])
        except FileNotFoundError:
            self._sweep()
            return
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.error("%s cannot be read (%s): files of the pair may be old; sync again", self._journal, error)
            return
        try:
            for swap in swaps:
                if undo:
                    swap.take_back()
                else:
                    swap.put()
            self._close(swaps)
        except OSError as error:
            log.error("files of the pair are not in place yet, and are tried again at the next start: %s", error)
        self._sweep()

    def _swap(self, swaps: Sequence[_Swap]) -> None:
        try:
            for swap in swaps:
                swap.put()
            _sync_folders(swaps)
        except OSError as error:
            self._write_journal(swaps, undo=True)
            for swap in swaps:
                swap.take_back()
            self._close(swaps)
            raise CallError(f"{error.filename}: cannot be put in place: {error.strerror}", errno.EIO) from error
        with contextlib.suppress(OSError):  # all of them are in place; the next start finds that, too
            self._close(swaps)

    def _close(self, swaps: Sequence[_Swap]) -> None:
        """The outcome is durable before the journal that would mend it goes."""
        _sync_folders(swaps)
        self._journal.unlink(missing_ok=True)
        _sync_folder(self._journal.parent)
        for swap in swaps:
            swap.tidy()

    def _sweep(self) -> None:
        """What a life that ended before its journal left beside the places."""
        if self._journal.exists():
            return
        paths = [*self._places.values(), *self._licence.keys_folder.glob("*.pem")]
        drafts = [_Swap(path, existed=True).new for path in paths] + [_Swap(path, existed=True).old for path in paths]
        drafts += self._licence.keys_folder.glob(".*.sync-new")
        drafts += self._journal.parent.glob(f".{self._journal.name}.*")
        for draft in drafts:
            _remove(draft)

    def _write_journal(self, swaps: Sequence[_Swap], *, undo: bool) -> None:
        rows = [{"path": str(swap.path), "existed": swap.existed} for swap in swaps]
        write_private(self._journal, orjson.dumps({"undo": undo, "swaps": rows}))

    def _place(self, name: str) -> Path:
        key = _LICENCE_KEY.fullmatch(name)
        if key is not None:
            return self._licence.keys_folder / key[1]
        if name not in self._places:
            raise CallError(
                f"The other controller does not take {name}: its settings must name it too, below [sync]", errno.EPERM
            )
        return self._places[name]


def entries_of(rows: Iterable[Mapping[str, Any]]) -> list[Entry]:
    """As they came over the link, their form checked by the schema."""
    return [Entry(**row) for row in rows]


def _look(name: str, path: Path) -> Entry | None:
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise CallError(f"{path} belongs to the pair, but is no file", errno.EINVAL)
            if status.st_size > FILE_BYTES_MAX:
                raise CallError(f"{path} belongs to the pair, but has {status.st_size} bytes", errno.EFBIG)
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CallError(f"{path} belongs to the pair, but cannot be read: {error.strerror}", errno.EIO) from error
    return Entry(name, status.st_size, sha256, status.st_mode & 0o777, status.st_uid, status.st_gid)


def _same(entry: Entry, path: Path) -> bool:
    """Content, permissions and, where we may set him, the owner."""
    with contextlib.suppress(CallError):
        here = None if path.is_symlink() else _look(entry.name, path)
        if here is not None and os.geteuid() != 0:
            here = Entry(here.name, here.size_bytes, here.sha256, here.mode, entry.uid, entry.gid)
        return here == entry
    return False


def _prepare(swap: _Swap, staged: Path, entry: Entry) -> None:
    """The new file, whole and durable, beside its place."""
    if swap.path.is_dir() and not swap.path.is_symlink():
        raise CallError(f"{swap.path} is a folder here: remove it first", errno.EISDIR)
    swap.path.parent.mkdir(mode=0o700, exist_ok=True)
    swap.new.unlink(missing_ok=True)
    descriptor = os.open(swap.new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "r+b") as new, staged.open("rb") as source:
        shutil.copyfileobj(source, new, 1 << 20)
        new.flush()
        new.seek(0)
        if hashlib.file_digest(new, "sha256").hexdigest() != entry.sha256:
            raise CallError(f"{entry.name} did not arrive whole; sync again", errno.EBADMSG)
        if os.geteuid() == 0:
            os.fchown(descriptor, entry.uid, entry.gid)
        os.fchmod(descriptor, entry.mode)
        os.fsync(descriptor)


@contextlib.contextmanager
def _said(trouble: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CallError(f"{error.filename}: {trouble}: {error.strerror}", error.errno or errno.EIO) from error


def _remove(path: Path) -> None:
    """What is not needed any more; that it stays is no failure."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s is left over from a sync, and cannot be removed: %s", path, error.strerror)


def _sync_folders(swaps: Iterable[_Swap]) -> None:
    for folder in {swap.path.parent for swap in swaps}:
        _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
