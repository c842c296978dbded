"""The disks of this host as the kernel shows them in /sys and /proc, and the news that they changed.

Shared ground of the disk driver and of fencing: which disks there are, which of them this host boots from, by which
serial both controllers know them, and by which nodes their paths are reached. Nothing here opens a disk.

Layout of sysfs: Documentation/ABI/stable/sysfs-block, testing/sysfs-block-device and sysfs-class-scsi_device of the
kernel; the unit serial number is VPD page 80h (SPC-6 7.7.11), `wwid` the kernel's choice among the designators of page
83h that belong to the logical unit.
"""

import asyncio
import contextlib
import enum
import logging
import os
import re
import socket
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from middlewared import programs
from middlewared.ports import Listener, PortError

log = logging.getLogger(__name__)

_SECTOR_BYTES = 512  # the unit of `size` in sysfs, whatever the disk's own block size
_SCSI_DISK_TYPES = ("0", "20")  # direct access, and zoned (SPC-6 table 146): 00h and 14h
_UNREACHABLE = ("offline", "transport-offline", "cancel", "deleted", "dead", "deleting", "deleting (no IO)")
_NVME_PATH = re.compile(r"(nvme\d+)c\d+(n\d+)")  # a path of a namespace under native multipath: nvme0c1n1 of nvme0n1
_STACK_DEPTH_MAX = 8  # file system on LVM on LUKS on RAID on multipath on a partition
_SYSTEM_FOLDERS = ("", "boot", "efi", "etc", "home", "opt", "root", "usr", "var")  # what a host keeps on its own disks
_NETLINK_KOBJECT_UEVENT = 15  # linux/netlink.h; group 1 is the kernel's own multicast
_UEVENT_BYTES_MAX = 8192  # the kernel's are at most 2 KiB of variables and a path
_UEVENTS_AT_ONCE_MAX = 256
_ZPOOL_TIMEOUT_MS = 10_000


class Kind(enum.StrEnum):
    """How reservations are asked of it: SCSI through /dev/sgN, NVMe through the kernel's pr ioctls."""

    SCSI = "SCSI"
    NVME = "NVME"


@dataclass(frozen=True, slots=True)
class DiskPath:
    """One way to a disk."""

    block: str  # "sda", "nvme0n1"; "nvme0c1n1" under native NVMe multipath
    node: str  # where reservation commands go: "/dev/sg3", "/dev/nvme0n1"; empty: the sg module is not loaded
    reachable: bool  # the kernel has not given the path up


@dataclass(frozen=True, slots=True)
class BlockDevice:
    """A disk and every path to it. USB, virtio, removable and virtual devices are none."""

    serial: str  # the same on both controllers; empty: it tells none, so nobody can know it again
    wwid: str  # "naa.5000c500a1b2c3d4", "eui.…", "nvme.…"; empty: it tells none
    model: str
    kind: Kind
    size_bytes: int
    paths: tuple[DiskPath, ...]
    mapper: str = ""  # dm-multipath's name for it: "mpatha"
    is_ata: bool = False  # behind SCSI/ATA translation: no persistent reservations (SAT-5)
    is_boot: bool = False  # this host runs from it, by any of its paths
    is_ignored: bool = False  # the settings say that it is this controller's own

    @property
    def name(self) -> str:
        """The kernel's name of the first path: "sda"."""
        return self.paths[0].block

    @property
    def shared(self) -> bool:
        """It counts as one of the disks between the controllers."""
        return bool(self.serial) and not self.is_boot and not self.is_ignored

    @property
    def blocks(self) -> frozenset[str]:
        """Every block device that is this disk or a path to it."""
        nodes = {path.node.removeprefix("/dev/") for path in self.paths if self.kind is Kind.NVME}
        return frozenset({path.block for path in self.paths} | nodes)


def scan(
    root: Path = Path("/"), *, boot: Collection[str] = (), ignored: Collection[str] = ()
) -> tuple[BlockDevice, ...]:
    """Every disk, in the order of serials. Devices that vanish meanwhile are left out.

    `root` is where sys/, proc/ and dev/ are. `boot`: block devices that the host is known to run from beside those that
    mounts and swap show ("sda", "sda3"): the members of a boot pool, which no file in /proc tells. `ignored`: serials
    of disks that are this controller's own.
    """
    running_from = boot_disks(root, boot)
    groups: dict[str, list[BlockDevice]] = {}
    for number, found in enumerate(_each(root)):
        identity = found.wwid or found.serial or f"nobody {number}"
        groups.setdefault(f"{found.kind} {identity}", []).append(found)
    joined = [_joined(parts, running_from) for parts in groups.values()]
    devices = [replace(device, is_ignored=device.serial in ignored) for device in _told_apart(joined)]
    return tuple(sorted(devices, key=lambda device: (device.serial, device.wwid, device.name)))


