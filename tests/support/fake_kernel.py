"""The kernel's ioctls on disks, as far as fencing uses them: real structs in, answers from the lab's model of disks.

The layouts are declared here a second time, after scsi/sg.h and linux/nvme_ioctl.h, so that a mistake in the drivers'
own does not go unseen.
"""

import ctypes
import errno
import os
import struct
import threading
from collections.abc import Callable
from pathlib import Path

from middlewared.lab.reservations import Reservations
from middlewared.lab.shelf import Shelf
from middlewared.plugins.fencing import scsi_pr
from middlewared.plugins.fencing.scsi import Reply
from middlewared.plugins.fencing.scsi_pr import Kind


class SgIoHeader(ctypes.Structure):
    """sg_io_hdr_t of scsi/sg.h."""

    _fields_ = (
        ("interface_id", ctypes.c_int),
        ("dxfer_direction", ctypes.c_int),
        ("cmd_len", ctypes.c_ubyte),
        ("mx_sb_len", ctypes.c_ubyte),
        ("iovec_count", ctypes.c_ushort),
        ("dxfer_len", ctypes.c_uint),
        ("dxferp", ctypes.c_void_p),
        ("cmdp", ctypes.c_void_p),
        ("sbp", ctypes.c_void_p),
        ("timeout", ctypes.c_uint),
        ("flags", ctypes.c_uint),
        ("pack_id", ctypes.c_int),
        ("usr_ptr", ctypes.c_void_p),
        ("status", ctypes.c_ubyte),
        ("masked_status", ctypes.c_ubyte),
        ("msg_status", ctypes.c_ubyte),
        ("sb_len_wr", ctypes.c_ubyte),
        ("host_status", ctypes.c_ushort),
        ("driver_status", ctypes.c_ushort),
        ("resid", ctypes.c_int),
        ("duration", ctypes.c_uint),
        ("info", ctypes.c_uint),
    )


class NvmePassthruCmd(ctypes.Structure):
    """struct nvme_passthru_cmd of linux/nvme_ioctl.h."""

    _fields_ = (
        ("opcode", ctypes.c_uint8),
        ("flags", ctypes.c_uint8),
        ("rsvd1", ctypes.c_uint16),
        ("nsid", ctypes.c_uint32),
        ("cdw2", ctypes.c_uint32),
        ("cdw3", ctypes.c_uint32),
        ("metadata", ctypes.c_uint64),
        ("addr", ctypes.c_uint64),
        ("metadata_len", ctypes.c_uint32),
        ("data_len", ctypes.c_uint32),
        ("cdw10", ctypes.c_uint32),
        ("cdw11", ctypes.c_uint32),
        ("cdw12", ctypes.c_uint32),
        ("cdw13", ctypes.c_uint32),
        ("cdw14", ctypes.c_uint32),
        ("cdw15", ctypes.c_uint32),
        ("timeout_ms", ctypes.c_uint32),
        ("result", ctypes.c_uint32),
    )


class SgKernel:
    """SG_IO and SG_SCSI_RESET on the nodes of one controller; behind each is a unit of the shelf.

    The faults: `host_status` of every command, `hung` paths that answer nobody until `thaw`, `gone` ones; and `busy`:
    that many resets find the adapter at another unit's reset, which a node opened without blocking is told by EAGAIN
    (scsi_ioctl_block_when_processing_errors of the kernel).
    """

    def __init__(self, shelf: Shelf, units: dict[str, tuple[str, int]]) -> None:
        """`units`: the I_T nexus and unit number behind a node: {"sg0": ("a by port 1", 0)}."""
        self.shelf = shelf
        self.units = units
        self.host_status = 0
        self.busy = 0
        self.old_kernel = False  # before 6.1: comments on the device's answer in host_status
        self.hung: set[str] = set()
        self.gone: set[str] = set()
        self.thaw = threading.Event()
        self.resets: list[str] = []

    def ioctl(self, fd: int, request: int, buffer: bytearray) -> int:
        node = Path(os.readlink(f"/proc/self/fd/{fd}")).name
        if node in self.hung:
            self.thaw.wait(60)
        if node in self.gone:
            raise OSError(errno.ENODEV, "No such device")
        initiator, lun = self.units[node]
        if request == 0x2284:
            (what,) = struct.unpack("i", buffer)
            assert what == 0x101, "the unit alone, and never the bus"
            if self.busy:
                self.busy -= 1
                raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
            self.resets.append(node)
            self.shelf.lun_reset(initiator, lun)
            return 0
        assert request == 0x2285
        header = SgIoHeader.from_buffer(buffer)
        self._command(header, initiator, lun)
        del header
        return 0

    def _command(self, header: SgIoHeader, initiator: str, lun: int) -> None:
        assert header.interface_id == ord("S")
        assert header.timeout > 0
        header.host_status = self.host_status
        if self.host_status:
            return
        cdb = ctypes.string_at(header.cmdp, header.cmd_len)
        data = ctypes.string_at(header.dxferp, header.dxfer_len) if header.dxfer_direction == -2 else b""
        reply = Reply(*self.shelf.execute(initiator, lun, cdb, data))
        header.status, header.masked_status = reply.status, reply.status >> 1
        sense = reply.sense[: header.mx_sb_len]
        ctypes.memmove(header.sbp, sense, len(sense))
        header.sb_len_wr = len(sense)
        header.driver_status = 0x08 if sense else 0
        if self.old_kernel:
            target_failed = reply.status == 0x02 and sense[2] == 5
            header.host_status = 0x11 if reply.status == 0x18 else 0x10 if target_failed else 0
        if header.dxfer_direction == -3:
            assert len(reply.data) <= header.dxfer_len
            ctypes.memmove(header.dxferp, reply.data, len(reply.data))
            header.resid = header.dxfer_len - len(reply.data)


