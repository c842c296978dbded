"""Carries a plan out, all or nothing."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from middlewared.plugins.interface.plan import Change, describe, undo
from middlewared.ports import PortError

log = logging.getLogger(__name__)

CHANGE_TIMEOUT_MS = 5_000  # of one change; the kernel answers within microseconds, unless a driver hangs


async def carry_out(changes: Sequence[Change], perform: Callable[[Change], Awaitable[None]]) -> None:
    """Make the changes one after the other; when one fails, undo those before it. Raises PortError, also for a plan
    that could be neither finished nor undone whole: the sentence then says what is left.
    """
    done: list[Change] = []
    for change in changes:
        try:
            await _in_time(change, perform)
        except PortError as error:
            left = await _undo(done, perform)
            if left:
                raise PortError(f"{error}; and it could not be undone wholly: {'; '.join(left)}") from error
            raise
        log.info("%s: done", describe(change))
        done.append(change)


async def _undo(done: Sequence[Change], perform: Callable[[Change], Awaitable[None]]) -> list[str]:
    """Every step is tried; the complaints of those that failed."""
    complaints = []
    for change in undo(done):
        try:
            await _in_time(change, perform)
        except PortError as error:
            complaints.append(str(error))
    return complaints


async def _in_time(change: Change, perform: Callable[[Change], Awaitable[None]]) -> None:
    try:
        async with asyncio.timeout(CHANGE_TIMEOUT_MS / 1000):
            await perform(change)
    except TimeoutError:
        raise PortError(f"{describe(change)}: no answer within {CHANGE_TIMEOUT_MS} ms") from None