def boot_disks(root: Path, also: Collection[str] = ()) -> frozenset[str]:
    """Whole block devices ("sda", "vda") under swap and the file systems that the host runs from.

    What is mounted elsewhere (/mnt, /srv, /media) does not count: a disk must not drop out of fencing because somebody
    mounted a partition of it.
    """
    used = set(also)
    for line in _lines(root / "proc/self/mountinfo"):
        numbers, source = _system_mount(line)
        used.add(_name_of(root, numbers) or _node_name(root, source))
    for line in _lines(root / "proc/swaps")[1:]:
        used.add(_node_name(root, line.split()[0]))
    for file_system in _children(root / "sys/fs/btrfs"):
        members = {member.name for member in _children(file_system / "devices")}
        used |= members if members & used else set()
    return frozenset(disk for name in used if name for disk in disks_under(root, name))


def disks_under(root: Path, name: str) -> frozenset[str]:
    """The whole disks below a block device, itself if it is one; none when there is no such device.

    A partition is on its disk ("sda3": "sda"), device-mapper and md on what they are made of ("dm-0": "sda", "sdb").
    """
    return frozenset(_under(root, name, _STACK_DEPTH_MAX))


def root_pool(root: Path = Path("/")) -> str:
    """The ZFS pool that the root file system is on; empty when it is not on ZFS."""
    pool = ""
    for line in _lines(root / "proc/self/mountinfo"):
        mount, _, source = line.partition(" - ")
        if mount.split()[4:5] == ["/"]:  # the last one hides those before it
            pool = source.split()[1].partition("/")[0] if source.startswith("zfs ") else ""
    return pool


async def boot_pool_members(root: Path = Path("/"), zpool: str = "zpool") -> frozenset[str]:
    """Block devices ("sda3") of the pool that the host runs from, if it runs from ZFS. Raises PortError."""
    pool = root_pool(root)
    if not pool:
        return frozenset()
    status = await programs.output(zpool, "status", "-LP", pool, timeout_ms=_ZPOOL_TIMEOUT_MS)
    first = [line.split()[0] for line in status.splitlines() if line.strip()]  # what "was /dev/sdc1" is another now
    return frozenset(word.removeprefix("/dev/") for word in first if word.startswith("/dev/"))


# ---------------------------------------------------------------------------------------------- one device


def _each(root: Path) -> Iterator[BlockDevice]:
    """One BlockDevice for every block device that is a path to a disk."""
    for entry in sorted((root / "sys/block").iterdir(), key=lambda entry: _natural(entry.name)):
        try:
            found = _nvme(entry) if entry.name.startswith("nvme") else _scsi(entry)
        except OSError:
            continue  # unplugged while we looked
        if found is not None:
            yield found


def _scsi(entry: Path) -> BlockDevice | None:
    device = entry / "device"
    if _text(device / "type") not in _SCSI_DISK_TYPES or _text(entry / "removable") == "1":
        return None
    if "/usb" in os.path.realpath(device):
        return None
    generic = next((node.name for node in _children(device / "scsi_generic")), "")
    node = f"/dev/{generic}" if generic else ""
    wwid = _text(device / "wwid")
    return BlockDevice(
        serial=_unit_serial(device) or wwid,
        wwid=wwid,
        model=_text(device / "model"),
        kind=Kind.SCSI,
        size_bytes=int(_text(entry / "size") or 0) * _SECTOR_BYTES,
        paths=(DiskPath(entry.name, node, _text(device / "state") not in _UNREACHABLE),),
        mapper=_mapper(entry),
        is_ata=_text(device / "vendor") == "ATA",
    )


