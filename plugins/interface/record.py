"""What this controller did to its interfaces: a small file of its own, which outlives daemon and machine."""

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from middlewared.plugins.interface.links import config_from_row, configs_to_rows
from middlewared.ports import LinkConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Record:
    """`originals`: physical interfaces as they were before their links were configured, each once.

    `owned`: all that may have been put there since, also by an attempt that was torn apart.
    """

    originals: tuple[LinkConfig, ...] = ()
    owned: tuple[LinkConfig, ...] = ()


class RecordFile:
    """Its methods touch the disk: call them in a thread."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> Record:
        """Empty when there is none. A damaged one is put aside: nothing is then taken away that it knew of."""
        try:
            data = json.loads(self._path.read_bytes())
            return Record(
                tuple(config_from_row(row) for row in data["originals"]),
                tuple(config_from_row(row) for row in data["owned"]),
            )
        except FileNotFoundError:
            return Record()
        except (ValueError, KeyError, TypeError):
            log.exception("%s is damaged: it is put aside; remove by hand what is not configured any more", self._path)
            self._path.replace(self._path.with_suffix(".damaged"))
            return Record()

    def save(self, record: Record) -> None:
        """Durably, and whole whenever the power fails. Raises OSError."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = self._path.with_suffix(".new")
        text = json.dumps({"originals": configs_to_rows(record.originals), "owned": configs_to_rows(record.owned)})
        descriptor = os.open(draft, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        draft.rename(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
