"""What the kernel says about pools, in a folder that looks like /proc."""

from pathlib import Path

import pytest
from support.fake_zfs import FakeZfs
from support.host import FakeHost

from middlewared.plugins.pool import kernel


@pytest.mark.parametrize(
    ("line", "target"),
    [
        ("zpool import", ""),
        ("zpool import -d /dev/disk/by-id", ""),
        ("zpool import -D", ""),
        ("zpool import -f -o cachefile=none -R /mnt -d /dev/disk/by-id 17", "17"),
        ("/usr/sbin/zpool import tank", "tank"),
        ("zpool import -fN tank other", "tank"),
        ("zpool import -aN -o cachefile=none", "-a"),
        ("zpool import -c /etc/zfs/zpool.cache -aN", "-a"),
        ("zpool import -fR /mnt tank", "tank"),
        ("zpool import -fR/mnt tank", "tank"),
        ("zpool import --rewind-to-checkpoint tank", "tank"),
        ("zpool import -f -- tank", "tank"),
        ("zpool status tank", ""),
        ("zfs import tank", ""),
        ("zpool", ""),
    ],
)
def test_what_a_command_line_imports(line: str, target: str) -> None:
    assert kernel.import_target(line.split()) == target


def test_imports_under_way(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    host.process(100, ["/usr/sbin/zpool", "import", "-f", "17"], state="D")
    host.process(101, ["zpool", "import", "-f", "18"], state="Z")  # it has ended, and so has the kernel's work
    host.process(102, ["zpool", "import"])
    host.process(103, ["vim", "zpool import 19"])
    host.process(104, ["zfs", "mount", "-a"])
    assert kernel.importing(tmp_path) == ["17"]
    assert sorted(process.pid for process in kernel.processes(tmp_path)) == [100, 101, 102, 104]


def test_states(tmp_path: Path) -> None:
    zfs = FakeZfs(FakeHost(tmp_path))
    zfs.pool("tank", guid="17", devices=[], imported=True)
    zfs.suspend("tank")
    zfs.pool("$import", guid="18", devices=[], imported=True)  # the kernel, while it lists what could be imported
    (tmp_path / "proc/spl/kstat/zfs/arcstats").write_text("")
    (tmp_path / "proc/spl/kstat/zfs/dozer").mkdir()  # no state to be read: imported all the same
    assert kernel.states(tmp_path) == {"dozer": "UNKNOWN", "tank": "SUSPENDED"}


def test_without_the_module_there_is_no_list(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        kernel.states(tmp_path)


def test_newer_kernels_tell_the_guid(tmp_path: Path) -> None:
    FakeZfs(FakeHost(tmp_path)).pool("tank", guid="17", devices=[], imported=True)
    assert kernel.guid(tmp_path, "tank") == ""
    (tmp_path / "proc/spl/kstat/zfs/tank/guid").write_text("7241953270113540251\n")
    assert kernel.guid(tmp_path, "tank") == "7241953270113540251"
