"""What was typed, for the arrow keys: in a file that only its owner can read, and without secrets.

A line whose command takes a password or key is kept only for this session; so is a line that is no command: who knows
what was mistyped there.
"""

import contextlib
import os
from collections.abc import Callable

from prompt_toolkit.history import FileHistory, History, InMemoryHistory

BYTES_MAX = 512 << 10
BYTES_KEPT = 256 << 10


class PrivateHistory(FileHistory):
    def __init__(self, path: str, may_keep: Callable[[str], bool]) -> None:
        super().__init__(path)
        self._may_keep = may_keep

    def store_string(self, string: str) -> None:
        if self._may_keep(string):
            with contextlib.suppress(OSError):  # a full disk is no reason to stop
                super().store_string(string)


def open_history(may_keep: Callable[[str], bool]) -> History:
    """The history in the user's state folder; in memory alone where that cannot be written."""
    folder = os.path.join(os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state"), "midctl")
    path = os.path.join(folder, "history")
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        with os.fdopen(number, "rb+") as file:
            os.fchmod(number, 0o600)
            if os.fstat(number).st_size > BYTES_MAX:
                file.seek(-BYTES_KEPT, os.SEEK_END)
                kept = file.read().partition(b"\n\n")[2]  # whole entries only
                file.seek(0)
                file.truncate()
                file.write(kept)
    except OSError:
        return InMemoryHistory()
    return PrivateHistory(path, may_keep)
