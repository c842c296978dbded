"""Persistent reservations: PERSISTENT RESERVE IN (SPC-4 6.15) and OUT (6.16), and the keys that we put there.

Pure. A key is 64 bits: the host's id in the upper 32, a generation in the lower. The generation moves while its owner
lives, which is how the other controller sees life through the disks alone. Generation 0 is a parked key: its owner has
given the disk up, and keeps it closed to everybody until somebody takes it.
"""

import enum
import struct
from dataclasses import dataclass

from middlewared.plugins.fencing.scsi import Opcode

PARAMETER_BYTES = 24  # of PERSISTENT RESERVE OUT, 6.16.3
ALLOCATION_BYTES = 4096  # room for 511 keys; a disk knows one a path and controller
PARKED = 0  # generation of a key whose owner has given the disk up
_HOST_SHIFT = 32
_LOW = 0xFFFF_FFFF


class In(enum.IntEnum):
    """Service actions of PERSISTENT RESERVE IN, 6.15.1."""

    READ_KEYS = 0
    READ_RESERVATION = 1
    REPORT_CAPABILITIES = 2
    READ_FULL_STATUS = 3


class Out(enum.IntEnum):
    """Service actions of PERSISTENT RESERVE OUT, 6.16.2."""

    REGISTER = 0
    RESERVE = 1
    RELEASE = 2
    CLEAR = 3
    PREEMPT = 4
    PREEMPT_AND_ABORT = 5
    REGISTER_AND_IGNORE = 6


class Kind(enum.IntEnum):
    """Types of a persistent reservation, 6.15.3.4."""

    WRITE_EXCLUSIVE = 1
    EXCLUSIVE_ACCESS = 3
    WRITE_EXCLUSIVE_REGISTRANTS = 5  # ours: every path of the holder may write, nobody else
    EXCLUSIVE_ACCESS_REGISTRANTS = 6
    WRITE_EXCLUSIVE_ALL = 7
    EXCLUSIVE_ACCESS_ALL = 8

    @property
    def all_registrants(self) -> bool:
        """Every registrant is a holder, and the key of the reservation reads as 0."""
        return self in (Kind.WRITE_EXCLUSIVE_ALL, Kind.EXCLUSIVE_ACCESS_ALL)

    @property
    def registrants(self) -> bool:
        """Registered initiators share the holder's access (types 5 to 8)."""
        return self >= Kind.WRITE_EXCLUSIVE_REGISTRANTS

    @property
    def excludes_reads(self) -> bool:
        return self in (Kind.EXCLUSIVE_ACCESS, Kind.EXCLUSIVE_ACCESS_REGISTRANTS, Kind.EXCLUSIVE_ACCESS_ALL)


@dataclass(frozen=True, slots=True)
class Reservation:
    """A reservation of the whole logical unit. `kind` may be a number that Kind does not know."""

    key: int
    kind: int
    scope: int = 0


@dataclass(frozen=True, slots=True)
class Registrant:
    """One entry of READ FULL STATUS, 6.15.5."""

    key: int
    holder: bool
    kind: int
    port: int  # relative target port
    transport_id: bytes


@dataclass(frozen=True, slots=True)
class Capabilities:
    """REPORT CAPABILITIES, 6.15.4. `kinds` is empty when the device does not say."""

    survives_power_loss: bool  # it can (PTPL_C)
    survives_power_loss_now: bool  # and is told to (PTPL_A)
    kinds: frozenset[Kind]


def make_key(host_id: int, generation: int) -> int:
    """The key of a host at a generation; both 32 bits. 0 is no key at all, so host_id is not 0."""
    return (host_id & _LOW) << _HOST_SHIFT | (generation & _LOW)


def parked_key(host_id: int) -> int:
    return make_key(host_id, PARKED)


def is_parked(key: int) -> bool:
    return generation_of(key) == PARKED


def host_of(key: int) -> int:
    return key >> _HOST_SHIFT


def generation_of(key: int) -> int:
    return key & _LOW


def next_generation(generation: int) -> int:
    """The one after; that of parked keys is skipped when the 32 bits wrap."""
    return (generation + 1) & _LOW or PARKED + 1


def not_before(generation: int, floor: int) -> bool:
    """`generation` is `floor` or a later one, across a wrap (serial number arithmetic, RFC 1982)."""
    return (generation - floor) & _LOW < 1 << 31


def _reserve_in(action: In, allocation_bytes: int) -> bytes:
    return struct.pack(">BB5xHB", Opcode.PERSISTENT_RESERVE_IN, action, allocation_bytes, 0)


def read_keys(allocation_bytes: int = ALLOCATION_BYTES) -> bytes:
    return _reserve_in(In.READ_KEYS, allocation_bytes)


def read_reservation(allocation_bytes: int = 24) -> bytes:
    return _reserve_in(In.READ_RESERVATION, allocation_bytes)


def report_capabilities() -> bytes:
    return _reserve_in(In.REPORT_CAPABILITIES, 8)