def _nvme(entry: Path) -> BlockDevice | None:
    """A namespace; under native multipath `device` is the subsystem, and its paths are hidden block devices."""
    if _text(entry / "hidden") == "1" or not (entry / "nsid").exists():
        return None
    device = entry / "device"
    namespace = _text(entry / "nsid")
    serial = _text(device / "serial")
    if serial and namespace != "1":  # the serial is the controller's: each of its namespaces is a disk of its own
        serial = f"{serial}-{namespace}"
    wwid = _text(entry / "wwid")
    hidden = [path for path in _children(entry.parent) if _is_path_of(path.name, entry.name)] or [entry]
    return BlockDevice(
        serial=serial or wwid,
        wwid=wwid,
        model=_text(device / "model"),
        kind=Kind.NVME,
        size_bytes=int(_text(entry / "size") or 0) * _SECTOR_BYTES,
        paths=tuple(
            DiskPath(path.name, f"/dev/{entry.name}", _text(path / "device/state") not in _UNREACHABLE)
            for path in hidden
        ),
        mapper=_mapper(entry),
    )


def _is_path_of(name: str, head: str) -> bool:
    match = _NVME_PATH.fullmatch(name)
    return match is not None and match[1] + match[2] == head


def _unit_serial(device: Path) -> str:
    """VPD page 80h: four bytes of header, then the serial, padded with blanks or zeros. Empty: it has none."""
    page = _bytes(device / "vpd_pg80")
    if len(page) < 4 or page[1] != 0x80:
        return ""
    length = int.from_bytes(page[2:4], "big")
    return page[4 : 4 + length].decode("ascii", "replace").strip(" \0\t\r\n")


def _mapper(entry: Path) -> str:
    for holder in _children(entry / "holders"):
        if _text(holder / "dm/uuid").startswith("mpath-"):
            return _text(holder / "dm/name")
    return ""


# ---------------------------------------------------------------------------------------------- paths to disks


def _joined(parts: list[BlockDevice], running_from: frozenset[str]) -> BlockDevice:
    """The paths of one logical unit as one disk."""
    first = parts[0]
    paths = tuple(path for part in parts for path in part.paths)
    mapper = next((part.mapper for part in parts if part.mapper), "")
    whole = replace(first, paths=paths, mapper=mapper)
    return replace(whole, is_boot=not whole.blocks.isdisjoint(running_from))


def _told_apart(devices: list[BlockDevice]) -> Iterator[BlockDevice]:
    """Logical units that share a serial (dual actuators, some arrays) get their designator into it."""
    serials = [device.serial for device in devices]
    for device in devices:
        ambiguous = device.serial and device.wwid != device.serial and serials.count(device.serial) > 1
        yield replace(device, serial=f"{device.serial}-{device.wwid}") if ambiguous else device


# ---------------------------------------------------------------------------------------------- what is below


def _system_mount(line: str) -> tuple[str, str]:
    """Device numbers ("8:2") and source ("/dev/sda2") of a line of mountinfo (proc_pid_mountinfo(5)).

    Both empty unless the mount point is one of those that a host runs from.
    """
    mount, _, source = line.partition(" - ")
    fields, sources = mount.split(), source.split()
    if len(fields) < 5 or len(sources) < 2 or fields[4].split("/")[1] not in _SYSTEM_FOLDERS:
        return "", ""
    return fields[2], sources[1]


def _name_of(root: Path, numbers: str) -> str:
    """The block device of device numbers; empty when there is none: btrfs and ZFS have numbers of their own."""
    link = root / "sys/dev/block" / numbers
    return link.resolve().name if numbers and link.exists() else ""


def _node_name(root: Path, source: str) -> str:
    """ "/dev/mapper/vg-root" -> "dm-0"; empty for what is no device node."""
    return (root / source.removeprefix("/")).resolve().name if source.startswith("/dev/") else ""


def _under(root: Path, name: str, depth: int) -> Iterator[str]:
    entry = root / "sys/class/block" / name
    if depth == 0 or not entry.exists():
        return
    if (entry / "partition").exists():
        yield from _under(root, entry.resolve().parent.name, depth - 1)
        return
    below = [slave.name for slave in _children(entry / "slaves")]
    if not below:
        yield name
    for slave in below:
        yield from _under(root, slave, depth - 1)


# ---------------------------------------------------------------------------------------------- files


def _text(path: Path) -> str:
    return _bytes(path).decode(errors="replace").strip(" \0\n")


