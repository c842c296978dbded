"""The disk port's driver: what it lists, and what it finds wrong with a host."""

import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from middlewared.blockdevices import BlockDeviceWatch
from middlewared.plugins.disk.sysfs import SysfsDisks
from middlewared.ports import Disk, Finding
from tests.support.host import FakeHost


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    host = FakeHost(tmp_path)
    host.virtio("vda")
    for name, address, state in (("sda", "0:0:0:0", "running"), ("sdb", "1:0:0:0", "offline")):
        host.scsi(name, address=address, serial="S1", wwid="naa.1", state=state)
    host.scsi("sdc", address="0:0:1:0", serial="S2", wwid="naa.2", state="offline")
    return host


@pytest.fixture
async def disks(host: FakeHost) -> AsyncIterator[SysfsDisks]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    theirs.setblocking(False)
    driver = SysfsDisks(BlockDeviceWatch(host.root, open_uevents=lambda: theirs))
    await driver.start()
    yield driver
    await driver.stop()
    ours.close()


async def test_disks_that_can_be_reached(disks: SysfsDisks) -> None:
    assert disks.disks() == [Disk("sda", "S1", 1 << 30, "ST18000NM004J", paths=1)]


async def test_lost_paths_are_found(disks: SysfsDisks) -> None:
    summary, first, second = await disks.examine()
    assert summary == Finding("shared disks", True, "1 with 0 paths, 1 with 1 path")
    assert first.detail == "S1: 1 of 2 paths are offline: sdb"
    assert second.detail == "S2: 1 of 1 paths are offline: sdc"


async def found(host: FakeHost) -> list[Finding]:
    """Before any start."""
    return list(await SysfsDisks(BlockDeviceWatch(host.root)).examine())


async def test_no_disk_at_all(tmp_path: Path) -> None:
    [finding] = await found(FakeHost(tmp_path))
    assert (finding.ok, finding.detail) == (False, "none")
    assert "iSCSI" in finding.remedy


async def test_disks_that_cannot_be_fenced(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    host.scsi("sda", address="0:0:0:0", serial="WD-1", wwid="naa.1", vendor="ATA")
    host.scsi("sdb", address="0:0:1:0")
    host.scsi("sdc", address="0:0:2:0", serial="S3", wwid="naa.3", generic="")
    details = {finding.subject: finding.detail for finding in await found(host) if not finding.ok}
    assert details == {
        "disk sda": "WD-1 is a SATA disk: it knows no persistent reservations",
        "disk sdb": "it tells neither a serial (VPD page 80h) nor a designator (83h): it is neither listed nor fenced",
        "disk sdc": "it has no /dev/sgN node",
    }


async def test_a_disk_of_the_controller_itself_is_nobodys_trouble(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    host.scsi("sda", address="0:0:0:0", serial="WD-1", wwid="naa.1", vendor="ATA")
    driver = SysfsDisks(BlockDeviceWatch(host.root, ignored=["WD-1"]))
    assert [finding.subject for finding in await driver.examine()] == ["shared disks"]


async def test_without_sysfs_the_finding_says_so(tmp_path: Path) -> None:
    [finding] = await SysfsDisks(BlockDeviceWatch(tmp_path)).examine()
    assert not finding.ok
    assert "is sysfs mounted" in finding.detail
