"""Which pools are remembered, and which are this controller's own."""

from pathlib import Path

import pytest
from support.host import FakeHost

from middlewared.blockdevices import scan
from middlewared.plugins.pool.known import MISSED_MAX, Known, is_local, merge, nodes

ALL = frozenset({"S1", "S2"})
TANK = {"17": Known("tank", ALL)}


def test_what_a_scan_finds_is_known() -> None:
    assert merge({}, {"17": "tank"}, here=(), serials=ALL) == TANK


def test_a_pool_is_forgotten_when_its_disks_are_there_and_it_is_not() -> None:
    known = TANK
    for _ in range(MISSED_MAX - 1):
        known = merge(known, {}, here=(), serials=ALL | {"S3"})
        assert list(known) == ["17"]
    assert merge(known, {}, here=(), serials=ALL) == {}


def test_a_shelf_without_power_makes_nobody_forget() -> None:
    known = TANK
    for _ in range(MISSED_MAX):
        known = merge(known, {}, here=(), serials=frozenset({"S1"}))
    assert known == TANK


def test_no_scan_shows_an_imported_pool() -> None:
    known = TANK
    for _ in range(MISSED_MAX):
        known = merge(known, {}, here={"17"}, serials=ALL)
    assert known == TANK


def test_seen_again_it_starts_anew() -> None:
    missed = {"17": Known("tank", ALL, missed=2)}
    assert merge(missed, {"17": "tank"}, here=(), serials=ALL) == TANK


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    """Two shared disks, an NVMe disk, a virtio boot disk, a USB stick."""
    host = FakeHost(tmp_path)
    host.scsi("sda", address="0:0:0:0", serial="S1", wwid="naa.1", partitions=1)
    host.scsi("sdb", address="0:0:1:0", serial="S2", wwid="naa.2", partitions=1)
    host.scsi("sdu", address="4:0:0:0", serial="0101", bus="pci0000:00/usb1/1-2/1-2:1.0", partitions=1)
    host.nvme_multipath("nvme0n1", controllers=["nvme0"], serial="S4YP0001", wwid="eui.1")
    host.mapped("dm-0", dm_name="mpatha", uuid="mpath-1", slaves=["sda"])
    host.virtio("vda")
    return host


@pytest.mark.parametrize(
    ("members", "local"),
    [
        (["/dev/sda1", "/dev/sdb1"], False),
        (["/dev/dm-0"], False),
        (["/dev/nvme0n1p1"], False),
        (["/dev/vda1"], True),
        (["/dev/sdu1"], True),
        (["/tmp/file"], True),
        (["/dev/sda1", "/dev/vda1"], False),  # a shared pool with a local cache
        (["/dev/vda1", "/dev/sdz1"], True),  # a local mirror that lost a half
        (["/dev/sdz1"], False),  # nobody knows
        ([], False),
    ],
)
def test_whose_pool_it_is(host: FakeHost, members: list[str], local: bool) -> None:
    assert is_local(host.root, map(Path, members), scan(host.root)) is local


def test_members_are_found_by_their_last_name(host: FakeHost) -> None:
    host.alias("dev/disk/by-id/wwn-0x1", "sda")
    assert nodes(host.root, ["wwn-0x1", "sdb1", "sdz", "mirror-0"], "/dev/disk/by-id") == [
        Path("/dev/sda"),
        Path("/dev/sdb1"),
    ]
