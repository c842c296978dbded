"""Reservations on NVMe namespaces: NVMe's own commands by NVME_IOCTL_IO_CMD (linux/nvme_ioctl.h), on /dev/nvmeXnY.

Not the kernel's pr ioctls (linux/pr.h), which say the same in fewer words: they take no deadline, cannot unregister,
always persist, and tell a conflict from a failure only in newer kernels. Needs CAP_SYS_ADMIN. Under native multipath
the kernel picks the path.
"""

import ctypes
import os
import struct
from dataclasses import dataclass, field
from pathlib import Path

from middlewared.plugins.fencing import nvme_pr
from middlewared.plugins.fencing.ioctl import Ioctl, linux_ioctl
from middlewared.plugins.fencing.nvme_pr import CODE_MASK, Code, Command, Nvme, answer
from middlewared.plugins.fencing.scsi import Opcode, Reply
from middlewared.plugins.fencing.sgio import OpenNode
from middlewared.plugins.fencing.transport import TransportError
from middlewared.workers import Lane, Workers

NVME_IOCTL_ID = 0x4E40
NVME_IOCTL_ADMIN_CMD = 0xC048_4E41
NVME_IOCTL_IO_CMD = 0xC048_4E43
# struct nvme_passthru_cmd, 72 bytes: opcode, flags, rsvd1, nsid, cdw2, cdw3, metadata, addr, metadata_len, data_len,
# cdw10 to cdw15, timeout_ms, result
_PASSTHROUGH = struct.Struct("=BBHIIIQQIIIIIIIIII")
_LATE_MS = 250  # what the kernel may take beyond its own time-out before the thread is written off


def open_nvme(path: Path) -> OpenNode:
    """Raises OSError. Only for reading: root needs no more, and udev does not look at it anew when it is closed."""
    return OpenNode(str(path), os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))


def namespace_of(node: OpenNode, ioctl: Ioctl = linux_ioctl) -> int:
    """The number of the namespace, as commands must name it. Raises OSError."""
    return ioctl(node.fd, NVME_IOCTL_ID, bytearray(8))


def send(ioctl: Ioctl, node: OpenNode, namespace: int, command: Command, timeout_ms: int) -> tuple[int, bytes]:
    """(status code, data read) of one command, blocking. Raises TransportError."""
    size = len(command.data) or command.read_bytes
    payload = ctypes.create_string_buffer(command.data, max(size, 1))
    request = bytearray(
        _PASSTHROUGH.pack(
            *(command.opcode, 0, 0, namespace, 0, 0, 0, ctypes.addressof(payload) if size else 0, 0, size),
            *(command.dword10, command.dword11, 0, 0, 0, 0, timeout_ms, 0),
        )
    )
    number = NVME_IOCTL_ADMIN_CMD if command.opcode == Nvme.IDENTIFY else NVME_IOCTL_IO_CMD
    try:
        status = ioctl(node.fd, number, request)
    except OSError as error:
        raise TransportError(f"{node.path}: {error.strerror}") from error
    return status & CODE_MASK, payload.raw[: command.read_bytes]


@dataclass(eq=False, slots=True)
class NvmeTransport:
    """One namespace: an open /dev/nvmeXnY. Answers PERSISTENT RESERVE IN and OUT as a SCSI disk would."""

    node: OpenNode
    serial: str
    namespace: int
    workers: Workers
    ioctl: Ioctl = linux_ioctl
    persists: bool = False
    aborts: bool = True
    _extended: bool = True  # form of the report that the controller wants
    _lane: Lane = field(init=False)

    def __post_init__(self) -> None:
        self._lane = Lane(self.workers)

    async def execute(self, cdb: bytes, data: bytes, timeout_ms: int) -> Reply:
        command = nvme_pr.translate(cdb, data, persists=self.persists)
        if isinstance(command, Reply):
            return command
        try:
            return await self._lane.run(lambda: self._execute(cdb, command, timeout_ms), timeout_ms + _LATE_MS)
        except TimeoutError:
            raise TransportError(f"{self.serial}: {self.node.path} does not answer within {timeout_ms} ms") from None

    async def lun_reset(self, timeout_ms: int) -> None:
        """NVMe has no such thing, and needs none: whoever is preempted here is aborted in the same command."""

    def _execute(self, cdb: bytes, command: Command, timeout_ms: int) -> Reply:
        if command.opcode == Nvme.RESERVATION_REPORT:
            command = nvme_pr.report(extended=self._extended)
        code, data = self._send(command, timeout_ms)
        if command.opcode == Nvme.RESERVATION_REPORT and code == Code.HOST_ID_INCONSISTENT:
            self._extended = not self._extended
            code, data = self._send(nvme_pr.report(extended=self._extended), timeout_ms)
        reply = answer(cdb, code, data, extended=self._extended)
        if reply is None:
            what = "PERSISTENT RESERVE IN" if cdb[0] == Opcode.PERSISTENT_RESERVE_IN else "PERSISTENT RESERVE OUT"
            raise TransportError(f"{self.serial}: {self.node.path}: {what} ended with NVMe status {code:#05x}")
        return reply

    def _send(self, command: Command, timeout_ms: int) -> tuple[int, bytes]:
        return send(self.ioctl, self.node, self.namespace, command, timeout_ms)
