"""Stores that were set aside: what this controller had accepted and the other never saw, before a copy replaced it."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from middlewared.store.image import Data
from middlewared.store.lineage import Position

log = logging.getLogger(__name__)

ALERT = "failover.kept"
FILES_MAX = 100
_NAMED_MAX = 3
_NAMES = "store-*.db"


class Kept:
    """The folder they are in. Its methods touch the disk: call them in a thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, image: Data, position: Position) -> str:
        """Write a store to a file of its own, durably, once for each position; the file's path. Raises OSError."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        path = self._folder / f"store-{position.epoch}-{position.seq}.db"
        if not path.exists():
            self._write(path, image)
            self._forget_oldest()
        return str(path)

    def files(self) -> list[str]:
        """Paths, the oldest first."""
        try:
            found = [(path.stat().st_mtime_ns, str(path)) for path in self._folder.glob(_NAMES)]
        except OSError as error:
            log.warning("%s cannot be read: %s", self._folder, error)
            return []
        return [path for _, path in sorted(found)]

    def _write(self, path: Path, image: Data) -> None:
        """Under another name first: a file of that name is whole, whenever the power fails."""
        draft = path.with_suffix(".new")
        descriptor = os.open(draft, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(image)
            file.flush()
            os.fsync(descriptor)
        draft.rename(path)
        for folder in (self._folder, self._folder.parent):
            _sync_folder(folder)

    def _forget_oldest(self) -> None:
        for path in self.files()[:-FILES_MAX]:
            log.warning("%s is removed: there are more than %d", path, FILES_MAX)
            Path(path).unlink(missing_ok=True)


def sentence(files: Sequence[str], node: str, other_node: str) -> str:
    """What an administrator has to know and to do."""
    named = ", ".join(files[-_NAMED_MAX:])
    more = f" and {len(files) - _NAMED_MAX} older" if len(files) > _NAMED_MAX else ""
    return (
        f"Controller {node} accepted configuration changes that controller {other_node} never saw, before it got the "
        f"configuration of {other_node}. What it had is kept on {node} in {named}{more}. Compare it with the present "
        "configuration, apply again what is missing, then remove the file."
    )


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
