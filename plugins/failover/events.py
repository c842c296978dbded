"""What can happen to the engine."""

import enum
from dataclasses import dataclass

from middlewared.plugins.failover.state import Config, Election, PeerView
from middlewared.ports import FenceCode


class Wish(enum.StrEnum):
    FORCE_MASTER = "FORCE_MASTER"
    BECOME_PASSIVE = "BECOME_PASSIVE"


@dataclass(frozen=True, slots=True)
class Discovered:
    """Once, at start: where things stand on this machine (a former middlewared may have left them so)."""

    held: bool  # we hold the reservations, by the keeper's word
    imported: bool  # at least one pool is imported, or the kernel could not tell
    complete: bool  # every pool is imported
    open: bool  # traffic to the virtual addresses is let in


@dataclass(frozen=True, slots=True)
class Configured:
    config: Config


@dataclass(frozen=True, slots=True)
class Elected:
    """The election of the virtual addresses changed."""

    election: Election


@dataclass(frozen=True, slots=True)
class PeerChanged:
    """The other controller as it says it is; None: not reachable."""

    peer: PeerView | None


@dataclass(frozen=True, slots=True)
class PoolsChanged:
    """What the kernel says of the pools. `suspended`: an imported one waits for disks that do not answer. `late`: this
    MASTER found no pool at all when it took the disks, and now there is one."""

    suspended: bool
    late: bool = False


@dataclass(frozen=True, slots=True)
class FenceLost:
    """The keeper runs and says that we no longer hold the reservations."""


@dataclass(frozen=True, slots=True)
class Done:
    """An operation ended. `code` only for fencing; `detail` is a sentence when something went wrong."""

    op: int
    ok: bool
    detail: str = ""
    code: FenceCode = FenceCode.OK


@dataclass(frozen=True, slots=True)
class Asked:
    """An operator asks; the answer is an Answer with the same number."""

    request: int
    wish: Wish
    cause: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed: a deadline or a retry may be due."""


Event = Discovered | Configured | Elected | PeerChanged | PoolsChanged | FenceLost | Done | Asked | Tick
