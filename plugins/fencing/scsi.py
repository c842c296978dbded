"""SCSI commands of disks, their status and sense data. Pure: bytes in, bytes out; transports only carry them.

Sources: SPC-4 (INQUIRY 6.6, REPORT LUNS 6.33, sense data 4.5), SBC-3 (READ, WRITE, READ CAPACITY), SAM-5 (status).
"""

import enum
import struct
from dataclasses import dataclass

SENSE_BYTES_MAX = 252  # SPC-4 4.5.1
SERIAL_PAGE = 0x80
IDENTIFICATION_PAGE = 0x83
BLOCK_BYTES = 512


class Status(enum.IntEnum):
    """SAM-5 5.3.1."""

    GOOD = 0x00
    CHECK_CONDITION = 0x02
    BUSY = 0x08
    RESERVATION_CONFLICT = 0x18
    TASK_SET_FULL = 0x28
    TASK_ABORTED = 0x40


class Opcode(enum.IntEnum):
    TEST_UNIT_READY = 0x00
    REQUEST_SENSE = 0x03
    INQUIRY = 0x12
    READ_CAPACITY_10 = 0x25
    READ_10 = 0x28
    WRITE_10 = 0x2A
    SYNCHRONIZE_CACHE_10 = 0x35
    PERSISTENT_RESERVE_IN = 0x5E
    PERSISTENT_RESERVE_OUT = 0x5F
    READ_16 = 0x88
    WRITE_16 = 0x8A
    SERVICE_ACTION_IN_16 = 0x9E  # READ CAPACITY(16) is its service action 10h
    REPORT_LUNS = 0xA0
    MAINTENANCE_IN = 0xA3  # REPORT SUPPORTED OPERATION CODES is its service action 0Ch


class SenseKey(enum.IntEnum):
    """SPC-4 4.5.6, those that we tell apart."""

    NO_SENSE = 0x0
    NOT_READY = 0x2
    MEDIUM_ERROR = 0x3
    HARDWARE_ERROR = 0x4
    ILLEGAL_REQUEST = 0x5
    UNIT_ATTENTION = 0x6
    DATA_PROTECT = 0x7
    ABORTED_COMMAND = 0xB


@dataclass(frozen=True, slots=True)
class Sense:
    """What went wrong: sense key, additional sense code and its qualifier."""

    key: int
    code: int
    qualifier: int

    def __str__(self) -> str:
        return f"{self.key:02X}/{self.code:02X}/{self.qualifier:02X}"

    @property
    def unit_attention(self) -> bool:
        return self.key == SenseKey.UNIT_ATTENTION

    @property
    def target_was_reset(self) -> bool:
        """Power on, reset or bus device reset occurred (29/xx): a target may have forgotten its reservations."""
        return self.unit_attention and self.code == 0x29

    @property
    def reservations_changed(self) -> bool:
        """Reservations preempted (2A/03), reservations released (2A/04) or registrations preempted (2A/05)."""
        return self.unit_attention and self.code == 0x2A and self.qualifier in (0x03, 0x04, 0x05)

    @property
    def unsupported(self) -> bool:
        """The device server does not know the command, or this form of it (20/00, 24/00, 26/00)."""
        return self.key == SenseKey.ILLEGAL_REQUEST and self.code in (0x20, 0x24, 0x26)


POWER_ON_OR_RESET = Sense(SenseKey.UNIT_ATTENTION, 0x29, 0x00)
BUS_DEVICE_RESET = Sense(SenseKey.UNIT_ATTENTION, 0x29, 0x03)
RESERVATIONS_PREEMPTED = Sense(SenseKey.UNIT_ATTENTION, 0x2A, 0x03)
RESERVATIONS_RELEASED = Sense(SenseKey.UNIT_ATTENTION, 0x2A, 0x04)
REGISTRATIONS_PREEMPTED = Sense(SenseKey.UNIT_ATTENTION, 0x2A, 0x05)
INVALID_OPCODE = Sense(SenseKey.ILLEGAL_REQUEST, 0x20, 0x00)
LBA_OUT_OF_RANGE = Sense(SenseKey.ILLEGAL_REQUEST, 0x21, 0x00)
INVALID_FIELD_IN_CDB = Sense(SenseKey.ILLEGAL_REQUEST, 0x24, 0x00)
LUN_NOT_SUPPORTED = Sense(SenseKey.ILLEGAL_REQUEST, 0x25, 0x00)
INVALID_FIELD_IN_PARAMETERS = Sense(SenseKey.ILLEGAL_REQUEST, 0x26, 0x00)
INVALID_RELEASE = Sense(SenseKey.ILLEGAL_REQUEST, 0x26, 0x04)
PARAMETER_LIST_LENGTH_ERROR = Sense(SenseKey.ILLEGAL_REQUEST, 0x1A, 0x00)
WRITE_ERROR = Sense(SenseKey.MEDIUM_ERROR, 0x0C, 0x00)
UNRECOVERED_READ_ERROR = Sense(SenseKey.MEDIUM_ERROR, 0x11, 0x00)
INTERNAL_TARGET_FAILURE = Sense(SenseKey.HARDWARE_ERROR, 0x44, 0x00)


