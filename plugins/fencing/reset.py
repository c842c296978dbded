"""The last resort: reset this controller at once (S3). A real one is reset by middlewared.sysrq."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Protocol


class Reset(Protocol):
    def reset(self, reason: str) -> None:
        """Reset the controller, saying why where it can be read afterwards. Does not return."""


class ConsoleReset:
    """A simulated controller: all its processes are one process group, and its console is a file."""

    def __init__(self, folder: Path) -> None:
        """`folder`: the lab's, of this controller."""
        self._console = folder / "console.log"

    def reset(self, reason: str) -> None:
        line = f"{time.strftime('%Y-%m-%dT%H:%M:%S')} fenced: resetting this controller: {reason}\n"
        try:
            with self._console.open("a") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            print(f"{line.strip()} (console: {error})", file=sys.stderr)
        os.killpg(os.getpgrp(), signal.SIGKILL)
