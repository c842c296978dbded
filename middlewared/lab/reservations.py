"""The persistent reservations of one logical unit, as a target keeps them. Pure.

After SPC-4: PERSISTENT RESERVE OUT (6.16) and its model of reservations. An initiator here is an I_T nexus:
one controller by its one path. `Target` says where real targets differ from the standard and from one another.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from middlewared.plugins.fencing import scsi
from middlewared.plugins.fencing.scsi import Reply, Sense, Status
from middlewared.plugins.fencing.scsi_pr import PARAMETER_BYTES, In, Kind, Out

_LUN_SCOPE = 0
_KINDS = frozenset(int(kind) for kind in Kind)
_GENERATION_MAX = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class Target:
    """What a kind of target can do, and how it words its unit attentions."""

    preempt_and_abort: bool = True
    read_full_status: bool = True
    aptpl: bool = False  # can keep reservations over a restart, if told to when registering
    preempted: Sense = scsi.REGISTRATIONS_PREEMPTED  # to a nexus that PREEMPT threw out
    preempt_unregistered: Sense | None = None  # to an unregistered nexus that tries; None: RESERVATION CONFLICT
    lun_reset: Sense = scsi.BUS_DEVICE_RESET


STANDARD = Target()
# As measured on tgt 1.0.85 (shared/LAB.md, section 3).
TGT = Target(
    preempt_and_abort=False,
    read_full_status=False,
    preempted=scsi.RESERVATIONS_PREEMPTED,
    preempt_unregistered=scsi.INVALID_FIELD_IN_CDB,
    lun_reset=scsi.POWER_ON_OR_RESET,
)

GOOD = Reply(Status.GOOD)
CONFLICT = Reply(Status.RESERVATION_CONFLICT)


def check(sense: Sense) -> Reply:
    """CHECK CONDITION with this sense."""
    return Reply(Status.CHECK_CONDITION, scsi.fixed_sense(sense))


@dataclass(frozen=True, slots=True)
class Request:
    """One PERSISTENT RESERVE OUT, taken apart."""

    initiator: str
    scope: int
    kind: int
    key: int  # RESERVATION KEY
    action_key: int  # SERVICE ACTION RESERVATION KEY
    aptpl: bool


def _kind(request: Request) -> Kind | None:
    """The type asked for, of the whole unit; None if there is no such type or scope."""
    return Kind(request.kind) if request.scope == _LUN_SCOPE and request.kind in _KINDS else None


@dataclass(slots=True)
class Held:
    """The reservation. `holder` is a nexus; with the all-registrants types every registrant is one and it is ''."""

    kind: Kind
    holder: str


@dataclass(slots=True)
class Reservations:
    """Registrations and the reservation of one logical unit.

    `notify(initiator, sense)` establishes a unit attention; `abort(initiators)` ends their commands in the queue.
    """

    target: Target
    notify: Callable[[str, Sense], None]
    abort: Callable[[frozenset[str]], None]
    keys: dict[str, int] = field(default_factory=dict)  # by initiator
    held: Held | None = None
    generation: int = 0
    kept: bool = False  # APTPL is active

    # ------------------------------------------------------------------------------------------ who may

    @property
    def holder_key(self) -> int:
        """The key READ RESERVATION shows: 0 with the all-registrants types, and without a reservation."""
        return self.keys.get(self.held.holder, 0) if self.held else 0

    def may(self, initiator: str, *, write: bool) -> bool:
        """May this nexus read or write the medium? (SPC-4, commands allowed in the presence of reservations)"""
        if self.held is None or self.held.holder == initiator:
            return True
        if self.held.kind.registrants and initiator in self.keys:
            return True
        return not write and not self.held.kind.excludes_reads

    def restart(self) -> None:
        """The target lost power."""
        if not self.kept:
            self.keys.clear()
            self.held = None
            self.generation = 0

    # ------------------------------------------------------------------------------------------ IN

    def reserve_in(self, cdb: bytes) -> Reply:
        action, allocation = cdb[1] & 0x1F, int.from_bytes(cdb[7:9], "big")
        if action == In.READ_KEYS:
            body = b"".join(struct.pack(">Q", key) for key in self.keys.values())
        elif action == In.READ_RESERVATION:
            body = b"" if self.held is None else struct.pack(">QIBBH", self.holder_key, 0, 0, self.held.kind, 0)
        elif action == In.REPORT_CAPABILITIES:
            flags = int(self.target.aptpl), 0x80 | int(self.kept)
            return Reply(Status.GOOD, data=struct.pack(">HBBHH", 8, *flags, 0xEA01, 0)[:allocation])
        elif action == In.READ_FULL_STATUS and self.target.read_full_status:
            body = b"".join(self._full_status(initiator) for initiator in self.keys)
        else:
            return check(scsi.INVALID_FIELD_IN_CDB)
        return Reply(Status.GOOD, data=(struct.pack(">II", self.generation, len(body)) + body)[:allocation])

    def _full_status(self, initiator: str) -> bytes:
        holder, kind = False, 0
        if self.held is not None and (self.held.kind.all_registrants or self.held.holder == initiator):
            holder, kind = True, int(self.held.kind)
        sas_address = initiator.encode()[:8].rjust(8, b"\0")
        transport_id = struct.pack(">B3x8s12x", 0x06, sas_address)
        return struct.pack(">Q4xBB4xHI", self.keys[initiator], int(holder), kind, 1, len(transport_id)) + transport_id

    # ------------------------------------------------------------------------------------------ OUT

    def reserve_out(self, initiator: str, cdb: bytes, data: bytes) -> Reply:
        action, scope, kind = cdb[1] & 0x1F, cdb[2] >> 4, cdb[2] & 0x0F
        if int.from_bytes(cdb[5:9], "big") != PARAMETER_BYTES or len(data) != PARAMETER_BYTES:
            return check(scsi.PARAMETER_LIST_LENGTH_ERROR)
        key, action_key, flags = struct.unpack_from(">QQ4xB", data)
        if flags & 0x0C or (flags & 0x01 and not self.target.aptpl):  # SPEC_I_PT and ALL_TG_PT: not here
            return check(scsi.INVALID_FIELD_IN_PARAMETERS)
        request = Request(initiator, scope, kind, key, action_key, bool(flags & 0x01))
        match action:
            case Out.REGISTER:
                return self._register(request) if self.keys.get(initiator, 0) == key else CONFLICT
            case Out.REGISTER_AND_IGNORE:
                return self._register(request)
            case Out.RESERVE | Out.RELEASE | Out.CLEAR if not self._registered(request):
                return CONFLICT
            case Out.RESERVE:
                return self._reserve(request)
            case Out.RELEASE:
                return self._release(request)
            case Out.CLEAR:
                return self._clear(request)
            case Out.PREEMPT | Out.PREEMPT_AND_ABORT:
                if action == Out.PREEMPT_AND_ABORT and not self.target.preempt_and_abort:
                    return check(scsi.INVALID_FIELD_IN_CDB)
                return self._preempt(request, abort=action == Out.PREEMPT_AND_ABORT)
        return check(scsi.INVALID_FIELD_IN_CDB)

    def _registered(self, request: Request) -> bool:
        return request.initiator in self.keys and self.keys[request.initiator] == request.key

    def _count(self) -> None:
        self.generation = (self.generation + 1) & _GENERATION_MAX

    def _register(self, request: Request) -> Reply:
        if request.action_key == 0 and request.initiator not in self.keys:
            return GOOD
        self._count()
        self.kept = request.aptpl
        if request.action_key:
            self.keys[request.initiator] = request.action_key
            return GOOD
        del self.keys[request.initiator]
        if self.held and (self.held.holder == request.initiator or not self.keys):
            self._drop_reservation(request.initiator)
        return GOOD

    def _reserve(self, request: Request) -> Reply:
        kind = _kind(request)
        if kind is None:
            return check(scsi.INVALID_FIELD_IN_CDB)
        if self.held is None:
            self._establish(request.initiator, kind)
            return GOOD
        return GOOD if self._holds(request.initiator) and self.held.kind == kind else CONFLICT

    def _release(self, request: Request) -> Reply:
        if self.held is None or not self._holds(request.initiator):
            return GOOD
        if request.scope != _LUN_SCOPE or request.kind != self.held.kind:
            return check(scsi.INVALID_RELEASE)
        self._drop_reservation(request.initiator)
        return GOOD

    def _clear(self, request: Request) -> Reply:
        self._count()
        others = [other for other in self.keys if other != request.initiator]
        self.keys.clear()
        self.held = None
        for other in others:
            self.notify(other, scsi.RESERVATIONS_PREEMPTED)
        return GOOD

    def _preempt(self, request: Request, *, abort: bool) -> Reply:
        if request.initiator not in self.keys and self.target.preempt_unregistered is not None:
            return check(self.target.preempt_unregistered)
        if not self._registered(request):
            return CONFLICT
        kind = _kind(request)
        if kind is None:
            return check(scsi.INVALID_FIELD_IN_CDB)
        everyone = self.held is not None and self.held.kind.all_registrants
        if request.action_key == 0 and not everyone:
            return check(scsi.INVALID_FIELD_IN_PARAMETERS)
        named = {one for one, key in self.keys.items() if key == request.action_key or request.action_key == 0}
        if not named:
            return CONFLICT
        takes_over = self.held is not None and (
            request.action_key == 0 if everyone else self.holder_key == request.action_key
        )
        self._count()
        lost = frozenset(named - {request.initiator})
        for victim in lost:
            del self.keys[victim]
        if takes_over:
            self._replace(request.initiator, kind, lost)
        elif self.held is not None and not self.keys:
            self.held = None
        for victim in lost:
            self.notify(victim, self.target.preempted)
        if abort:
            self.abort(lost)
        return GOOD

    def _replace(self, initiator: str, kind: Kind, lost: frozenset[str]) -> None:
        """The preempted reservation goes, the preemptor's comes; a change of type is told to those who stay."""
        changed = self.held is not None and self.held.kind != kind
        self._establish(initiator, kind)
        if changed:
            for other in self.keys:
                if other != initiator and other not in lost:
                    self.notify(other, scsi.RESERVATIONS_RELEASED)

    def _holds(self, initiator: str) -> bool:
        if self.held is None:
            return False
        return initiator in self.keys if self.held.kind.all_registrants else self.held.holder == initiator

    def _establish(self, initiator: str, kind: Kind) -> None:
        self.held = Held(kind, "" if kind.all_registrants else initiator)

    def _drop_reservation(self, by: str) -> None:
        """Types 5 to 8 tell the registrants that stay (2A/04); the others do so silently."""
        if self.held is not None and self.held.kind.registrants:
            for other in self.keys:
                if other != by:
                    self.notify(other, scsi.RESERVATIONS_RELEASED)
        self.held = None
