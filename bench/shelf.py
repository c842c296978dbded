"""A shelf of disks in a process of its own: `python -m bench.shelf DIRECTORY DISKS`; ends when its input does."""

import asyncio
import sys
from pathlib import Path

from middlewared.lab.shelf import Shelf, ShelfDisk
from middlewared.lab.shelf_server import ShelfServer

_DISK_BYTES = 1 << 30


async def _serve(directory: Path, disks: int) -> None:
    shelf = Shelf([ShelfDisk(lun, f"BENCH{lun:05d}", _DISK_BYTES) for lun in range(disks)])
    server = ShelfServer(shelf, directory)
    await server.start()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), int(sys.argv[2])))
