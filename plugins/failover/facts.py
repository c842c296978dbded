"""Facts: one controller's snapshot of itself, pushed to the other as it changes.

Status and disabled reasons are functions of two of these (mine, and the other's or None), so an answer needs no
question to anybody.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from middlewared.plugins.failover.state import Role
from middlewared.ports import Vrrp


@dataclass(frozen=True, slots=True)
class InterfaceFacts:
    """A configured interface: what the pair wants of it, and how it is here."""

    name: str
    critical: bool
    group: int | None
    virtual_addresses: tuple[str, ...]
    link_up: bool
    vrrp: Vrrp | None  # None: no instance runs on it


@dataclass(frozen=True, slots=True)
class PoolFacts:
    guid: str
    name: str
    imported: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """All that status and reasons need to know of one controller."""

    node: str
    hostname: str
    boot_id: str
    version: str
    ready: bool  # has finished booting
    licensed: bool
    disabled: bool
    role: Role
    electing: bool  # the role is changing and the disks are not ours yet
    interfaces: tuple[InterfaceFacts, ...]
    nics: tuple[str, ...]
    heartbeat_exists: bool
    heartbeat_carrier: bool
    fence_running: bool
    fence_held: bool
    rival_moving: bool  # the other's key is moving on the disks
    disks: tuple[str, ...]  # serials of those that answer, sorted
    too_few_disks: bool  # so many do not answer that a takeover from here would be refused
    pools: tuple[PoolFacts, ...]
    reboot_reasons: Mapping[str, str]  # code -> sentence
    migrating_system_dataset: bool
    epoch: int  # of the configuration store
    position: int
    licence_problem: str = ""  # why it is not licensed, a sentence

    @property
    def ongoing(self) -> bool:
        """A failover is running here."""
        return self.role in (Role.TAKING, Role.YIELDING)

    @property
    def virtual(self) -> bool:
        """A virtual address is configured."""
        return any(interface.virtual_addresses for interface in self.interfaces)

    @property
    def imported(self) -> bool:
        return any(pool.imported for pool in self.pools)

    @property
    def could_lead(self) -> bool:
        """Booted, and not cut off: in every failover group of critical interfaces at least one link is up."""
        groups: dict[Any, bool] = {}
        for interface in self.interfaces:
            if interface.critical:
                group = interface.group if interface.group is not None else interface.name
                groups[group] = groups.get(group, False) or interface.link_up
        return self.ready and all(groups.values())
