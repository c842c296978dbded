"""Processes that end with their parent, whatever ends it (Linux prctl(2))."""

import ctypes
import os
import signal
from contextlib import suppress

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LIBC = ctypes.CDLL(None, use_errno=True)  # loaded before any fork: the child may not


def die_with_parent() -> None:
    """In a child: SIGKILL me when my parent dies. Survives exec."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def adopt_orphans() -> None:
    """Grandchildren whose parent dies become ours, to be reaped by reap_group."""
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap_group(group: int) -> bool:
    """Reap what is dead of a process group; True when nothing of the group is left."""
    with suppress(ChildProcessError):
        while os.waitid(os.P_PGID, group, os.WEXITED | os.WNOHANG) is not None:
            pass
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False
