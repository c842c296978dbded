"""SCSI commands through the kernel: SG_IO on /dev/sgN (linux/include/scsi/sg.h, the SCSI Generic HOWTO).

Never /dev/sdX: closing one that was open for writing makes udev read the partition table again, in the middle of a
takeover (shared/VMLAB.md, section 2).
"""

import asyncio
import ctypes
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from middlewared.plugins.fencing import scsi
from middlewared.plugins.fencing.ioctl import Ioctl, linux_ioctl
from middlewared.plugins.fencing.scsi import SENSE_BYTES_MAX, Reply, Status
from middlewared.plugins.fencing.transport import TransportError
from middlewared.workers import Lane, Workers

T = TypeVar("T")

SG_IO = 0x2285
SG_SCSI_RESET = 0x2284
_RESET_UNIT = 0x101  # SG_SCSI_RESET_DEVICE | SG_SCSI_RESET_NO_ESCALATE: this unit, and not the whole bus if it fails
_HEADER = struct.Struct("@iiBBHIPPPIIiPBBBBHHiII0P")  # sg_io_hdr_t, 88 bytes
_INTERFACE = ord("S")
_TO_NOBODY, _TO_DEVICE, _FROM_DEVICE = -1, -2, -3  # SG_DXFER_*
_RESET_AGAIN_S = 0.002
_LATE_MS = 250  # what the kernel may take beyond its own time-out before the thread is written off

# include/scsi/scsi_status.h
_HOST_STATUS = {
    0x01: "no connection",
    0x02: "the bus stays busy",
    0x03: "timed out",
    0x04: "bad target",
    0x05: "aborted",
    0x06: "parity error",
    0x07: "internal error",
    0x08: "reset",
    0x09: "unexpected interrupt",
    0x0B: "soft error",
    0x0C: "to be retried",
    0x0D: "to be requeued",
    0x0E: "transport disrupted",
    0x0F: "transport failed fast",
}
# DID_TARGET_FAILURE, DID_NEXUS_FAILURE, DID_ALLOC_FAILURE, DID_MEDIUM_ERROR: kernels before 6.1 say by them what they
# have read in the device's own answer, which stands beside
_HOST_COMMENTS = (0x00, 0x10, 0x11, 0x12, 0x13)
_DRIVER_MASK, _DRIVER_SENSE = 0x0F, 0x08


@dataclass(frozen=True, slots=True)
class Ended:
    """What the kernel wrote into an sg_io_hdr."""

    status: int
    sense_bytes: int
    host_status: int
    driver_status: int
    missing_bytes: int  # of those that were to be transferred


def pack(
    cdb: int, cdb_bytes: int, sense: int, data: int, data_bytes: int, direction: int, timeout_ms: int
) -> bytearray:
    """An sg_io_hdr. `cdb`, `sense` and `data` are addresses of buffers that must live until the kernel has answered."""
    return bytearray(
        _HEADER.pack(
            *(_INTERFACE, direction, cdb_bytes, SENSE_BYTES_MAX, 0, data_bytes, data, cdb, sense, timeout_ms),
            *(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
        )
    )


def unpack(header: bytes | bytearray) -> Ended:
    fields = _HEADER.unpack(header)
    status, _, _, sense_bytes, host_status, driver_status, missing_bytes = fields[13:20]
    return Ended(status, sense_bytes, host_status, driver_status, missing_bytes)


def judge(node: str, ended: Ended, sense: bytes, data: bytes) -> Reply:
    """The device's answer. Raises TransportError when there is none: only the kernel and its adapter spoke."""
    answered = ended.status in (Status.CHECK_CONDITION, Status.RESERVATION_CONFLICT)
    if ended.host_status not in (_HOST_COMMENTS if answered else (0,)):
        words = _HOST_STATUS.get(ended.host_status, "unknown")
        raise TransportError(f"{node}: host status {ended.host_status:#04x}, {words}")
    driver = ended.driver_status & _DRIVER_MASK
    if driver not in (0, _DRIVER_SENSE):
        raise TransportError(f"{node}: driver status {driver:#04x}")
    came = len(data) - min(max(ended.missing_bytes, 0), len(data))
    return Reply(ended.status, sense[: ended.sense_bytes], data[:came])


class OpenNode:
    """An open device node. Closed when nobody refers to it any more, so never under a thread that hangs in the kernel.

    A number that was closed and given out again would send that thread's command to another device.
    """

    __slots__ = ("fd", "path")

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


def open_sg(path: Path) -> OpenNode:
    """Raises OSError. Not blocking: else it waits while the kernel recovers the device from an error."""
    return OpenNode(str(path), os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))


def send(ioctl: Ioctl, node: OpenNode, cdb: bytes, data: bytes, expected_bytes: int, timeout_ms: int) -> Reply:
    """One command, blocking. Raises TransportError."""
    size = len(data) or expected_bytes
    direction = _TO_DEVICE if data else _FROM_DEVICE if expected_bytes else _TO_NOBODY
    command = ctypes.create_string_buffer(cdb, len(cdb))
    sense = ctypes.create_string_buffer(SENSE_BYTES_MAX)
    payload = ctypes.create_string_buffer(data, size) if data else ctypes.create_string_buffer(max(size, 1))
    header = pack(
        ctypes.addressof(command),
        len(cdb),
        ctypes.addressof(sense),
        ctypes.addressof(payload) if size else 0,
        size,
        direction,
        timeout_ms,
    )
    try:
        ioctl(node.fd, SG_IO, header)
    except OSError as error:
        raise TransportError(f"{node.path}: {error.strerror}") from error
    return judge(node.path, unpack(header), sense.raw, b"" if data else payload.raw[:expected_bytes])


@dataclass(eq=False, slots=True)
class SgTransport:
    """One path to a disk: an open /dev/sgN."""

    node: OpenNode
    serial: str
    workers: Workers
    ioctl: Ioctl = linux_ioctl
    persists: bool = False
    aborts: bool = True
    _lane: Lane = field(init=False)

    def __post_init__(self) -> None:
        self._lane = Lane(self.workers)

    async def execute(self, cdb: bytes, data: bytes, timeout_ms: int) -> Reply:
        expected = 0 if data else scsi.data_in_bytes(cdb)
        node, ioctl = self.node, self.ioctl
        return await self._run(lambda: send(ioctl, node, cdb, data, expected, timeout_ms), timeout_ms)

    async def lun_reset(self, timeout_ms: int) -> None:
        """Waits for its turn: while one unit of an adapter is reset, the kernel refuses to reset another (EAGAIN), and
        a takeover resets them all at once."""
        node, ioctl = self.node, self.ioctl

        def reset() -> bool:
            try:
                ioctl(node.fd, SG_SCSI_RESET, bytearray(struct.pack("i", _RESET_UNIT)))
            except BlockingIOError:
                return False
            except OSError as error:
                raise TransportError(f"{node.path}: LOGICAL UNIT RESET: {error.strerror}") from error
            return True

        loop = asyncio.get_running_loop()
        ends_s = loop.time() + timeout_ms / 1000
        while not await self._run(reset, timeout_ms):
            if loop.time() >= ends_s:
                raise TransportError(f"{node.path}: LOGICAL UNIT RESET: the adapter was busy for {timeout_ms} ms")
            await asyncio.sleep(_RESET_AGAIN_S)

    async def _run(self, call: Callable[[], T], timeout_ms: int) -> T:
        try:
            return await self._lane.run(call, timeout_ms + _LATE_MS)
        except TimeoutError:
            raise TransportError(f"{self.serial}: {self.node.path} does not answer within {timeout_ms} ms") from None
