"""Readiness, watchdog, journal and socket activation, through systemd-python where it is installed.

Without it, or when systemd did not start us, every function here does nothing; what is missing is said once.
Names of the variables: sd_notify(3), sd_watchdog_enabled(3), sd_listen_fds(3), systemd.exec(5).
"""

import importlib
import logging
import os
import socket
import sys
from types import ModuleType

log = logging.getLogger(__name__)

LINE_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
SERVICE_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDS")


def _optional(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


_daemon = _optional("systemd.daemon")
_journal = _optional("systemd.journal")


def setup_logging(level: int | str = logging.INFO) -> None:
    """Log to the journal if standard error leads there anyway, else to standard error. Tells what is missing, once."""
    root = logging.getLogger()
    handler: logging.Handler
    if _journal is not None and _stderr_is_journal():
        handler = _journal.JournalHandler(SYSLOG_IDENTIFIER="middlewared")
        handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter(LINE_FORMAT))
    root.handlers[:] = [handler]
    root.setLevel(level)
    if _daemon is None:
        wanted = any(name in os.environ for name in SERVICE_VARIABLES)
        log.log(
            logging.WARNING if wanted else logging.INFO,
            "systemd-python is not installed: no journal fields, readiness, watchdog or socket activation",
        )


def notify_ready() -> None:
    """Tell systemd that requests are served from now on (Type=notify)."""
    _notify("READY=1")


def notify_stopping() -> None:
    _notify("STOPPING=1")


def notify_watchdog() -> None:
    """Tell systemd that the event loop still turns; due every `watchdog_interval_ms()`."""
    _notify("WATCHDOG=1")


def watchdog_interval_ms() -> int | None:
    """How often to call notify_watchdog: a third of WatchdogSec, so that two may be late. None: nobody watches us."""
    timeout_us = os.environ.get("WATCHDOG_USEC", "")
    watched_pid = os.environ.get("WATCHDOG_PID", str(os.getpid()))
    if _daemon is None or not timeout_us.isdecimal() or watched_pid != str(os.getpid()):
        return None
    return max(1, int(timeout_us) // 3000)


def listen_sockets() -> list[socket.socket]:
    """The listening sockets that systemd hands over, in the order of the .socket unit; empty if there are none."""
    if _daemon is None:
        return []
    return [socket.socket(fileno=number) for number in _daemon.listen_fds()]


def _notify(state: str) -> None:
    if _daemon is not None:
        _daemon.notify(state)


def _stderr_is_journal() -> bool:
    """JOURNAL_STREAM names device and inode of the stream that systemd connected to the journal."""
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):  # closed, or replaced by something that is no file
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
