"""The reservation commands of NVMe, in the SCSI commands that the sequences speak. Pure.

After NVM Express Base 2.0: Reservation Acquire, Register, Release and Report in section 7, and the model in 8.19, which
was made after SPC: what PERSISTENT RESERVE OUT asks for exists here in the same words.
Different: a registrant is a host, however many controllers it has in the subsystem, so that one path speaks for all;
and PREEMPT AND ABORT is not optional, so that a bare PREEMPT is never sent.
"""

import enum
import struct
from dataclasses import dataclass

from middlewared.plugins.fencing import scsi
from middlewared.plugins.fencing.scsi import Opcode, Reply, Sense, Status
from middlewared.plugins.fencing.scsi_pr import PARAMETER_BYTES, In, Kind, Out

REPORT_BYTES = 4096  # room for 63 registered controllers
IDENTIFY_BYTES = 4096
_RESERVATION_CAPABILITIES_AT = 31  # RESCAP in the Identify Namespace data
_HEADER = struct.Struct("<IBHxxB14x")  # GEN, RTYPE, REGCTL, PTPLS: 24 bytes
_HEADER_BYTES, _EXTENDED_HEADER_BYTES = 24, 64
_ENTRY = struct.Struct("<HB5xQQ")  # CNTLID, RCSTS, HOSTID, RKEY
_EXTENDED_ENTRY = struct.Struct("<HB5xQ16s32x")  # CNTLID, RCSTS, RKEY, HOSTID
_HOLDS = 0x01  # in RCSTS
_IGNORE_KEY = 1 << 3  # IEKEY
_KINDS = {
    1: Kind.WRITE_EXCLUSIVE,
    2: Kind.EXCLUSIVE_ACCESS,
    3: Kind.WRITE_EXCLUSIVE_REGISTRANTS,
    4: Kind.EXCLUSIVE_ACCESS_REGISTRANTS,
    5: Kind.WRITE_EXCLUSIVE_ALL,
    6: Kind.EXCLUSIVE_ACCESS_ALL,
}
_TYPES = {kind: number for number, kind in _KINDS.items()}


class Nvme(enum.IntEnum):
    """Opcodes of I/O commands; IDENTIFY is an admin command."""

    IDENTIFY = 0x06
    RESERVATION_REGISTER = 0x0D
    RESERVATION_REPORT = 0x0E
    RESERVATION_ACQUIRE = 0x11
    RESERVATION_RELEASE = 0x15


class Code(enum.IntEnum):
    """Generic status codes."""

    SUCCESS = 0x00
    INVALID_OPCODE = 0x01
    INVALID_FIELD = 0x02
    HOST_ID_INCONSISTENT = 0x18  # the long form of a report has to be asked for, or the short one
    RESERVATION_CONFLICT = 0x83


CODE_MASK = 0x7FF  # without "do not retry" and "more"


@dataclass(frozen=True, slots=True)
class Command:
    """An NVMe command: opcode, two of its dwords, and data one way or the other."""

    opcode: Nvme
    dword10: int = 0
    dword11: int = 0
    data: bytes = b""
    read_bytes: int = 0


def check(sense: Sense) -> Reply:
    return Reply(Status.CHECK_CONDITION, scsi.fixed_sense(sense))


