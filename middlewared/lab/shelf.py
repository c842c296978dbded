"""A shelf of disks that two controllers share: a SCSI target whose reservations behave as SPC-4 says. Pure.

`execute` and `submit` take one command of one initiator and answer it. No clock but the one handed in, no asyncio: the
simulator calls it directly, `middlewared.lab.shelf_server` puts it on unix sockets.
"""

import hashlib
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from middlewared.lab.reservations import GOOD, STANDARD, TGT, Reservations, Target, check
from middlewared.lab.writes import Write, WriteLog
from middlewared.plugins.fencing import scsi
from middlewared.plugins.fencing.scsi import BLOCK_BYTES, Opcode, Reply, Sense, Status

__all__ = ["STANDARD", "TGT", "QueuedWrite", "Shelf", "ShelfDisk", "Target"]

ATTENTIONS_MAX = 16  # unit attentions that wait for one nexus on one unit
QUEUE_MAX = 256  # commands in the queue of one unit; then TASK SET FULL
_EXEMPT = frozenset(
    {Opcode.INQUIRY, Opcode.REPORT_LUNS, Opcode.REQUEST_SENSE}
)  # of unit attentions, SPC-4 6.6 and 6.33
_READS = {Opcode.READ_10: (">I", 2, ">H", 7), Opcode.READ_16: (">Q", 2, ">I", 10)}
_WRITES = {Opcode.WRITE_10: (">I", 2, ">H", 7), Opcode.WRITE_16: (">Q", 2, ">I", 10)}
_CDB_BYTES_MIN = {0: 6, 1: 10, 2: 10, 4: 16, 5: 12}  # by the opcode's group code, SPC-4 4.2.5


@dataclass(frozen=True, slots=True)
class ShelfDisk:
    """One disk of the shelf."""

    lun: int
    serial: str
    size_bytes: int


@dataclass(eq=False, slots=True)
class QueuedWrite:
    """A write that passed the reservation check and waits for the medium; `Shelf.complete` lands it."""

    initiator: str
    lun: int
    lba: int
    data: bytes
    aborted: bool = False


@dataclass(slots=True)
class _Unit:
    disk: ShelfDisk
    reservations: Reservations
    blocks: dict[int, bytes] = field(default_factory=dict)
    attentions: dict[str, list[Sense]] = field(default_factory=dict)  # by initiator
    queue: list[QueuedWrite] = field(default_factory=list)
    broken: bool = False

    @property
    def block_count(self) -> int:
        return self.disk.size_bytes // BLOCK_BYTES


