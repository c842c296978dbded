"""Prints who holds which disk of the lab's shelf, as JSON (`python -m middlewared.lab.netns.holders [DISKS]`)."""

import asyncio
import json
import sys

from middlewared.lab.netns.layout import DISKS, PORTAL
from middlewared.plugins.fencing.iscsi import IscsiSource, IscsiTransport
from middlewared.plugins.fencing.logic import HOST_IDS
from middlewared.plugins.fencing.scsi_pr import host_of, is_parked
from middlewared.plugins.fencing.takeover import read_all

_TIMEOUT_MS = 1_000
_NAMES = {number: letter.lower() for letter, number in HOST_IDS.items()}


async def holders(count: int = DISKS) -> dict[int, str | None]:
    """By disk; None: nobody, or it does not answer."""
    source = IscsiSource([PORTAL], "iqn.2026-11.org.middlewared.lab:onlooker")
    await source.start()
    disks = list(source.disks().values())
    readings, _ = await read_all(disks, _TIMEOUT_MS)
    await source.stop()
    found: dict[int, str | None] = dict.fromkeys(range(count))
    for disk in disks:
        held = readings[disk.serial].reservation if disk.serial in readings else None
        path = disk.paths[0]
        if held is not None and not is_parked(held.key) and isinstance(path, IscsiTransport):
            found[path.lun - 1] = _NAMES.get(host_of(held.key), "a stranger")
    return found


if __name__ == "__main__":
    print(json.dumps(asyncio.run(holders(*map(int, sys.argv[1:2])))))
