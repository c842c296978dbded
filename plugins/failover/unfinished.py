"""A note for the next daemon of this boot: services that are not critical have yet to be started."""

import logging
from pathlib import Path
from typing import Protocol

log = logging.getLogger(__name__)


class Unfinished(Protocol):
    """Survives the process; never the boot."""

    @property
    def noted(self) -> bool: ...

    def note(self) -> None: ...

    def strike(self) -> None: ...


class UnfinishedFile(Unfinished):
    """An empty file in run_dir, which the boot empties. One that cannot be written is no reason to fail a takeover."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def noted(self) -> bool:
        return self._path.exists()

    def note(self) -> None:
        try:
            self._path.touch()
        except OSError as error:
            log.warning("should this daemon die now, its successor will not start what is not critical: %s", error)

    def strike(self) -> None:
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("the next start of the daemon starts all services once more: %s", error)
