"""Reset the machine at once (DESIGN S3): the kernel's sysrq `b`, and what is left when even that returns.

It has to work while every disk hangs, so nothing here reads or writes a file outside procfs and /dev/kmsg, and what can
be opened is open beforehand. Writing to /proc/sysrq-trigger is always allowed to root: kernel.sysrq restrains the
keyboard only (Linux, Documentation/admin-guide/sysrq.rst). The reason goes to the kernel's log, for a serial console
or pstore: a log file might wait for a stuck disk, and so might journald.
"""

import contextlib
import ctypes
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from middlewared.ports import Finding

KERNEL_LOG = Path("/dev/kmsg")
TRIGGER = Path("/proc/sysrq-trigger")
_REASON_BYTES_MAX = 800  # a record of /dev/kmsg is less than 1 KiB, longer ones are refused
_RB_AUTOBOOT = 0x01234567  # reboot(2)

_libc = ctypes.CDLL(None, use_errno=True)  # now: loading a library needs a disk


def reboot_at_once() -> None:
    """reboot(2): like sysrq `b`, nothing is synced. Returns only where this process may not (CAP_SYS_BOOT)."""
    _libc.reboot(_RB_AUTOBOOT)


def die() -> None:
    """The least: this process does no more harm."""
    os.kill(os.getpid(), signal.SIGKILL)


class Sysrq:
    """`who` resets: middlewared or fenced."""

    def __init__(
        self,
        who: str,
        *,
        kernel_log: Path = KERNEL_LOG,
        trigger: Path = TRIGGER,
        last_resorts: Sequence[Callable[[], None]] = (reboot_at_once, die),
    ) -> None:
        self._who = who
        self._paths = (kernel_log, trigger)
        self._last_resorts = last_resorts
        self._open: dict[Path, int] = {}

    def prepare(self) -> None:
        """Open the files. What cannot be opened is tried again at the reset; `findings` say what is missing."""
        for path in self._paths:
            if path not in self._open:
                with contextlib.suppress(OSError):
                    self._open[path] = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK)

    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])

    def reset(self, reason: str) -> NoReturn:
        """Say why, then reset. Whatever fails on the way, the next means is tried."""
        kernel_log, trigger = self._paths
        said = f"<0>{self._who}: resetting this controller: {reason}".replace("\n", " ").encode()
        self._write(kernel_log, said[:_REASON_BYTES_MAX] + b"\n")
        self._write(trigger, b"b")
        for last_resort in self._last_resorts:
            last_resort()
        raise RuntimeError("this controller cannot be reset")

    def findings(self) -> list[Finding]:
        """Whether the machine could be reset from here; opens and closes the files, writes nothing."""
        kernel_log, trigger = self._paths
        remedies = {
            trigger: "run as root, on a kernel with CONFIG_MAGIC_SYSRQ, and not in a container",
            kernel_log: "run as root; without it a reset leaves no reason behind",
        }
        return [_openable(path, remedy) for path, remedy in remedies.items()]

    def _write(self, path: Path, data: bytes) -> None:
        with contextlib.suppress(OSError):
            number = self._open.get(path)
            os.write(os.open(path, os.O_WRONLY | os.O_CLOEXEC) if number is None else number, data)


def _openable(path: Path, remedy: str) -> Finding:
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        return Finding(str(path), False, os.strerror(error.errno or 0), remedy)
    return Finding(str(path), True, "writable")
