"""The disks of a host: found in a fake /sys, reached by a fake kernel."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.fake_kernel import NvmeKernel, SgKernel
from support.host import ROOT_ON_VIRTIO, FakeHost

from middlewared.blockdevices import BlockDeviceWatch
from middlewared.lab.reservations import Reservations, Target
from middlewared.lab.shelf import Shelf, ShelfDisk
from middlewared.plugins.fencing.linux import LinuxDisks
from middlewared.plugins.fencing.nvme import NvmeTransport
from middlewared.plugins.fencing.scsi_pr import make_key
from middlewared.plugins.fencing.sgio import SgTransport
from middlewared.plugins.fencing.takeover import read_all, take_all
from middlewared.ports import FenceCode

LASTING = Target(aptpl=True)
KEY = make_key(0xA000_0001, 1)
TIMEOUT_MS = 5000


class Site:
    """Two SAS disks by two paths each, one NVMe namespace, a boot disk; and news from the kernel."""

    def __init__(self, root: Path) -> None:
        self.host = FakeHost(root)
        self.host.mounts([ROOT_ON_VIRTIO])
        self.host.virtio("vda")
        for number, (name, address, lun) in enumerate(
            [("sda", "0:0:0:0", 0), ("sdb", "1:0:0:0", 0), ("sdc", "0:0:1:0", 1), ("sdd", "1:0:1:0", 1)]
        ):
            self.scsi(name, address, lun, f"sg{number}")
        self.host.nvme("nvme0n1", controller="nvme0", serial="N1", wwid="eui.0025384a")
        shelf = Shelf([ShelfDisk(lun, f"ZR{lun}", 1 << 20) for lun in range(3)], target=LASTING)
        units = {
            "sg0": ("a1", 0),
            "sg1": ("a2", 0),
            "sg2": ("a1", 1),
            "sg3": ("a2", 1),
            "sg4": ("a1", 2),
            "sg5": ("a3", 0),
        }
        self.sg = SgKernel(shelf, units)
        self.nvme = NvmeKernel(Reservations(LASTING, lambda _, __: None, lambda _: None), "a")
        self.events, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._theirs.setblocking(False)

    def scsi(self, name: str, address: str, lun: int, generic: str) -> None:
        self.host.scsi(name, address=address, serial=f"ZR{lun}", wwid=f"naa.5000c500a1b2c3{lun:02}", generic=generic)
        if generic:
            self.host.put(self.host.root / "dev" / generic, "")

    def ioctl(self, fd: int, request: int, buffer: bytearray) -> int:
        return (self.nvme if request & 0xFF00 == 0x4E00 else self.sg).ioctl(fd, request, buffer)

    def source(self, *, exclude: tuple[str, ...] = ()) -> LinuxDisks:
        root = self.host.root
        watch = BlockDeviceWatch(root, ignored=exclude, settle_ms=1, poll_ms=600_000, open_uevents=lambda: self._theirs)
        return LinuxDisks(watch, exclude=exclude, root=root, ioctl=self.ioctl)

    def stir(self) -> None:
        self.events.send(b"change@/devices/x\0ACTION=change\0SUBSYSTEM=block\0")


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(tmp_path)
    yield site
    site.sg.thaw.set()


async def test_every_path_of_every_shared_disk(site: Site) -> None:
    source = site.source()
    await source.start()
    disks = source.disks()
    assert {serial: len(disk.paths) for serial, disk in disks.items()} == {"N1": 1, "ZR0": 2, "ZR1": 2}
    assert isinstance(disks["N1"].paths[0], NvmeTransport)
    assert isinstance(disks["ZR0"].paths[0], SgTransport)
    assert all(disk.persists for disk in disks.values()), "asked of each when it was first seen"
    readings, unread = await read_all(list(disks.values()), TIMEOUT_MS)
    taken = await take_all(list(disks.values()), readings, unread, KEY, TIMEOUT_MS)
    assert (taken.result.code, taken.held) == (FenceCode.OK, frozenset({"N1", "ZR0", "ZR1"}))
    assert site.sg.shelf.reservations(0).keys == {"a1": KEY, "a2": KEY}, "each path is a nexus of its own"
    assert site.sg.shelf.reservations(0).kept
    assert site.nvme.reservations.kept
    await source.stop()


async def test_excluded_disks(site: Site) -> None:
    source = site.source(exclude=("ZR1", "N1"))
    await source.start()
    assert list(source.disks()) == ["ZR0"]
    await source.stop()


async def test_a_disk_that_comes_and_a_path_that_goes(site: Site) -> None:
    source = site.source()
    changed = asyncio.Event()
    await source.start()
    source.on_change(changed.set)
    kept = source.disks()["ZR0"].paths[0]
    site.scsi("sde", "0:0:2:0", 2, "sg4")
    site.host.gone("sdb")
    site.stir()
    async with asyncio.timeout(30):
        while not (source.disks().get("ZR2") and source.disks()["ZR2"].persists):
            changed.clear()
            await changed.wait()
    assert source.disks()["ZR0"].paths == (kept,), "what stays keeps its object: the keeper knows it by that"
    await source.stop()


async def test_a_path_that_comes_later_leaves_what_the_disk_is_told_to_keep(site: Site) -> None:
    """What a disk can is known of it, not of a path: one that has not been asked yet would have it forget."""
    source = site.source()
    changed = asyncio.Event()
    await source.start()
    source.on_change(changed.set)
    assert source.disks()["ZR0"].persists
    site.sg.hung = {"sg5"}
    site.scsi("sdf", "2:0:0:0", 0, "sg5")
    site.stir()
    async with asyncio.timeout(30):
        while len(source.disks()["ZR0"].paths) != 3:
            changed.clear()
            await changed.wait()
    assert source.disks()["ZR0"].persists
    await source.stop()


async def test_without_the_sg_module_a_disk_is_there_and_fails(site: Site) -> None:
    site.scsi("sde", "0:0:2:0", 2, "")
    source = site.source()
    await source.start()
    _, unread = await read_all(list(source.disks().values()), TIMEOUT_MS)
    assert unread == {"ZR2": "ZR2: no path"}
    await source.stop()


async def test_a_look_at_the_host(site: Site) -> None:
    site.scsi("sde", "0:0:2:0", 2, "")
    site.sg.gone.update({"sg0", "sg1"})
    found = {finding.subject: finding for finding in await site.source().examine()}
    assert found["shared disks"].detail == "4 are visible"
    assert (found["disk ZR0"].ok, found["disk ZR0"].remedy) == (False, "check the disk and its cables")
    assert found["disk ZR1"].detail == "2 paths; reservations survive a loss of power"
    assert found["disk ZR2"].remedy.startswith("modprobe sg")
    assert found["disk N1"].ok


async def test_a_look_where_there_is_nothing(site: Site) -> None:
    found = await site.source(exclude=("ZR0", "ZR1", "N1")).examine()
    assert [(finding.subject, finding.ok) for finding in found] == [("shared disks", False)]