def _bytes(path: Path) -> bytes:
    """The content of an attribute; empty when the device has none (some exist and refuse to be read)."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _lines(path: Path) -> list[str]:
    return _bytes(path).decode(errors="replace").splitlines()


def _children(path: Path) -> list[Path]:
    try:
        return sorted(path.iterdir(), key=lambda child: _natural(child.name))
    except OSError:
        return []


def _natural(name: str) -> tuple[str, int, str]:
    """sdz before sdaa, nvme2n1 before nvme10n1."""
    match = re.match(r"(\D*)(\d+)(.*)", name)
    return ("", len(name), name) if match is None else (match[1], int(match[2]), match[3])


# ---------------------------------------------------------------------------------------------- the watch


class BlockDeviceWatch:
    """Keeps the list of disks up to date: read again soon after the kernel says that a device came, went or changed.

    Missed news (the socket's buffer is bounded) are made up for by a slow poll. Between `start` and `stop`.
    """

    def __init__(
        self,
        root: Path = Path("/"),
        *,
        ignored: Collection[str] = (),
        settle_ms: int = 200,
        poll_ms: int = 30_000,
        zpool: str = "zpool",
        open_uevents: Callable[[], socket.socket] | None = None,
    ) -> None:
        """`ignored`: serials, as for `scan`. `settle_ms`: a shelf that appears sends hundreds of events; they are
        waited out that long, never longer."""
        self.root = root
        self._ignored = frozenset(ignored)
        self._zpool = zpool
        self._boot: frozenset[str] = frozenset()
        self._settle_ms = settle_ms
        self._poll_ms = poll_ms
        self._open_uevents = open_uevents or uevents
        self._socket: socket.socket | None = None
        self._stirred = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._listeners: list[Listener] = []
        self.devices: tuple[BlockDevice, ...] = ()

    def on_change(self, listener: Listener) -> None:
        self._listeners.append(listener)

    async def start(self) -> None:
        """Look once, then watch. Raises PortError when the socket is refused, or nobody can tell what is boot."""
        self._boot = await boot_pool_members(self.root, self._zpool)
        self._socket = self._open_uevents()
        asyncio.get_running_loop().add_reader(self._socket, self._drain)
        try:
            self.devices = await self.look()
        except PortError:
            await self.stop()
            raise
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def stop(self) -> None:
        watching, self._watching = self._watching, None
        if watching is not None:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    async def _watch(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_ms / 1000):
                    await self._stirred.wait()
                await asyncio.sleep(self._settle_ms / 1000)
            self._stirred.clear()
            try:
                devices = await self.look()
            except PortError as error:
                log.error("%s", error)
                continue
            if devices != self.devices:
                self.devices = devices
                for listener in self._listeners:
                    listener()

    def stir(self) -> None:
        """Look again soon, as if the kernel had said something."""
        self._stirred.set()

    async def look(self) -> tuple[BlockDevice, ...]:
        """The disks as they are now, also before `start`. Raises PortError.

        In a thread: a thousand disks are ten thousand small files.
        """
        boot = self._boot or await boot_pool_members(self.root, self._zpool)
        try:
            return await asyncio.to_thread(scan, self.root, boot=boot, ignored=self._ignored)
        except OSError as error:
            raise PortError(f"the disks cannot be listed: {error}; is sysfs mounted on /sys?") from error

    def _drain(self) -> None:
        if self._socket is None:
            return
        for _ in range(_UEVENTS_AT_ONCE_MAX):
            try:
                message = self._socket.recv(_UEVENT_BYTES_MAX)
            except BlockingIOError:
                return
            except OSError:  # ENOBUFS: more happened than the buffer holds
                self._stirred.set()
                return
            if is_disk_news(message):  # forged by some program, it costs a look
                self._stirred.set()


def uevents() -> socket.socket:
    """The kernel's uevent multicast, not blocking. Raises PortError."""
    try:
        opened = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, _NETLINK_KOBJECT_UEVENT)
    except OSError as error:
        raise PortError(f"the kernel's uevent socket cannot be opened: {error.strerror}") from error
    try:
        opened.bind((0, 1))
    except OSError as error:
        opened.close()
        raise PortError(f"the kernel's uevents cannot be subscribed to: {error.strerror}; is this root?") from error
    return opened


def is_disk_news(message: bytes) -> bool:
    """Whether a uevent concerns a disk or a path: "add@/devices/…", then KEY=value, each ended by a zero byte."""
    return any(
        field in (b"SUBSYSTEM=block", b"SUBSYSTEM=scsi", b"SUBSYSTEM=scsi_generic", b"SUBSYSTEM=nvme")
        for field in message.split(b"\0")
    )
