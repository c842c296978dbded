"""The kernel's own SCSI target, LIO, told by its configfs what to serve. Pure: text for a shell, and text from one.

Documentation/target/ of the kernel; PREEMPT AND ABORT, READ FULL STATUS and APTPL work here. What it is told to keep of
reservations it writes to /var/target/pr, a file for each disk that bears its serial, and never reads again: whoever
sets the target up hands each registration back before the disk is exported.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from middlewared.lab.netns.layout import PREFIX_LENGTH
from middlewared.lab.target import PORT, TARGET, TargetDisk

NIC = "eth0"
KEPT = "reservations"  # the drive that they are on
_CORE = "/sys/kernel/config/target/core"
_GROUP = f"/sys/kernel/config/target/iscsi/{TARGET}/tpgt_1"
_HEADER = "== "
_REGISTRATION = re.compile(r"^PR_REG_START: \d+\n(.+?)^PR_REG_END: \d+\n", re.MULTILINE | re.DOTALL)
_ALUA_ACTIVE, _ALUA_UNAVAILABLE = 0, 3  # asymmetric access states, SPC-4 5.15.2

# Before the snapshot: what takes long.
LOAD = f"""
modprobe -a target_core_mod target_core_iblock iscsi_target_mod
mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config
mkdir -p /var/target /sys/kernel/config/target/iscsi
ip link set {NIC} up
"""

# The kernel writes these files without syncing them, and a shelf that loses power is killed: hence the options.
# What the snapshot remembers of the drive is of another time.
READ = f"""
blockdev --flushbufs /dev/disk/by-id/virtio-{KEPT}
mount -o sync,dirsync /dev/disk/by-id/virtio-{KEPT} /var/target
mkdir -p /var/target/pr
cd /var/target/pr
for file in aptpl_*; do test ! -f $file || {{ echo "{_HEADER}${{file#aptpl_}}"; cat $file; }}; done
"""


def kept(text: str) -> dict[str, list[str]]:
    """The registrations that READ printed, by the disk's serial; each as res_aptpl_metadata takes it.

    The end of a file that was cut off is none.
    """
    found = {}
    for part in text.split(_HEADER)[1:]:
        serial, _, registrations = part.partition("\n")
        found[serial] = [",".join(one.split()) for one in _REGISTRATION.findall(registrations)]
    return found


def serve(
    disks: Sequence[TargetDisk],
    addresses: Iterable[str],
    initiators: Sequence[str],
    registrations: Mapping[str, Sequence[str]],
) -> str:
    """Export the drives "disk1", "disk2", … to these initiators, and to nobody else.

    Each initiator is named: of one that just comes the kernel would know the kept registrations only when it is there,
    and until then others could write. The portals come last.
    """
    lines = [f"mkdir {_CORE}/iblock_0", f"mkdir -p {_GROUP}"]
    for disk in disks:
        place = _place(disk.lun)
        lines += [
            f"mkdir {place}",
            f"echo udev_path=/dev/disk/by-id/virtio-disk{disk.lun} > {place}/control",
            f"echo 1 > {place}/enable",
            f"echo {disk.serial} > {place}/wwn/vpd_unit_serial",
            *(f"echo '{one}' > {place}/pr/res_aptpl_metadata" for one in registrations.get(disk.serial, ())),
            f"mkdir {_GROUP}/lun/lun_{disk.lun}",
            f"ln -s {place} {_GROUP}/lun/lun_{disk.lun}/disk",
        ]
    lines += [f"echo 0 > {_GROUP}/attrib/authentication"]
    for initiator in initiators:
        lines += [f"mkdir {_GROUP}/acls/{initiator}"]
        for disk in disks:
            mapped = f"{_GROUP}/acls/{initiator}/lun_{disk.lun}"
            lines += [f"mkdir {mapped}", f"ln -s {_GROUP}/lun/lun_{disk.lun} {mapped}/disk"]
    for address in addresses:
        lines += [f"ip address add {address}/{PREFIX_LENGTH} dev {NIC}", f"mkdir {_GROUP}/np/{address}:{PORT}"]
    return "\n".join([*lines, f"echo 1 > {_GROUP}/enable"])


def fail(lun: int, *, failed: bool) -> str:
    """The disk answers NOT READY to nearly everything, on every path."""
    state = _ALUA_UNAVAILABLE if failed else _ALUA_ACTIVE
    return f"echo {state} > {_place(lun)}/alua/default_tg_pt_gp/alua_access_state"


def _place(lun: int) -> str:
    return f"{_CORE}/iblock_0/disk{lun}"
