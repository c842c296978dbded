"""What outlives the keeper's process, but not the boot: that we hold the disks, and since which generation."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Tenure:
    """A takeover that succeeded. Keys of generations before `floor` are from an earlier life."""

    host_id: int
    floor: int
    serials: tuple[str, ...]


class Memory(Protocol):
    """Survives the process; never the boot."""

    def load(self) -> Tenure | None:
        """None: nothing is held by this controller since it booted. Raises ValueError when it holds no tenure."""

    def save(self, host_id: int, floor: int, serials: tuple[str, ...]) -> None: ...

    def forget(self) -> None: ...


class FileMemory:
    """A small file in run_dir, which the boot empties. Not synced: it must not survive the machine."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> Tenure | None:
        try:
            data = json.loads(self._path.read_text())
        except FileNotFoundError:
            return None
        return Tenure(int(data["host_id"]), int(data["floor"]), tuple(data["serials"]))

    def save(self, host_id: int, floor: int, serials: tuple[str, ...]) -> None:
        text = json.dumps({"host_id": host_id, "floor": floor, "serials": list(serials)})
        fresh = self._path.with_suffix(".new")
        fresh.write_text(text)
        os.replace(fresh, self._path)

    def forget(self) -> None:
        self._path.unlink(missing_ok=True)
