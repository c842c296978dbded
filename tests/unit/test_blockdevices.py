"""Which disks a host has, by what paths, and which of them are its own; on the kernel's layouts of sysfs."""

import asyncio
import os
import socket
from pathlib import Path

import pytest

from middlewared import blockdevices
from middlewared.blockdevices import BlockDeviceWatch, DiskPath, Kind, scan
from middlewared.ports import PortError
from tests.support.host import PROC, ROOT_ON_VIRTIO, FakeHost


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path)


def two_paths(host: FakeHost) -> None:
    for name, address, generic in (("sda", "0:0:0:0", "sg0"), ("sdb", "1:0:0:0", "sg1")):
        host.scsi(name, address=address, serial="ZR5ABC01", wwid="naa.5000c500d1e2f301", generic=generic)


def mount(host: FakeHost, block: str, point: str) -> str:
    return f"30 26 {host.numbers(block)} / {point} rw shared:9 - ext4 /dev/{block} rw"


# ---------------------------------------------------------------------------------------------- disks and their paths


def test_a_sas_disk_by_two_paths_is_one_disk(host: FakeHost) -> None:
    two_paths(host)
    [disk] = scan(host.root)
    assert (disk.serial, disk.name, disk.kind, disk.size_bytes) == ("ZR5ABC01", "sda", Kind.SCSI, 1 << 30)
    assert disk.model == "ST18000NM004J"
    assert disk.paths == (DiskPath("sda", "/dev/sg0", True), DiskPath("sdb", "/dev/sg1", True))
    assert disk.shared


def test_multipath_tells_its_name(host: FakeHost) -> None:
    two_paths(host)
    host.mapped("dm-0", dm_name="mpatha", uuid="mpath-35000c500d1e2f301", slaves=["sda", "sdb"])
    [disk] = scan(host.root)
    assert disk.mapper == "mpatha"


def test_a_path_that_the_kernel_gave_up(host: FakeHost) -> None:
    two_paths(host)
    host.scsi("sdc", address="2:0:0:0", serial="ZR5ABC01", wwid="naa.5000c500d1e2f301", state="transport-offline")
    assert [path.reachable for path in scan(host.root)[0].paths] == [True, True, False]


def test_a_lun_of_an_iscsi_target(host: FakeHost) -> None:
    host.scsi("sda", address="3:0:0:1", serial="beaf11", wwid="naa.60000000000000000e00000000010001", vendor="IET",
              model="VIRTUAL-DISK", bus="platform/host3/session1")  # fmt: skip
    [disk] = scan(host.root)
    assert (disk.serial, disk.model, disk.shared) == ("beaf11", "VIRTUAL-DISK", True)


def test_without_page_80_the_designator_is_the_serial(host: FakeHost) -> None:
    host.scsi("sda", address="0:0:0:0", wwid="naa.5000c500d1e2f301")
    assert scan(host.root)[0].serial == "naa.5000c500d1e2f301"


def test_a_disk_that_tells_nothing_is_not_shared(host: FakeHost) -> None:
    host.scsi("sda", address="0:0:0:0")
    host.scsi("sdb", address="0:0:1:0")
    assert [(disk.name, disk.serial, disk.shared) for disk in scan(host.root)] == [
        ("sda", "", False),
        ("sdb", "", False),
    ]


def test_two_units_under_one_serial_are_told_apart(host: FakeHost) -> None:
    host.scsi("sda", address="0:0:0:0", serial="ZDUAL", wwid="naa.5000c500aaaa0000")
    host.scsi("sdb", address="0:0:0:1", serial="ZDUAL", wwid="naa.5000c500aaaa0001")
    assert [disk.serial for disk in scan(host.root)] == ["ZDUAL-naa.5000c500aaaa0000", "ZDUAL-naa.5000c500aaaa0001"]


def test_nvme_namespaces_of_one_controller(host: FakeHost) -> None:
    host.nvme("nvme0n1", controller="nvme0", serial="S4YP0001", wwid="eui.0025385b01")
    host.nvme("nvme0n2", controller="nvme0", serial="S4YP0001", wwid="eui.0025385b02", nsid=2)
    first, second = scan(host.root)
    assert (first.serial, first.kind, first.model) == ("S4YP0001", Kind.NVME, "SAMSUNG MZWLR7T6")
    assert first.paths == (DiskPath("nvme0n1", "/dev/nvme0n1", True),)
    assert second.serial == "S4YP0001-2"


def test_nvme_with_native_multipath(host: FakeHost) -> None:
    host.nvme_multipath("nvme0n1", controllers=["nvme0", "nvme1"], serial="S4YP0001", wwid="eui.0025385b01")
    [disk] = scan(host.root)
    assert [path.block for path in disk.paths] == ["nvme0c0n1", "nvme0c1n1"]
    assert {path.node for path in disk.paths} == {"/dev/nvme0n1"}
    assert disk.blocks == {"nvme0n1", "nvme0c0n1", "nvme0c1n1"}


