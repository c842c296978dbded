"""Who is who in the lab of virtual machines, and how each is started. Addresses as in the lab of network namespaces."""

import zlib
from collections.abc import Sequence
from pathlib import Path

from middlewared.lab.netns.layout import NETNS, PREFIX_LENGTH, SAN_ADDRESS, SHELF, SHELF_ADDRESS
from middlewared.lab.places import HEARTBEAT_NIC, LAN_NICS, NODES, Layout

__all__ = ["PREFIX_LENGTH", "SAN_ADDRESS", "SHELF", "SHELF_ADDRESS"]

PREFIX = "mwvm"  # of every network namespace
DISKS = 4
DISK_BYTES = 256 << 20  # sparse
POOL = "tank"
SAN_NIC, MANAGEMENT_NIC = "san0", "mgmt0"
NICS = (*LAN_NICS, HEARTBEAT_NIC, SAN_NIC, MANAGEMENT_NIC)  # in the order of the machine's slots
MANAGEMENT_ADDRESS = {"a": "192.168.127.1", "b": "192.168.127.2"}  # the lab's own way in; no cable of it is ever cut
MANAGEMENT_HOST = "192.168.127.254"
SHELVES = ("tgt", "lio")  # in a network namespace; in a machine of its own
PORTALS = (SHELF_ADDRESS, "198.51.100.253")  # of the shelf: as many of them as there are paths
ONLOOKER_ADDRESS = "198.51.100.252"  # from where the lab itself looks at a shelf that is a machine
INITIATOR = {name: f"iqn.2026-11.org.middlewared.lab:{name}" for name in (*NODES, "onlooker")}
SERIAL = {"a": "MWVM0001A", "b": "MWVM0001B", SHELF: "MWVM0001S"}
HOSTNAME = {"a": "controller-a", "b": "controller-b", SHELF: SHELF}
HOST_ID = {"a": "6d770001", "b": "6d770002"}  # zgenhostid(8)
EXPORT = f"/mnt/{POOL}/export"  # a file: the disk that the pair exports by iSCSI
EXPORT_BYTES = 256 << 20  # sparse
EXPORT_PORT = 3261
EXPORT_TARGET = "iqn.2026-11.org.middlewared.lab:export"
EXPORT_UNIT = 1
MEMORY_MB = 1024
# LIO waits for other commands on a registration without giving its processor away (kernel: target_core_pr.c,
# __core_scsi3_free_registration), and keeps each connection on one: two connections on the same processor, one of which
# sleeps while it writes what is to be kept, stand still for ever. There are four, and the onlooker's.
PROCESSORS = {SHELF: 6}
SNAPSHOT = "booted"
ROOT = "own"  # qemu's name of the image that a machine boots from, and that its snapshot is in
WITNESS_PORT = "org.middlewared.witness"

VM = Layout(
    kind="vm",
    drivers="linux",
    port=NETNS.port,
    port_tls=NETNS.port_tls,
    port_heartbeat=NETNS.port_heartbeat,
    addresses=NETNS.addresses,
    heartbeat=NETNS.heartbeat,
    virtual=NETNS.virtual,
    disks=DISKS,
    services=("export",),
    healthy_s_max=300,
    shelf=SHELVES[0],
)

_KERNEL_LINE = (
    "console=ttyS0 root=/dev/vda rw quiet loglevel=4 net.ifnames=0 mitigations=off nokaslr audit=0 tsc=reliable"
    " random.trust_cpu=on panic=1 systemd.show_status=0 systemd.firstboot=off"
)


def address(node: str, nic: str) -> str:
    """The machine's own address on a NIC."""
    return {
        **VM.addresses[node],
        HEARTBEAT_NIC: VM.heartbeat[node],
        SAN_NIC: SAN_ADDRESS[node],
        MANAGEMENT_NIC: MANAGEMENT_ADDRESS[node],
    }[nic]


def nics(machine: str) -> tuple[str, ...]:
    """Of a controller, or of the shelf; in the order of its slots."""
    return (SAN_NIC,) if machine == SHELF else NICS


def tap(node: str, nic: str) -> str:
    """The name of the NIC's other end, in the switch's namespace."""
    return f"tap-{node}-{nic}"


def machine_id(node: str) -> str:
    return zlib.crc32(f"middlewared {node}".encode()).to_bytes(4, "big").hex() * 4


def hardware_address(node: str, nic: str) -> str:
    number = zlib.crc32(f"vm {node} {nic}".encode())
    return ":".join(f"{byte:02x}" for byte in (0x02, 0, *number.to_bytes(4, "big")))


def command(
    node: str, folder: Path, kernel: Path, initrd: Path, disk: Path, drives: Sequence[Path] = (), *, halted: bool
) -> list[str]:
    """qemu's command line. Sockets qga, qmp and witness, and the console, are made in `folder`.

    `drives`: raw disks beside its own; each is /dev/disk/by-id/virtio-NAME inside, NAME without its ending. `halted`:
    it waits for a snapshot, which is only valid for the same command line, disk and qemu.
    """
    words = [
        *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-name", f"middlewared-{node}", "-bios", "qboot.rom", "-M", "q35,usb=off,vmport=off"),
        *("-accel", "tcg,thread=multi,tb-size=256", "-cpu", "max,avx2=off"),
        *("-smp", str(PROCESSORS.get(node, 1)), "-m", str(MEMORY_MB)),
        *("-kernel", str(kernel), "-initrd", str(initrd)),
        *("-append", f"{_KERNEL_LINE} systemd.machine_id={machine_id(node)} systemd.hostname={HOSTNAME[node]}"),
        *("-smbios", f"type=1,manufacturer=QEMU,product=middlewared-lab,serial={SERIAL[node]}"),
        *("-smbios", f"type=3,asset=middlewared-{node}"),
        *("-drive", f"file={disk},if=none,id=root,node-name={ROOT},format=qcow2,cache=unsafe,aio=threads"),
        *("-device", "virtio-blk-pci,drive=root", "-device", "virtio-rng-pci"),
        *("-device", "i6300esb", "-action", "watchdog=reset"),
    ]
    for path in drives:
        words += ["-drive", f"file={path},if=none,id={path.stem},format=raw,cache=unsafe,aio=threads"]
        words += ["-device", f"virtio-blk-pci,drive={path.stem},serial={path.stem}"]
    for number, nic in enumerate(nics(node)):
        words += ["-netdev", f"tap,id=net{number},ifname={tap(node, nic)},script=no,downscript=no"]
        words += ["-device", f"virtio-net-pci,id={nic},netdev=net{number},mac={hardware_address(node, nic)},romfile="]
    words += ["-device", "virtio-serial-pci"]
    for name, port in (("qga", "org.qemu.guest_agent.0"), ("witness", WITNESS_PORT)):
        words += ["-chardev", f"socket,path={folder}/{name}.sock,server=on,wait=off,id={name}"]
        words += ["-device", f"virtserialport,chardev={name},name={port}"]
    words += ["-qmp", f"unix:{folder}/qmp.sock,server=on,wait=off", "-serial", f"file:{folder}/serial.log"]
    return [*words, *(("-S",) if halted else ())]