class Shelf:
    """The target. Initiators need no introduction, except to `restart` and resets: name them in `initiators`."""

    def __init__(
        self,
        disks: Sequence[ShelfDisk],
        *,
        target: Target = STANDARD,
        log: WriteLog | None = None,
        now_ms: Callable[[], int] = lambda: 0,
        initiators: Sequence[str] = ("a", "b"),
    ) -> None:
        self.log = log or WriteLog()
        self.initiators = tuple(initiators)
        self.target = target
        self._now_ms = now_ms
        self._units = {disk.lun: self._unit(disk) for disk in disks}
        self._replaced = 0  # disks so far

    def _unit(self, disk: ShelfDisk) -> _Unit:
        lun = disk.lun
        return _Unit(
            disk,
            Reservations(
                self.target,
                notify=lambda initiator, sense: self._notify(lun, initiator, sense),
                abort=lambda initiators: self._abort(lun, initiators),
            ),
        )

    # ------------------------------------------------------------------------------------------ commands

    def execute(self, initiator: str, lun: int, cdb: bytes, data: bytes = b"") -> tuple[int, bytes, bytes]:
        """(status, sense, data in) of one command; a write lands at once."""
        answer = self.submit(initiator, lun, cdb, data)
        if isinstance(answer, QueuedWrite):
            answer = self.complete(answer) or Reply(Status.TASK_ABORTED)
        return answer.status, answer.sense, answer.data

    def submit(self, initiator: str, lun: int, cdb: bytes, data: bytes = b"") -> Reply | QueuedWrite:
        """One command; a write that is not refused is queued, and lands when `complete` is called."""
        if not cdb or len(cdb) < _CDB_BYTES_MIN.get(cdb[0] >> 5, 6):
            return check(scsi.INVALID_OPCODE)
        opcode = cdb[0]
        if opcode == Opcode.REPORT_LUNS:
            return self._report_luns(cdb)
        unit = self._units.get(lun)
        if unit is None:
            return check(scsi.LUN_NOT_SUPPORTED)
        if opcode == Opcode.INQUIRY:
            return _inquiry(unit.disk, cdb)
        waiting = unit.attentions.get(initiator)
        if waiting and opcode not in _EXEMPT:
            return check(waiting.pop(0))
        if opcode in _WRITES:
            return self._write(unit, initiator, cdb, data)
        if unit.broken:
            failure = scsi.UNRECOVERED_READ_ERROR if opcode in _READS else scsi.INTERNAL_TARGET_FAILURE
            return check(failure)
        return self._other(unit, initiator, cdb, data)

    def complete(self, write: QueuedWrite) -> Reply | None:
        """Land a queued write, whatever was reserved meanwhile. None: it was aborted, and is never answered."""
        if write.aborted:
            return None
        unit = self._units[write.lun]
        unit.queue.remove(write)
        for at in range(0, len(write.data), BLOCK_BYTES):
            unit.blocks[write.lba + at // BLOCK_BYTES] = write.data[at : at + BLOCK_BYTES]
        self._record(unit, write.initiator, write.lba, write.data, accepted=True)
        return GOOD

    def _other(self, unit: _Unit, initiator: str, cdb: bytes, data: bytes) -> Reply:
        match cdb[0]:
            case Opcode.PERSISTENT_RESERVE_IN:
                return unit.reservations.reserve_in(cdb)
            case Opcode.PERSISTENT_RESERVE_OUT:
                return unit.reservations.reserve_out(initiator, cdb, data)
            case Opcode.READ_10 | Opcode.READ_16:
                return self._read(unit, initiator, cdb)
            case Opcode.TEST_UNIT_READY:
                return GOOD
            case Opcode.SYNCHRONIZE_CACHE_10:
                may = unit.reservations.may(initiator, write=True)
                return GOOD if may else Reply(Status.RESERVATION_CONFLICT)
            case Opcode.REQUEST_SENSE:
                waiting = unit.attentions.get(initiator)
                sense = waiting.pop(0) if waiting else Sense(0, 0, 0)
                return Reply(Status.GOOD, data=scsi.fixed_sense(sense)[: cdb[4]])
            case Opcode.READ_CAPACITY_10:
                last = min(unit.block_count - 1, 0xFFFF_FFFF)
                return Reply(Status.GOOD, data=struct.pack(">II", last, BLOCK_BYTES))
            case Opcode.SERVICE_ACTION_IN_16 if cdb[1] & 0x1F == 0x10:
                allocation = int.from_bytes(cdb[10:14], "big")
                return Reply(Status.GOOD, data=struct.pack(">QI20x", unit.block_count - 1, BLOCK_BYTES)[:allocation])
        return check(scsi.INVALID_OPCODE)

    def _read(self, unit: _Unit, initiator: str, cdb: bytes) -> Reply:
        lba, blocks = _extent(_READS, cdb)
        if not unit.reservations.may(initiator, write=False):
            return Reply(Status.RESERVATION_CONFLICT)
        if lba + blocks > unit.block_count:
            return check(scsi.LBA_OUT_OF_RANGE)
        blank = bytes(BLOCK_BYTES)
        return Reply(Status.GOOD, data=b"".join(unit.blocks.get(at, blank) for at in range(lba, lba + blocks)))

    def _write(self, unit: _Unit, initiator: str, cdb: bytes, data: bytes) -> Reply | QueuedWrite:
        lba, blocks = _extent(_WRITES, cdb)
        refused: Reply | None = None
        if unit.broken:
            refused = check(scsi.WRITE_ERROR)
        elif not unit.reservations.may(initiator, write=True):
            refused = Reply(Status.RESERVATION_CONFLICT)
        elif lba + blocks > unit.block_count:
            refused = check(scsi.LBA_OUT_OF_RANGE)
        elif len(data) != blocks * BLOCK_BYTES:
            refused = check(scsi.INVALID_FIELD_IN_CDB)
        elif len(unit.queue) >= QUEUE_MAX:
            refused = Reply(Status.TASK_SET_FULL)
        if refused is not None:
            self._record(unit, initiator, lba, data, accepted=False)
            return refused
        queued = QueuedWrite(initiator, unit.disk.lun, lba, data)
        unit.queue.append(queued)
        return queued

    def _report_luns(self, cdb: bytes) -> Reply:
        # LUNs below 256 use peripheral device addressing, those above flat space addressing (SAM-5 4.7.7)
        entries = b"".join(struct.pack(">H6x", lun if lun < 256 else 0x4000 | lun) for lun in sorted(self._units))
        allocation = int.from_bytes(cdb[6:10], "big")
        return Reply(Status.GOOD, data=(struct.pack(">I4x", len(entries)) + entries)[:allocation])

    # ------------------------------------------------------------------------------------------ events

    def lun_reset(self, initiator: str, lun: int) -> None:
        """LOGICAL UNIT RESET, SAM-5 7.7: queued commands are gone, reservations stay, everybody hears of it."""
        unit = self._units[lun]
        self._abort(lun, None)
        for other in self._known(unit):
            if other != initiator or self.target.lun_reset == scsi.POWER_ON_OR_RESET:
                self._notify(lun, other, self.target.lun_reset)

    def restart(self) -> None:
        """The target restarts: queued commands are lost, and so are reservations that were not told to persist."""
        for lun, unit in self._units.items():
            self._abort(lun, None)
            unit.reservations.restart()
            known = self._known(unit)
            unit.attentions.clear()
            for initiator in known:
                self._notify(lun, initiator, scsi.POWER_ON_OR_RESET)

    def drop(self, initiator: str) -> None:
        """The nexus is lost (its controller lost power): what it had queued is gone; its registrations stay."""
        for lun in self._units:
            self._abort(lun, frozenset({initiator}))

    def fail(self, lun: int) -> None:
        """The disk answers errors until `repair`: medium errors to reads and writes, hardware errors to the rest."""
        self._units[lun].broken = True

    def replace(self, lun: int) -> ShelfDisk:
        """The disk is taken out for good, and a blank one put in: another serial at another address, as with SAS."""
        old = self._units.pop(lun)
        self._replaced += 1
        new = ShelfDisk(max([lun, *self._units]) + 1, f"{old.disk.serial}-{self._replaced}", old.disk.size_bytes)
        self._units[new.lun] = self._unit(new)
        for initiator in self.initiators:
            self._notify(new.lun, initiator, scsi.POWER_ON_OR_RESET)
        for write in old.queue:
            write.aborted = True
        return new

    def repair(self, lun: int) -> None:
        self._units[lun].broken = False

    # ------------------------------------------------------------------------------------------ to look at

    @property
    def disks(self) -> tuple[ShelfDisk, ...]:
        return tuple(unit.disk for _, unit in sorted(self._units.items()))

    def __contains__(self, lun: int) -> bool:
        return lun in self._units

    def reservations(self, lun: int) -> Reservations:
        """For tests, the lab's display and the simulator's oracles; initiators use PERSISTENT RESERVE IN."""
        return self._units[lun].reservations

    def _known(self, unit: _Unit) -> list[str]:
        return sorted({*self.initiators, *unit.reservations.keys, *unit.attentions})

    def _notify(self, lun: int, initiator: str, sense: Sense) -> None:
        waiting = self._units[lun].attentions.setdefault(initiator, [])
        if sense not in waiting and len(waiting) < ATTENTIONS_MAX:
            waiting.append(sense)

    def _abort(self, lun: int, initiators: frozenset[str] | None) -> None:
        unit = self._units[lun]
        for write in unit.queue:
            write.aborted = initiators is None or write.initiator in initiators
        unit.queue = [write for write in unit.queue if not write.aborted]

    def _record(self, unit: _Unit, initiator: str, lba: int, data: bytes, *, accepted: bool) -> None:
        kept = unit.reservations
        self.log.add(
            Write(
                t_ms=self._now_ms(),
                initiator=initiator,
                lun=unit.disk.lun,
                lba=lba,
                blocks=len(data) // BLOCK_BYTES,
                accepted=accepted,
                reserved=kept.held is not None,
                holder_key=kept.holder_key,
                writer_key=kept.keys.get(initiator, 0),
                digest=hashlib.blake2b(data, digest_size=8).hexdigest(),
            )
        )


def _extent(forms: dict[Opcode, tuple[str, int, str, int]], cdb: bytes) -> tuple[int, int]:
    """(first block, blocks) of a READ or WRITE."""
    lba_form, lba_at, blocks_form, blocks_at = forms[Opcode(cdb[0])]
    return struct.unpack_from(lba_form, cdb, lba_at)[0], struct.unpack_from(blocks_form, cdb, blocks_at)[0]


def _inquiry(disk: ShelfDisk, cdb: bytes) -> Reply:
    """Standard data (SPC-4 6.6.2), or pages 00h and 80h of the vital product data (7.8)."""
    allocation = int.from_bytes(cdb[3:5], "big")
    if not cdb[1] & 0x01:
        header = struct.pack(">BBBBB3x", 0, 0, 0x06, 0x02, 31)
        body = b"MWARED  " + b"Simulated disk  " + b"0001"
        return Reply(Status.GOOD, data=(header + body)[:allocation])
    pages = {0x00: bytes([0x00, scsi.SERIAL_PAGE]), scsi.SERIAL_PAGE: disk.serial.encode("ascii")}
    page = pages.get(cdb[2])
    if page is None:
        return check(scsi.INVALID_FIELD_IN_CDB)
    return Reply(Status.GOOD, data=(struct.pack(">BBH", 0, cdb[2], len(page)) + page)[:allocation])