def test_what_is_no_disk(host: FakeHost) -> None:
    host.virtio("vda")
    host.scsi("sdx", address="4:0:0:0", serial="0101", removable=True, bus="pci0000:00/0000:00:14.0/usb1/1-2/1-2:1.0")
    host.scsi("sdy", address="5:0:0:0", serial="0102", bus="pci0000:00/0000:00:14.0/usb1/1-3/1-3:1.0")
    host.scsi("sr0", address="6:0:0:0", serial="0103", kind="5", removable=True)
    two_paths(host)
    host.mapped("dm-0", dm_name="mpatha", uuid="mpath-3", slaves=["sda"])
    assert [disk.serial for disk in scan(host.root)] == ["ZR5ABC01"]


def test_a_disk_unplugged_while_we_look(host: FakeHost) -> None:
    two_paths(host)
    (host.root / "sys/block/sdz").symlink_to("../devices/nowhere")
    assert [disk.serial for disk in scan(host.root)] == ["ZR5ABC01"]


def test_without_the_sg_module_there_is_no_node(host: FakeHost) -> None:
    host.scsi("sda", address="0:0:0:0", serial="S1", generic="")
    assert scan(host.root)[0].paths == (DiskPath("sda", "", True),)


# ---------------------------------------------------------------------------------------------- what the host runs from


@pytest.mark.parametrize(
    ("block", "point", "is_boot"),
    [
        ("sda2", "/", True),
        ("sda1", "/boot/efi", True),
        ("sda2", "/var", True),
        ("sda2", "/mnt/backup", False),  # whoever mounts a shared disk must not take it out of fencing
        ("sda2", "/media/stick", False),
    ],
)
def test_a_disk_is_boot_by_what_is_mounted_from_it(host: FakeHost, block: str, point: str, is_boot: bool) -> None:
    host.scsi("sda", address="0:0:0:0", serial="S1", partitions=2)
    host.mounts([PROC, mount(host, block, point)])
    assert scan(host.root)[0].is_boot is is_boot


def test_swap_is_boot(host: FakeHost) -> None:
    host.scsi("sda", address="0:0:0:0", serial="S1", partitions=2)
    host.swaps(["/dev/sda2"])
    assert scan(host.root)[0].is_boot


def test_root_on_lvm_on_multipath_on_both_paths(host: FakeHost) -> None:
    two_paths(host)
    host.mapped("dm-0", dm_name="mpatha", uuid="mpath-3", slaves=["sda", "sdb"])
    host.mapped("dm-1", dm_name="mpatha-part2", uuid="part2-mpath-3", slaves=["dm-0"])
    host.mapped("dm-2", dm_name="vg-root", uuid="LVM-x", slaves=["dm-1"])
    host.mounts([f"26 1 {host.numbers('dm-2')} / / rw - xfs /dev/mapper/vg-root rw"])
    [disk] = scan(host.root)
    assert disk.is_boot
    assert blockdevices.boot_disks(host.root) == {"sda", "sdb"}


def test_root_by_one_path_makes_the_whole_disk_boot(host: FakeHost) -> None:
    two_paths(host)
    host.mounts([mount(host, "sdb", "/")])
    assert scan(host.root)[0].is_boot


def test_root_on_btrfs_over_two_disks(host: FakeHost) -> None:
    """Its device numbers are its own, and the mount names one of its disks only."""
    for number, name in enumerate(("sda", "sdb", "sdc")):
        host.scsi(name, address=f"0:0:{number}:0", serial=f"S{number}", partitions=1)
    for name in ("sda1", "sdb1"):
        host.put(host.root / f"sys/fs/btrfs/6f1e/devices/{name}/dev", "8:0")
    host.mounts(["26 1 0:23 /@ / rw - btrfs /dev/sda1 rw,subvol=/@"])
    assert [disk.is_boot for disk in scan(host.root)] == [True, True, False]


def test_root_on_nvme_with_native_multipath(host: FakeHost) -> None:
    host.nvme_multipath("nvme0n1", controllers=["nvme0"], serial="S4YP0001", wwid="eui.0025385b01")
    host.mounts([mount(host, "nvme0n1p1", "/")])
    assert scan(host.root)[0].is_boot


def test_a_disk_that_the_settings_name_is_ignored(host: FakeHost) -> None:
    two_paths(host)
    [disk] = scan(host.root, ignored=["ZR5ABC01"])
    assert disk.is_ignored
    assert not disk.shared


# ---------------------------------------------------------------------------------------------- root on ZFS

BOOT_STATUS = """\
  pool: rpool
 state: DEGRADED
config:

\tNAME                      STATE     READ WRITE CKSUM
\trpool                     DEGRADED     0     0     0
\t  mirror-0                DEGRADED     0     0     0
\t    /dev/sda3             ONLINE       0     0     0
\t    9234567812345678901   UNAVAIL      0     0     0  was /dev/sdb3

errors: No known data errors
"""


