"""A host with two shared disks and a fake ZFS, and the driver on it."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from support.fake_zfs import FakeZfs
from support.host import FakeHost

from middlewared.blockdevices import BlockDeviceWatch
from middlewared.plugins.pool.commands import ZfsCommands
from middlewared.plugins.pool.zfs import Timing, ZfsPools

QUICK = Timing(poll_ms=10, sizes_ms=600_000, scan_ms=600_000, import_wait_ms=500)


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    host = FakeHost(tmp_path)
    host.virtio("vda")
    host.scsi("sda", address="0:0:0:0", serial="S1", wwid="naa.1")
    host.scsi("sdb", address="0:0:1:0", serial="S2", wwid="naa.2")
    return host


@pytest.fixture
def zfs(host: FakeHost) -> FakeZfs:
    return FakeZfs(host)


@pytest.fixture
async def watch(host: FakeHost, zfs: FakeZfs) -> AsyncIterator[BlockDeviceWatch]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    theirs.setblocking(False)
    watch = BlockDeviceWatch(host.root, zpool=zfs.zpool, open_uevents=lambda: theirs)
    await watch.start()
    yield watch
    await watch.stop()
    ours.close()


@pytest.fixture
def commands(zfs: FakeZfs) -> ZfsCommands:
    return ZfsCommands(zfs.zpool, zfs.zfs, devices="/nowhere", timeout_ms=20_000, quick_ms=20_000)


@pytest.fixture
def driver(watch: BlockDeviceWatch, commands: ZfsCommands) -> ZfsPools:
    """Not started: nothing happens in the background."""
    return ZfsPools(watch, commands=commands, timing=QUICK)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)
