"""What the engine remembers. Plain values; the rules are in engine.py."""

import enum
from dataclasses import dataclass, field


class Role(enum.StrEnum):
    """What this controller is doing about the pools."""

    BOOTING = "BOOTING"  # has not yet found out where things stand
    BACKUP = "BACKUP"
    TAKING = "TAKING"  # becoming MASTER
    MASTER = "MASTER"
    YIELDING = "YIELDING"  # giving everything up
    ERROR = "ERROR"  # a takeover failed; tries again after a while


class Phase(enum.StrEnum):
    """The steps of becoming MASTER, then those of giving up, in order (DESIGN S2)."""

    ASKING = "ASKING"  # an operator wants the role: ask a living MASTER to hand it over
    FENCING = "FENCING"
    IMPORTING = "IMPORTING"
    STARTING = "STARTING"
    OPENING = "OPENING"

    CLOSING = "CLOSING"
    STOPPING = "STOPPING"
    EXPORTING = "EXPORTING"
    VERIFYING = "VERIFYING"
    RELEASING = "RELEASING"


class Lost(enum.StrEnum):
    """How a MASTER lost the election of its virtual addresses."""

    LINK = "LINK"  # its own links are down
    RIVAL = "RIVAL"  # its links are up, and the other speaks for the addresses


@dataclass(frozen=True, slots=True)
class Election:
    """The VRRP states of all critical interfaces, folded (election.py)."""

    elected: bool = False
    lost: Lost | None = None


@dataclass(frozen=True, slots=True)
class PeerView:
    """What the engine needs to know of the other controller."""

    master: bool  # it has the pools, or is taking or giving them up
    could_lead: bool  # booted, and its critical links are up
    outvoted: bool = False  # it is MASTER and its links are up, but we were elected to speak for the addresses


@dataclass(frozen=True, slots=True)
class Limits:
    """How long each kind of work may take before it counts as failed, and the pauses between attempts."""

    ask_ms: int = 45_000  # the other's whole way down
    fence_ms: int = 5_000
    import_ms: int = 120_000
    services_ms: int = 30_000
    firewall_ms: int = 2_000
    export_ms: int = 30_000
    release_ms: int = 5_000
    fence_retry_ms: int = 50  # the peer is still alive on the disks
    force_ms: int = 10_000  # an operator's force, where the other takes the disks at the same moment again and again
    error_retry_ms: int = 5_000
    stand_aside_ms: int = 10_000  # after giving up: time for the other to take over
    rival_grace_ms: int = 500
    isolated_grace_ms: int = 2_000


@dataclass(frozen=True, slots=True)
class Config:
    """The part of the configuration that decides."""

    available: bool  # licensed, and a virtual address on a critical interface: a pair at all
    enabled: bool  # not administratively disabled
    designated: bool  # this controller keeps the role while failover is disabled or there is no pair
    timeout_ms: int = 0  # the administrator's patience with a MASTER that lives and has lost its links


@dataclass(frozen=True, slots=True)
class State:
    """One controller. `op` numbers the operation under way; a result with another number is late and ignored."""

    role: Role = Role.BOOTING
    phase: Phase | None = None
    op: int = 0
    deadline_ms: int | None = None
    forced_until_ms: int | None = None  # an operator's force, and until when it goes on without success
    fenced: bool = False  # we may hold reservations: losing them, or not knowing, resets the machine
    cause: str = ""  # why the last change of role began
    error: str = ""  # why the last takeover failed
    request: int | None = None  # the operator's request that waits for the outcome
    giving_up: bool = False  # YIELDING because a takeover failed: ends in ERROR
    retry_at_ms: int | None = None
    lost_since_ms: int | None = None
    participating: bool | None = None  # in the election; None: not yet said
    election: Election = Election()
    suspended: bool = False  # an imported pool is: nothing can be written, and it cannot be exported either
    peer: PeerView | None = None
    config: Config | None = None
    limits: Limits = field(default_factory=Limits)

    @property
    def forced(self) -> bool:
        return self.forced_until_ms is not None
