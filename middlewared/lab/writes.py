"""What was written to the simulated disks, by whom, and under whose reservation: the evidence for rule S1."""

import json
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import IO

WRITES_MAX = 200_000
BUFFER_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class Write:
    """One WRITE that the target accepted or refused. Keys are 0 where there is none."""

    t_ms: int
    initiator: str
    lun: int
    lba: int
    blocks: int
    accepted: bool
    reserved: bool  # a reservation existed
    holder_key: int
    writer_key: int
    digest: str  # BLAKE2b-64 of the payload

    def to_line(self) -> str:
        fields = {name: getattr(self, name) for name in self.__slots__}
        for name in ("holder_key", "writer_key"):
            fields[name] = f"{fields[name]:#018x}"
        return json.dumps(fields, separators=(",", ":")) + "\n"


class WriteLog:
    """The last WRITES_MAX writes in memory; all of them in a JSON lines file if there is one (buffered: see flush)."""

    def __init__(self, path: Path | None = None) -> None:
        self.recent: deque[Write] = deque(maxlen=WRITES_MAX)
        self._file: IO[str] | None = None if path is None else path.open("a", buffering=BUFFER_BYTES)

    def add(self, write: Write) -> None:
        self.recent.append(write)
        if self._file is not None:
            self._file.write(write.to_line())

    def flush(self) -> None:
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