def read_full_status(allocation_bytes: int = ALLOCATION_BYTES) -> bytes:
    return _reserve_in(In.READ_FULL_STATUS, allocation_bytes)


def parse_keys(data: bytes) -> tuple[int, tuple[int, ...]]:
    """(PRGENERATION, keys) of READ KEYS, 6.15.2. Raises ValueError when the list is cut short."""
    generation, length = _header(data)
    if len(data) < 8 + length:
        raise ValueError(f"READ KEYS: {length} bytes announced, {len(data) - 8} came")
    return generation, struct.unpack_from(f">{length // 8}Q", data, 8)


def parse_reservation(data: bytes) -> tuple[int, Reservation | None]:
    """(PRGENERATION, reservation) of READ RESERVATION, 6.15.3. Raises ValueError."""
    generation, length = _header(data)
    if length == 0:
        return generation, None
    if length < 16 or len(data) < 24:
        raise ValueError(f"READ RESERVATION: {length} bytes announced, {len(data) - 8} came")
    key, scope_kind = struct.unpack_from(">Q5xB", data, 8)
    return generation, Reservation(key, scope_kind & 0x0F, scope_kind >> 4)


def parse_capabilities(data: bytes) -> Capabilities:
    """REPORT CAPABILITIES, 6.15.4. Raises ValueError."""
    if len(data) < 6:
        raise ValueError("REPORT CAPABILITIES: too short")
    mask_valid = bool(data[3] & 0x80)
    bits = {0x0200: 1, 0x0800: 3, 0x2000: 5, 0x4000: 6, 0x8000: 7, 0x0001: 8}
    mask = int.from_bytes(data[4:6], "big") if mask_valid else 0
    kinds = frozenset(Kind(kind) for bit, kind in bits.items() if mask & bit)
    return Capabilities(bool(data[2] & 0x01), bool(data[3] & 0x01), kinds)


def parse_full_status(data: bytes) -> tuple[int, tuple[Registrant, ...]]:
    """(PRGENERATION, registrants) of READ FULL STATUS, 6.15.5. Raises ValueError when an entry is cut short."""
    generation, length = _header(data)
    if len(data) < 8 + length:
        raise ValueError(f"READ FULL STATUS: {length} bytes announced, {len(data) - 8} came")
    found: list[Registrant] = []
    at, end = 8, 8 + length
    while at < end:
        if at + 24 > end:
            raise ValueError("READ FULL STATUS: an entry is cut short")
        key, flags, scope_kind, port, more = struct.unpack_from(">Q4xBB4xHI", data, at)
        if at + 24 + more > end:
            raise ValueError("READ FULL STATUS: a transport id is cut short")
        found.append(Registrant(key, bool(flags & 1), scope_kind & 0x0F, port, data[at + 24 : at + 24 + more]))
        at += 24 + more
    return generation, tuple(found)


def _header(data: bytes) -> tuple[int, int]:
    if len(data) < 8:
        raise ValueError("PERSISTENT RESERVE IN: too short")
    generation, length = struct.unpack_from(">II", data)
    return generation, length


Command = tuple[bytes, bytes]  # CDB, parameter data


def _reserve_out(action: Out, key: int, action_key: int, kind: int = 0, aptpl: bool = False) -> Command:
    cdb = struct.pack(">BBBHIB", Opcode.PERSISTENT_RESERVE_OUT, action, kind, 0, PARAMETER_BYTES, 0)
    return cdb, struct.pack(">QQIBBH", key, action_key, 0, int(aptpl), 0, 0)


def register(key: int, new_key: int, *, aptpl: bool = False) -> Command:
    """REGISTER, 6.16.2: change the registered `key` (0: none yet) to `new_key` (0: unregister)."""
    return _reserve_out(Out.REGISTER, key, new_key, aptpl=aptpl)


def register_and_ignore(new_key: int, *, aptpl: bool = False) -> Command:
    """REGISTER AND IGNORE EXISTING KEY: whatever this path had registered, now it is `new_key` (0: nothing)."""
    return _reserve_out(Out.REGISTER_AND_IGNORE, 0, new_key, aptpl=aptpl)


def reserve(key: int, kind: Kind = Kind.WRITE_EXCLUSIVE_REGISTRANTS) -> Command:
    return _reserve_out(Out.RESERVE, key, 0, kind)


def release(key: int, kind: Kind = Kind.WRITE_EXCLUSIVE_REGISTRANTS) -> Command:
    return _reserve_out(Out.RELEASE, key, 0, kind)


def clear(key: int) -> Command:
    return _reserve_out(Out.CLEAR, key, 0)


def preempt(key: int, victim: int, kind: Kind = Kind.WRITE_EXCLUSIVE_REGISTRANTS, *, abort: bool = False) -> Command:
    """PREEMPT or, with `abort`, PREEMPT AND ABORT: throw `victim` out, and take the reservation if it was its own."""
    return _reserve_out(Out.PREEMPT_AND_ABORT if abort else Out.PREEMPT, key, victim, kind)
