"""The `disk.*` methods."""

from typing import Any

import pytest

from middlewared.plugins.disk.methods import Disks
from middlewared.ports import Disk, FenceState


@pytest.fixture(autouse=True)
def disks(bench: Any) -> None:
    bench.use(Disks)
    bench.machine.disk_list = [Disk("sdb", "S2", 2000), Disk("sda", "S1", 1000, "MODEL", 2)]


async def test_disks_by_name(bench: Any) -> None:
    rows = await bench.call("disk.query")
    assert [(row["name"], row["identifier"], row["size"]) for row in rows] == [
        ("sda", "{serial}S1", 1000),
        ("sdb", "{serial}S2", 2000),
    ]


@pytest.mark.parametrize(
    ("fence", "reserved"),
    [
        (FenceState(running=True, held=True), ["sda", "sdb"]),
        (FenceState(running=True, held=True, disks_failed=("S2",)), ["sda"]),
        (FenceState(running=True, held=False), []),
        (FenceState(running=False, held=True), []),  # a keeper that does not answer is not to be believed
    ],
)
async def test_reserved_is_what_the_keeper_has_verified(bench: Any, fence: FenceState, reserved: list[str]) -> None:
    bench.machine.fence = fence
    rows = await bench.call("disk.query", [["reserved", "=", True]], {"select": ["name"]})
    assert [row["name"] for row in rows] == reserved
