"""A host's /sys, /proc and /dev in a folder: laid out like the kernel's, as far as our drivers look at them.

Written after the kernel's own documentation and what Debian 12 (kernel 6.1) shows: SAS disks by two paths, disks of an
iSCSI target, NVMe with and without native multipath, a virtio boot disk, a USB stick, device-mapper.
"""

import os
from collections.abc import Sequence
from pathlib import Path

ROOT_ON_VIRTIO = "26 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro"
PROC = "22 26 0:21 / /proc rw,nosuid shared:12 - proc proc rw"


class FakeHost:
    """Build it in a temporary folder, then hand `root` to what reads it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._minor = 0
        for folder in ("block", "class/block", "dev/block"):
            (root / "sys" / folder).mkdir(parents=True)
        self.mounts([PROC])
        self.swaps([])

    # ------------------------------------------------------------------------------------------ disks

    def scsi(
        self,
        name: str,
        *,
        address: str,
        serial: str = "",
        wwid: str = "",
        bus: str = "pci0000:00/0000:00:02.1/0000:02:00.0",
        vendor: str = "SEAGATE",
        model: str = "ST18000NM004J",
        kind: str = "0",
        size_bytes: int = 1 << 30,
        state: str = "running",
        removable: bool = False,
        generic: str | None = None,
        partitions: int = 0,
    ) -> None:
        """One path to a SCSI disk. `generic`: its "sg3"; None derives it from the name, empty: sg is not loaded."""
        host, channel, target, _ = address.split(":")
        device = self._sys(f"devices/{bus}/host{host}/target{host}:{channel}:{target}/{address}")
        self.put(device / "vendor", f"{vendor:8}\n")
        self.put(device / "model", f"{model:16}\n")
        self.put(device / "type", f"{kind}\n")
        self.put(device / "state", f"{state}\n")
        if wwid:
            self.put(device / "wwid", f"{wwid}\n")
        if serial:
            page = serial.rjust(20).encode()  # right-justified, as many targets do
            self.put(device / "vpd_pg80", b"\0\x80" + len(page).to_bytes(2, "big") + page)
        generic = f"sg{self._minor}" if generic is None else generic
        if generic:
            (device / "scsi_generic" / generic).mkdir(parents=True)
        self._block(name, device / "block" / name, device, size_bytes, removable, partitions)

    def nvme(self, name: str, *, controller: str, serial: str, wwid: str, nsid: int = 1, partitions: int = 0) -> None:
        """A namespace without native multipath: its device is the controller."""
        device = self._controller(controller, serial)
        entry = device / name
        self._namespace(entry, nsid, wwid)
        self._block(name, entry, device, 1 << 40, False, partitions)

    def nvme_multipath(self, name: str, *, controllers: Sequence[str], serial: str, wwid: str) -> None:
        """A namespace that the kernel reaches through several controllers: one visible device, a hidden one a path."""
        subsystem = self._sys("devices/virtual/nvme-subsystem/nvme-subsys0")
        self.put(subsystem / "serial", f"{serial:20}\n")
        self.put(subsystem / "model", f"{'SAMSUNG MZWLR7T6':40}\n")
        entry = subsystem / name
        self._namespace(entry, 1, wwid)
        self._block(name, entry, subsystem, 1 << 40, False, 1)
        head, _, namespace = name.removeprefix("nvme").partition("n")
        for number, controller in enumerate(controllers):
            device = self._controller(controller, serial)
            hidden = f"nvme{head}c{number}n{namespace}"
            self._namespace(device / hidden, 1, wwid)
            self._block(hidden, device / hidden, device, 1 << 40, False, 0)
            self.put(device / hidden / "hidden", "1\n")

    def virtio(self, name: str, *, partitions: int = 1) -> None:
        device = self._sys(f"devices/pci0000:00/0000:00:03.0/virtio{self._minor}")
        self.put(device / "vendor", "0x1af4\n")
        self._block(name, device / "block" / name, device, 1 << 34, False, partitions)

    def mapped(self, name: str, *, dm_name: str, uuid: str, slaves: Sequence[str]) -> None:
        """A device-mapper device ("dm-0") on others."""
        entry = self._sys(f"devices/virtual/block/{name}")
        self._block(name, entry, None, 1 << 30, False, 0)
        self.put(entry / "dm/name", f"{dm_name}\n")
        self.put(entry / "dm/uuid", f"{uuid}\n")
        for slave in slaves:
            below = (self.root / "sys/class/block" / slave).resolve()
            self._link(entry / "slaves" / slave, below)
            self._link(below / "holders" / name, entry)
        self._link(self.root / "dev/mapper" / dm_name, self.root / "dev" / name)

    def gone(self, name: str) -> None:
        """Unplugged: the links are away, what they led to as well."""
        for folder in ("block", "class/block"):
            (self.root / "sys" / folder / name).unlink()

    def numbers(self, name: str) -> str:
        """Its device numbers: "8:1"."""
        return (self.root / "sys/class/block" / name / "dev").read_text().strip()

    # ------------------------------------------------------------------------------------------ the rest

    def mounts(self, lines: Sequence[str]) -> None:
        self.put(self.root / "proc/self/mountinfo", "".join(f"{line}\n" for line in lines))

    def swaps(self, devices: Sequence[str]) -> None:
        rows = [f"{device:40}partition\t1048572\t0\t-2\n" for device in devices]
        self.put(self.root / "proc/swaps", "".join(["Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n", *rows]))

    def alias(self, path: str, name: str) -> None:
        """A link that udev makes: alias("dev/disk/by-id/wwn-0x5000c500", "sda")."""
        self._link(self.root / path, self.root / "dev" / name)

    def process(self, pid: int, argv: Sequence[str], *, state: str = "S") -> None:
        """A process as /proc shows it (proc_pid_stat(5))."""
        name = argv[0].rsplit("/", 1)[-1][:15]
        self.put(self.root / f"proc/{pid}/stat", f"{pid} ({name}) {state} 1 {pid} {pid} 0 -1 4194304 0\n")
        self.put(self.root / f"proc/{pid}/cmdline", b"".join(word.encode() + b"\0" for word in argv))

    def put(self, path: Path, content: str | bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    def _sys(self, path: str) -> Path:
        folder = self.root / "sys" / path
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _controller(self, name: str, serial: str) -> Path:
        device = self._sys(f"devices/pci0000:00/0000:00:0{name[-1]}.0/0000:0{name[-1]}:00.0/nvme/{name}")
        self.put(device / "serial", f"{serial:20}\n")
        self.put(device / "model", f"{'SAMSUNG MZWLR7T6':40}\n")
        self.put(device / "state", "live\n")
        return device

    def _namespace(self, entry: Path, nsid: int, wwid: str) -> None:
        self.put(entry / "nsid", f"{nsid}\n")
        self.put(entry / "wwid", f"{wwid}\n")

    def _block(
        self, name: str, entry: Path, device: Path | None, size_bytes: int, removable: bool, partitions: int
    ) -> None:
        for folder in ("holders", "slaves"):
            (entry / folder).mkdir(parents=True, exist_ok=True)
        self.put(entry / "size", f"{size_bytes // 512}\n")
        self.put(entry / "removable", f"{int(removable)}\n")
        if device is not None:
            self._link(entry / "device", device)
        self._link(self.root / "sys/block" / name, entry)
        self._register(name, entry)
        for number in range(1, partitions + 1):
            part = f"{name}p{number}" if name[-1].isdigit() else f"{name}{number}"
            self.put(entry / part / "partition", f"{number}\n")
            self._register(part, entry / part)

    def _register(self, name: str, entry: Path) -> None:
        self._minor += 1
        self.put(entry / "dev", f"8:{self._minor}\n")
        self._link(self.root / "sys/class/block" / name, entry)
        self._link(self.root / f"sys/dev/block/8:{self._minor}", entry)
        self.put(self.root / "dev" / name, "")

    @staticmethod
    def _link(path: Path, target: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(os.path.relpath(target, path.parent.resolve()))