@dataclass(frozen=True, slots=True)
class Reply:
    """A command's end: SAM-5 status, raw sense data (empty unless CHECK CONDITION), data in."""

    status: int
    sense: bytes = b""
    data: bytes = b""


def parse_sense(raw: bytes) -> Sense | None:
    """Sense data in fixed (70h, 71h; SPC-4 4.5.3) or descriptor format (72h, 73h; 4.5.2); None if it is neither."""
    if not raw:
        return None
    response = raw[0] & 0x7F
    if response in (0x70, 0x71) and len(raw) >= 3:
        code, qualifier = (raw[12], raw[13]) if len(raw) >= 14 else (0, 0)
        return Sense(raw[2] & 0x0F, code, qualifier)
    if response in (0x72, 0x73) and len(raw) >= 4:
        return Sense(raw[1] & 0x0F, raw[2], raw[3])
    return None


def fixed_sense(sense: Sense) -> bytes:
    """Current sense data in fixed format, 18 bytes (SPC-4 4.5.3)."""
    return struct.pack(">BBB4xB4xBB4x", 0x70, 0, sense.key, 10, sense.code, sense.qualifier)


def descriptor_sense(sense: Sense) -> bytes:
    """Current sense data in descriptor format without descriptors, 8 bytes (SPC-4 4.5.2)."""
    return struct.pack(">BBBB4x", 0x72, sense.key, sense.code, sense.qualifier)


def explain(reply: Reply) -> str:
    """A reply in words for a human: "RESERVATION CONFLICT", "CHECK CONDITION 06/29/00"."""
    try:
        text = Status(reply.status).name.replace("_", " ")
    except ValueError:
        text = f"status {reply.status:#04x}"
    sense = parse_sense(reply.sense)
    return text if sense is None else f"{text} {sense}"


def test_unit_ready() -> bytes:
    return bytes(6)


def inquiry(page: int | None = None, allocation_bytes: int = 252) -> bytes:
    """INQUIRY (SPC-4 6.6); `page` asks for a page of vital product data."""
    evpd = 0 if page is None else 1
    return struct.pack(">BBBHB", Opcode.INQUIRY, evpd, page or 0, allocation_bytes, 0)


def parse_serial(data: bytes) -> str:
    """The serial number of VPD page 80h (SPC-4 7.8.16). Raises ValueError."""
    if len(data) < 4 or data[1] != SERIAL_PAGE:
        raise ValueError("not a unit serial number page")
    length = int.from_bytes(data[2:4], "big")
    return data[4 : 4 + length].decode("ascii", "replace").strip(" \0\t\r\n")


def parse_designator(data: bytes) -> str:
    """The name of the logical unit in VPD page 83h (SPC-4 7.8.6), in the kernel's words: "naa.5000c500a1b2c3d4".

    NAA is preferred to EUI-64, and that to the vendor's own; empty: there is none. Raises ValueError.
    """
    if len(data) < 4 or data[1] != IDENTIFICATION_PAGE:
        raise ValueError("not a device identification page")
    found: dict[int, str] = {}
    at, end = 4, min(len(data), 4 + int.from_bytes(data[2:4], "big"))
    while at + 4 <= end:
        kind, association, length = data[at + 1] & 0x0F, data[at + 1] >> 4 & 0x03, data[at + 3]
        name = data[at + 4 : at + 4 + length]
        if association == 0 and len(name) == length:  # of the logical unit, not of a port or the target
            if kind in (2, 3):
                found.setdefault(kind, ("eui." if kind == 2 else "naa.") + name.hex())
            elif kind == 1:
                found.setdefault(kind, "t10." + name.decode("ascii", "replace").strip(" \0"))
        at += 4 + length
    return found.get(3) or found.get(2) or found.get(1) or ""


def report_luns(allocation_bytes: int = 8192) -> bytes:
    return struct.pack(">BxBxxxIxx", Opcode.REPORT_LUNS, 0, allocation_bytes)


