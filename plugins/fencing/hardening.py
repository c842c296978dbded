"""What lets the keeper run in time on a machine that is short of memory or processors."""

import ctypes
import gc
import logging
import os

log = logging.getLogger(__name__)

PRIORITY = 10  # below keepalived's usual 50: its adverts are what a late keeper would be compared with
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4  # mlockall(2)


def harden(*, realtime: bool) -> None:
    """Keep what is in memory there, and have no collection walk it again; with `realtime`, run before other programs.

    When everything is imported, and before there are threads: they inherit it. What is not permitted is logged, and
    gone without. Memory is locked as it is touched: the stacks of threads are mostly not.
    """
    gc.collect()
    gc.freeze()
    if not realtime:
        return
    if ctypes.CDLL(None, use_errno=True).mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) != 0:
        log.warning("memory is not locked: %s; run fenced as root", os.strerror(ctypes.get_errno()))
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(PRIORITY))
    except OSError as error:
        log.warning("not scheduled before other programs: %s; run fenced as root", error.strerror)
