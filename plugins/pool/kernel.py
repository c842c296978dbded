"""What the kernel says about pools without any `zpool` command: none of this waits for a pool, suspended ones included.

`/proc/spl/kstat/zfs/<pool>/` exists exactly as long as a pool is imported (measured, VMLAB.md section 3). While an
import is under way it may or may not be there yet; but the process that asked for it is, since the kernel imports in
that process's system call, which no signal ends.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_KSTAT = "proc/spl/kstat/zfs"
_WITH_VALUE = "cdoRT"  # options of `zpool import` that take a value, zpool-import(8)
_ALL = "-a"


@dataclass(frozen=True, slots=True)
class Process:
    """A `zpool` or `zfs` process. `state` is a letter of proc_pid_stat(5): D waits in the kernel."""

    pid: int
    state: str
    argv: tuple[str, ...]

    @property
    def importing(self) -> str:
        """The pool that it imports, by name or guid; "-a" when it imports all; empty when it does not import."""
        return import_target(self.argv) if self.state not in ("Z", "X") else ""


def states(root: Path) -> dict[str, str]:
    """State by name of every imported pool: ONLINE, DEGRADED, SUSPENDED, … Raises OSError when ZFS is not loaded.

    Names that begin with "$" are the kernel's own trials. A pool without a readable state is there all the same.
    """
    found: dict[str, str] = {}
    for entry in sorted((root / _KSTAT).iterdir()):
        if entry.is_dir() and not entry.name.startswith("$"):
            found[entry.name] = _read(entry / "state") or "UNKNOWN"
    return found


def guid(root: Path, name: str) -> str:
    """The guid of an imported pool where the kernel shows it (a file since OpenZFS 2.2); else empty."""
    text = _read(root / _KSTAT / name / "guid")
    return text if text.isdecimal() else ""


def processes(root: Path) -> list[Process]:
    """Every running `zpool` and `zfs`."""
    return list(_processes(root))


def importing(root: Path) -> list[str]:
    """What is being imported now by any process: names, guids, "-a"."""
    return [target for process in _processes(root) if (target := process.importing)]


def import_target(argv: Sequence[str]) -> str:
    """The pool that a command line imports; "-a" for all, empty for none: `zpool import` alone only lists."""
    if len(argv) < 2 or argv[0].rsplit("/", 1)[-1] != "zpool" or argv[1] != "import":
        return ""
    words = iter(argv[2:])
    target = ""
    for word in words:
        if word == "--":
            return next(words, target)
        if not word.startswith("-") or word == "-":
            return word
        for number, letter in enumerate(word[1:], start=1):
            if word.startswith("--"):
                break
            if letter == "a":
                target = _ALL
            if letter in _WITH_VALUE:
                if number == len(word) - 1:
                    next(words, "")
                break
    return target


def _processes(root: Path) -> Iterator[Process]:
    folder = root / "proc"
    for name in os.listdir(folder):  # of hundreds: without a Path for each
        if not name.isdecimal():
            continue
        pid_name, _, rest = _read(f"{folder}/{name}/stat").rpartition(") ")
        if pid_name.partition(" (")[2] in ("zpool", "zfs"):
            argv = tuple(_read(f"{folder}/{name}/cmdline").split("\0"))
            yield Process(int(name), rest[:1], argv)


def _read(path: Path | str) -> str:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read().decode(errors="replace").strip("\0\n ")
    except OSError:  # it ended while we looked
        return ""