def zpool(folder: Path, output: str) -> str:
    program = folder / "zpool"
    program.write_text(f"#!/bin/sh\n[ \"$*\" = 'status -LP rpool' ] || exit 2\ncat <<'END'\n{output}END\n")
    program.chmod(0o755)
    return str(program)


async def test_the_members_of_a_boot_pool_are_boot(host: FakeHost) -> None:
    """But not the disk that now has the name of a lost member."""
    host.scsi("sda", address="0:0:0:0", serial="S1", partitions=3)
    host.scsi("sdb", address="0:0:1:0", serial="S2", partitions=3)
    host.mounts(["26 1 0:23 / / rw - zfs rpool/ROOT/debian rw,xattr"])
    members = await blockdevices.boot_pool_members(host.root, zpool(host.root, BOOT_STATUS))
    assert members == {"sda3"}
    assert [disk.is_boot for disk in scan(host.root, boot=members)] == [True, False]


async def test_not_on_zfs_needs_no_zpool(host: FakeHost) -> None:
    host.mounts([ROOT_ON_VIRTIO])
    assert await blockdevices.boot_pool_members(host.root, "/nowhere/zpool") == frozenset()


async def test_a_boot_pool_that_does_not_tell_is_an_error(host: FakeHost) -> None:
    host.mounts(["26 1 0:23 / / rw - zfs rpool/ROOT/debian rw,xattr"])
    with pytest.raises(PortError, match="cannot be run"):
        await blockdevices.boot_pool_members(host.root, "/nowhere/zpool")


# ---------------------------------------------------------------------------------------------- the watch


class Kernel:
    """The kernel's end of the uevent socket."""

    def __init__(self) -> None:
        self.socket, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)

    def open(self) -> socket.socket:
        self._theirs.setblocking(False)
        return self._theirs

    def say(self, subsystem: str) -> None:
        path = "/devices/pci0000:00/host0/target0:0:1/0:0:1:0/block/sdc"
        self.socket.send(f"add@{path}\0ACTION=add\0DEVPATH={path}\0SUBSYSTEM={subsystem}\0SEQNUM=4711\0".encode())


async def test_a_disk_that_is_plugged_in_is_seen(host: FakeHost) -> None:
    two_paths(host)
    kernel = Kernel()
    watch = BlockDeviceWatch(host.root, settle_ms=1, poll_ms=600_000, open_uevents=kernel.open)
    changed = asyncio.Event()
    watch.on_change(changed.set)
    await watch.start()
    try:
        assert [disk.serial for disk in watch.devices] == ["ZR5ABC01"]
        host.scsi("sdc", address="0:0:1:0", serial="ZR5ABC02", wwid="naa.5000c500d1e2f302")
        kernel.say("block")
        async with asyncio.timeout(30):
            await changed.wait()
        assert [disk.serial for disk in watch.devices] == ["ZR5ABC01", "ZR5ABC02"]
    finally:
        await watch.stop()


async def test_what_no_event_told_is_seen_when_somebody_says_so(host: FakeHost) -> None:
    two_paths(host)
    watch = BlockDeviceWatch(host.root, settle_ms=1, poll_ms=600_000, open_uevents=Kernel().open)
    changed = asyncio.Event()
    watch.on_change(changed.set)
    await watch.start()
    try:
        host.gone("sdb")
        watch.stir()
        async with asyncio.timeout(30):
            await changed.wait()
        assert [len(disk.paths) for disk in watch.devices] == [1]
    finally:
        await watch.stop()


async def test_what_no_event_told_is_seen_by_the_poll(host: FakeHost) -> None:
    two_paths(host)
    watch = BlockDeviceWatch(host.root, settle_ms=1, poll_ms=10, open_uevents=Kernel().open)
    changed = asyncio.Event()
    watch.on_change(changed.set)
    await watch.start()
    try:
        host.gone("sdb")
        async with asyncio.timeout(30):
            await changed.wait()
        assert [len(disk.paths) for disk in watch.devices] == [1]
    finally:
        await watch.stop()


async def test_without_sysfs_there_is_no_watch(tmp_path: Path) -> None:
    with pytest.raises(PortError, match="is sysfs mounted"):
        await BlockDeviceWatch(tmp_path, open_uevents=Kernel().open).start()


def test_only_disks_are_news() -> None:
    assert blockdevices.is_disk_news(b"add@/x\0ACTION=add\0SUBSYSTEM=scsi_generic\0")
    assert not blockdevices.is_disk_news(b"change@/x\0ACTION=change\0SUBSYSTEM=net\0")
    assert not blockdevices.is_disk_news(b"libudev\0\xfe\xed")


def test_the_real_uevent_socket() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: the kernel's uevents")
    with blockdevices.uevents() as opened:
        assert opened.getsockname()[1] == 1
