"""What a daemon that has just started makes of pools that cannot all be seen."""

from collections.abc import Sequence

import pytest

from middlewared.plugins.failover.controller import look_at_pools
from middlewared.ports import Pool, Pools, PortError

TANK = Pool("tank", "17", True, "ONLINE")
DOZER = Pool("dozer", "18", False, "OFFLINE")


class Seen(Pools):
    """`None`: cannot be told."""

    def __init__(self, pools: Sequence[Pool] | None, imported: Sequence[Pool] | None) -> None:
        self._pools, self._imported = pools, imported

    async def pools(self) -> Sequence[Pool]:
        if self._pools is None:
            raise PortError("`zpool import` did not end")
        return self._pools

    async def imported(self) -> Sequence[Pool]:
        if self._imported is None:
            raise PortError("an import is under way")
        return self._imported


@pytest.mark.parametrize(
    ("seen", "some_and_all"),
    [
        (Seen([], []), (False, True)),
        (Seen([DOZER], []), (False, False)),
        (Seen([TANK, DOZER], [TANK]), (True, False)),
        (Seen([TANK], [TANK]), (True, True)),
        (Seen(None, []), (False, False)),  # a standby with slow disks is not reset for them
        (Seen(None, [TANK]), (True, False)),
        (Seen(None, None), (True, False)),
    ],
)
async def test_unknown_counts_as_imported_and_unread_disks_do_not(seen: Seen, some_and_all: tuple[bool, bool]) -> None:
    assert await look_at_pools(seen) == some_and_all
