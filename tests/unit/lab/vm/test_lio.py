"""The kernel's target as it is told what to serve, and the reservations that it is handed back."""

import re

from middlewared.lab.target import TargetDisk
from middlewared.lab.vm import lio

DISKS = [TargetDisk(1, "LABDISK000", 1 << 20), TargetDisk(2, "LABDISK001", 1 << 20)]
KEPT = """\
== LABDISK000
PR_REG_START: 0
initiator_fabric=iSCSI
initiator_node=iqn.2026-11.org.middlewared.lab:a
initiator_sid=00023d010000
sa_res_key=11529215050426580993
res_holder=1
res_type=05
res_scope=00
res_all_tg_pt=0
mapped_lun=1
target_fabric=iSCSI
target_node=iqn.2026-11.org.middlewared.lab:shelf
tpgt=1
port_rtpi=1
target_lun=1
PR_REG_END: 0
PR_REG_START: 1
initiator_fabric=iSCSI
initiator_node=iqn.2026-11.org.middlewared.lab:a
sa_res_key=7
res_holder=0
PR_REG_END: 1
\0== LABDISK001
No Registrations or Reservations
\0"""


def test_what_was_kept_is_handed_back_line_by_line() -> None:
    first, second = lio.kept(KEPT)["LABDISK000"]
    assert first.startswith("initiator_fabric=iSCSI,initiator_node=iqn.2026-11.org.middlewared.lab:a,initiator_sid=")
    assert first.endswith(",tpgt=1,port_rtpi=1,target_lun=1")
    assert "res_holder=1,res_type=05" in first
    assert second.endswith(",sa_res_key=7,res_holder=0")
    assert lio.kept(KEPT)["LABDISK001"] == []
    assert lio.kept("") == {}


def test_a_file_that_was_cut_off_tells_nothing() -> None:
    for end in range(len("== LABDISK000\n"), KEPT.index("PR_REG_START: 1")):
        assert len(lio.kept(KEPT[:end])["LABDISK000"]) == (end > KEPT.index("PR_REG_END: 0\n") + 13)


def test_registrations_come_before_the_disk_is_exported_and_portals_last() -> None:
    text = lio.serve(DISKS, ("192.0.2.1",), ("iqn.x:a", "iqn.x:b"), {"LABDISK001": ["sa_res_key=7"]})
    lines = text.splitlines()
    restored = next(at for at, line in enumerate(lines) if "res_aptpl_metadata" in line)
    exported = next(at for at, line in enumerate(lines) if line.startswith("ln -s") and line.endswith("lun/lun_2/disk"))
    assert "disk2/pr/" in lines[restored]
    assert restored < exported
    portal = next(at for at, line in enumerate(lines) if "/np/192.0.2.1:3260" in line)
    assert portal > max(at for at, line in enumerate(lines) if "/acls/" in line)
    assert lines[portal + 1 :] == [lines[-1]]
    assert lines[-1].endswith("tpgt_1/enable")
    assert len(re.findall(r"^mkdir \S+/acls/\S+/lun_", text, re.MULTILINE)) == 4, "two disks for each of two"