def report(*, extended: bool) -> Command:
    """Reservation Report; `extended` where hosts have 128-bit identifiers."""
    return Command(Nvme.RESERVATION_REPORT, REPORT_BYTES // 4 - 1, int(extended), read_bytes=REPORT_BYTES)


def translate(cdb: bytes, data: bytes, *, persists: bool) -> Command | Reply:
    """The NVMe command that a SCSI command stands for, or at once the answer to one that there is not.

    PERSISTENT RESERVE IN needs `report` or Identify, and `answer`. `persists`: the namespace can keep reservations over
    a loss of power; else it must not be told not to.
    """
    if cdb[0] == Opcode.PERSISTENT_RESERVE_IN:
        action = cdb[1] & 0x1F
        if action in (In.READ_KEYS, In.READ_RESERVATION):
            return report(extended=True)
        if action == In.REPORT_CAPABILITIES:
            return Command(Nvme.IDENTIFY, read_bytes=IDENTIFY_BYTES)
        return check(scsi.INVALID_FIELD_IN_CDB)
    if cdb[0] != Opcode.PERSISTENT_RESERVE_OUT:
        return check(scsi.INVALID_OPCODE)
    if len(data) != PARAMETER_BYTES:
        return check(scsi.PARAMETER_LIST_LENGTH_ERROR)
    key, action_key, flags = struct.unpack_from(">QQ4xB", data)
    action, kind = cdb[1] & 0x1F, cdb[2] & 0x0F
    if action in (Out.REGISTER, Out.REGISTER_AND_IGNORE):
        return _register(key, action_key, ignore=action == Out.REGISTER_AND_IGNORE, persist=_persist(flags, persists))
    if action == Out.CLEAR:
        return Command(Nvme.RESERVATION_RELEASE, 1, data=struct.pack("<Q", key))
    if kind not in _TYPES or action not in (Out.RESERVE, Out.RELEASE, Out.PREEMPT_AND_ABORT):
        return check(scsi.INVALID_FIELD_IN_CDB)
    kind_bits = _TYPES[Kind(kind)] << 8
    if action == Out.RELEASE:
        return Command(Nvme.RESERVATION_RELEASE, kind_bits, data=struct.pack("<Q", key))
    how = 2 if action == Out.PREEMPT_AND_ABORT else 0
    return Command(Nvme.RESERVATION_ACQUIRE, how | kind_bits, data=struct.pack("<QQ", key, action_key))


def _persist(flags: int, persists: bool) -> int:
    """CPTPL: 2 and 3 set "persist through power loss" to 0 and 1; 0 leaves it alone."""
    if not persists:
        return 0
    return 3 if flags & 0x01 else 2


def _register(key: int, new_key: int, *, ignore: bool, persist: int) -> Command:
    """Register, unregister or replace. Replace with IEKEY also serves a host that is not registered (8.19.3)."""
    action = 1 if new_key == 0 else 2 if ignore or key else 0
    dword = action | (_IGNORE_KEY if ignore else 0) | persist << 30
    return Command(Nvme.RESERVATION_REGISTER, dword, data=struct.pack("<QQ", 0 if ignore else key, new_key))


def answer(cdb: bytes, code: int, data: bytes, *, extended: bool = True) -> Reply | None:
    """The SCSI answer that an NVMe status and data stand for; None for a status that says nothing of the kind."""
    if code == Code.RESERVATION_CONFLICT:
        return Reply(Status.RESERVATION_CONFLICT)
    if code == Code.INVALID_OPCODE:
        return check(scsi.INVALID_OPCODE)
    if code == Code.INVALID_FIELD:
        return check(scsi.INVALID_FIELD_IN_CDB)
    if code != Code.SUCCESS:
        return None
    if cdb[0] != Opcode.PERSISTENT_RESERVE_IN:
        return Reply(Status.GOOD)
    action, allocation = cdb[1] & 0x1F, int.from_bytes(cdb[7:9], "big")
    if action == In.REPORT_CAPABILITIES:
        return Reply(Status.GOOD, data=_capabilities(data[_RESERVATION_CAPABILITIES_AT])[:allocation])
    generation, number, count, _ = _HEADER.unpack_from(data)
    registered = _registered(data, count, extended)
    if action == In.READ_KEYS:
        keys = b"".join(struct.pack(">Q", key) for key, _ in registered)
        # those that had no room are announced all the same: whoever reads finds the list cut short
        return Reply(Status.GOOD, data=(struct.pack(">II", generation, 8 * count) + keys)[:allocation])
    body = b""
    if number:
        kind = _KINDS.get(number, 0x0F)
        holder = 0 if number in (5, 6) else next((key for key, holds in registered if holds), 0)
        body = struct.pack(">QIBBH", holder, 0, 0, kind, 0)
    return Reply(Status.GOOD, data=(struct.pack(">II", generation, len(body)) + body)[:allocation])


def _registered(data: bytes, count: int, extended: bool) -> list[tuple[int, bool]]:
    """(key, holds the reservation) of each registered controller that the report has room for."""
    entry, at = (_EXTENDED_ENTRY, _EXTENDED_HEADER_BYTES) if extended else (_ENTRY, _HEADER_BYTES)
    found = []
    for place in range(at, min(at + count * entry.size, len(data) - entry.size + 1), entry.size):
        fields = entry.unpack_from(data, place)
        found.append((fields[2] if extended else fields[3], bool(fields[1] & _HOLDS)))
    return found


def _capabilities(offered: int) -> bytes:
    """REPORT CAPABILITIES data (SPC-4 6.15.4) from RESCAP: bit 0 persists, bits 1 to 6 the types."""
    bits = {1: 0x0200, 2: 0x0800, 3: 0x2000, 4: 0x4000, 5: 0x8000, 6: 0x0001}
    mask = sum(bit for number, bit in bits.items() if offered & 1 << number)
    return struct.pack(">HBBHH", 8, offered & 0x01, 0x80, mask, 0)