def parse_luns(data: bytes) -> tuple[int, ...]:
    """Numbers of the logical units in REPORT LUNS data (SPC-4 6.33), those of simple addressing (SAM-5 4.7.7)."""
    if len(data) < 8:
        raise ValueError("REPORT LUNS: too short")
    length = min(int.from_bytes(data[:4], "big"), len(data) - 8)
    heads = (int.from_bytes(data[at : at + 2], "big") for at in range(8, 8 + length - 7, 8))
    return tuple(head & 0x3FFF for head in heads if head >> 14 in (0, 1))


def report_opcodes(allocation_bytes: int = 8192) -> bytes:
    """REPORT SUPPORTED OPERATION CODES (SPC-4 6.34), all of them in one list."""
    return struct.pack(">BBBxxxIxx", Opcode.MAINTENANCE_IN, 0x0C, 0, allocation_bytes)


def parse_opcodes(data: bytes) -> frozenset[tuple[int, int | None]]:
    """(operation code, service action or None) of all commands that are supported (SPC-4 6.34.2). Raises ValueError."""
    length = int.from_bytes(data[:4], "big")
    if len(data) < 4 + length:
        raise ValueError(f"REPORT SUPPORTED OPERATION CODES: {length} bytes announced, {len(data)} came")
    found: set[tuple[int, int | None]] = set()
    at = 4
    while at + 8 <= 4 + length:
        opcode, action, flags = struct.unpack_from(">BxHxB", data, at)
        found.add((opcode, action if flags & 0x01 else None))
        at += 20 if flags & 0x02 else 8  # a descriptor of timeouts follows
    return frozenset(found)


def is_disk(data: bytes) -> bool:
    """Whether standard INQUIRY data (SPC-4 6.6.2) describe a connected disk, or a zoned one."""
    return bool(data) and data[0] in (0x00, 0x14)  # peripheral qualifier 0, device type


def data_in_bytes(cdb: bytes, block_bytes: int = BLOCK_BYTES) -> int:
    """How much a command reads at most; 0 for those that read nothing. Raises ValueError for what we never send."""
    match cdb[0]:
        case Opcode.INQUIRY:
            return int.from_bytes(cdb[3:5], "big")
        case Opcode.REQUEST_SENSE:
            return cdb[4]
        case Opcode.READ_CAPACITY_10:
            return 8
        case Opcode.PERSISTENT_RESERVE_IN:
            return int.from_bytes(cdb[7:9], "big")
        case Opcode.REPORT_LUNS | Opcode.MAINTENANCE_IN:
            return int.from_bytes(cdb[6:10], "big")
        case Opcode.SERVICE_ACTION_IN_16:
            return int.from_bytes(cdb[10:14], "big")
        case Opcode.READ_10:
            return int.from_bytes(cdb[7:9], "big") * block_bytes
        case Opcode.READ_16:
            return int.from_bytes(cdb[10:14], "big") * block_bytes
        case (
            Opcode.TEST_UNIT_READY
            | Opcode.PERSISTENT_RESERVE_OUT
            | Opcode.SYNCHRONIZE_CACHE_10
            | Opcode.WRITE_10
            | Opcode.WRITE_16
        ):
            return 0
    raise ValueError(f"no SCSI command that we send: {cdb.hex()}")


def read_capacity_10() -> bytes:
    return struct.pack(">B9x", Opcode.READ_CAPACITY_10)


def read_capacity_16() -> bytes:
    return struct.pack(">BBQIxx", Opcode.SERVICE_ACTION_IN_16, 0x10, 0, 32)


def parse_capacity(data: bytes) -> tuple[int, int]:
    """(blocks, bytes a block) of READ CAPACITY(10), 8 bytes, or (16), 32 bytes. Raises ValueError."""
    if len(data) < 8:
        raise ValueError("capacity data are too short")
    last, block_bytes = struct.unpack_from(">QI", data) if len(data) >= 12 else struct.unpack_from(">II", data)
    return last + 1, block_bytes


def read_10(lba: int, blocks: int) -> bytes:
    return struct.pack(">BBIBHB", Opcode.READ_10, 0, lba, 0, blocks, 0)


def read_16(lba: int, blocks: int) -> bytes:
    return struct.pack(">BBQIBB", Opcode.READ_16, 0, lba, blocks, 0, 0)


def write_10(lba: int, blocks: int) -> bytes:
    return struct.pack(">BBIBHB", Opcode.WRITE_10, 0, lba, 0, blocks, 0)


def write_16(lba: int, blocks: int) -> bytes:
    return struct.pack(">BBQIBB", Opcode.WRITE_16, 0, lba, blocks, 0, 0)


def synchronize_cache_10() -> bytes:
    return struct.pack(">B9x", Opcode.SYNCHRONIZE_CACHE_10)