_TYPES = dict(enumerate((1, 3, 5, 6, 7, 8), start=1))  # of NVMe, and what SCSI calls them


class NvmeKernel:
    """NVME_IOCTL_ID, _ADMIN_CMD and _IO_CMD on one namespace, for one host. `reservations` is shared between hosts."""

    def __init__(self, reservations: Reservations, host: str, *, namespace: int = 1, long_ids: bool = True) -> None:
        self.reservations = reservations
        self.host = host
        self.namespace = namespace
        self.long_ids = long_ids
        self.status = 0  # of every command, if not 0
        self.sent: list[tuple[int, int]] = []  # opcode and dword 10

    def ioctl(self, fd: int, request: int, buffer: bytearray) -> int:
        if request == 0x4E40:
            return self.namespace
        command = NvmePassthruCmd.from_buffer(buffer)
        try:
            assert command.nsid == self.namespace, "the kernel answers EINVAL to anything else"
            assert command.timeout_ms > 0
            self.sent.append((command.opcode, command.cdw10))
            if self.status:
                return self.status
            data = ctypes.string_at(command.addr, command.data_len)
            if request == 0xC0484E41:
                assert command.opcode == 0x06
                ctypes.memmove(command.addr + 31, bytes([0x7F if self.reservations.target.aptpl else 0x7E]), 1)
                return 0
            assert request == 0xC0484E43
            handlers: dict[int, Callable[[NvmePassthruCmd, bytes], int]] = {
                0x0D: self._register,
                0x0E: self._report,
                0x11: self._acquire,
                0x15: self._release,
            }
            return handlers[command.opcode](command, data)
        finally:
            del command

    def _out(self, cdb: bytes, data: bytes) -> int:
        reply = self.reservations.reserve_out(self.host, cdb, data)
        return {0x00: 0x00, 0x18: 0x4083, 0x02: 0x4002}[reply.status]  # with "do not retry"

    def _register(self, command: NvmePassthruCmd, data: bytes) -> int:
        assert command.data_len == 16
        current, new = struct.unpack("<QQ", data)
        action, ignore, persist = command.cdw10 & 7, command.cdw10 & 8, command.cdw10 >> 30
        known = self.reservations.keys.get(self.host)
        if persist and not self.reservations.target.aptpl:
            return 0x4002
        aptpl = persist == 3 or (persist == 0 and self.reservations.kept)
        if action == 0 and known not in (None, new):
            return 0x4083
        if action in (1, 2) and not ignore and known != current:
            return 0x4083
        if action == 1 and known is None:
            return 0x4083
        return self._out(*scsi_pr.register_and_ignore(0 if action == 1 else new, aptpl=aptpl))

    def _acquire(self, command: NvmePassthruCmd, data: bytes) -> int:
        assert command.data_len == 16
        current, victim = struct.unpack("<QQ", data)
        kind = Kind(_TYPES[command.cdw10 >> 8 & 0xFF])
        if command.cdw10 & 7 == 0:
            return self._out(*scsi_pr.reserve(current, kind))
        return self._out(*scsi_pr.preempt(current, victim, kind, abort=command.cdw10 & 7 == 2))

    def _release(self, command: NvmePassthruCmd, data: bytes) -> int:
        assert command.data_len == 8
        (current,) = struct.unpack("<Q", data)
        if command.cdw10 & 7 == 1:
            return self._out(*scsi_pr.clear(current))
        return self._out(*scsi_pr.release(current, Kind(_TYPES[command.cdw10 >> 8 & 0xFF])))

    def _report(self, command: NvmePassthruCmd, _data: bytes) -> int:
        assert (command.cdw10 + 1) * 4 == command.data_len
        extended = command.cdw11 & 1
        if extended != self.long_ids:
            return 0x4018
        model = self.reservations
        number = 0 if model.held is None else {kind: own for own, kind in _TYPES.items()}[model.held.kind]
        report = struct.pack("<IBHHB14x", model.generation, number, len(model.keys), 0, int(model.kept))
        report += bytes(40) if extended else b""
        for place, (host, key) in enumerate(model.keys.items()):
            holds = model.held is not None and (model.held.kind.all_registrants or model.held.holder == host)
            head = struct.pack("<HB5x", place, int(holds))
            name = host.encode().ljust(16, b"\0")
            report += head + (
                struct.pack("<Q", key) + name + bytes(32) if extended else name[:8] + struct.pack("<Q", key)
            )
        ctypes.memmove(command.addr, report[: command.data_len], min(len(report), command.data_len))
        return 0
