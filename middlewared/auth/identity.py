"""Who calls (Credential), where from (Origin), and the roles that decide what they may do."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

FULL_ADMIN = "FULL_ADMIN"
READONLY_ADMIN = "READONLY_ADMIN"

# Every role that a privilege may give, with what it is for. FULL_ADMIN may do everything; READONLY_ADMIN everything
# whose role ends in _READ; a _WRITE role includes the _READ role of the same name.
ROLES: Mapping[str, str] = {
    FULL_ADMIN: "Do everything",
    READONLY_ADMIN: "See everything, change nothing",
    "ACCOUNT_READ": "See users and privileges",
    "ACCOUNT_WRITE": "Change users and privileges",
    "ALERT_LIST_READ": "See alerts",
    "ALERT_LIST_WRITE": "Dismiss alerts",
    "API_KEY_READ": "See API keys",
    "API_KEY_WRITE": "Create, change and delete API keys",
    "DISK_READ": "See disks",
    "FAILOVER_READ": "See the state of high availability",
    "FAILOVER_WRITE": "Configure high availability and move the active role",
    "JOB_READ": "See the jobs of other users",
    "NETWORK_INTERFACE_READ": "See network interfaces",
    "NETWORK_INTERFACE_WRITE": "Configure network interfaces",
    "POOL_READ": "See pools",
    "POOL_WRITE": "Unlock encrypted datasets",
    "SERVICE_READ": "See services",
    "SERVICE_WRITE": "Configure, start and stop services",
    "SYSTEM_AUDIT_READ": "See the audit log",
    "SYSTEM_GENERAL_READ": "See general facts about the system",
}

_READ = "_READ"
_WRITE = "_WRITE"

Kind = Literal["LOGIN_PASSWORD", "API_KEY", "TOKEN", "UNIX_SOCKET", "NODE", "INTERNAL"]


@dataclass(frozen=True, slots=True)
class Credential:
    """What a caller has proven to be. `user` is the object of PROTOCOL 5.6; `data` says how it was proven."""

    kind: Kind
    username: str
    roles: frozenset[str] = frozenset()
    user: dict[str, Any] | None = field(default=None, hash=False)
    data: dict[str, Any] = field(default_factory=dict, hash=False)

    def may(self, roles: Sequence[str]) -> bool:
        """Whether one of `roles` is held. Without any role named, only a full administrator may."""
        return FULL_ADMIN in self.roles or any(self._holds(role) for role in roles)

    def covers(self, roles: Iterable[str]) -> bool:
        """Whether all of `roles` are held: what one may hand on to others."""
        return all(self.may([role]) for role in roles)

    def _holds(self, role: str) -> bool:
        if role in self.roles:
            return True
        if not role.endswith(_READ):
            return False
        return READONLY_ADMIN in self.roles or role.removesuffix(_READ) + _WRITE in self.roles


INTERNAL = Credential("INTERNAL", "middlewared", frozenset({FULL_ADMIN}))
"""The daemon itself."""

NODE = Credential("NODE", "peer", frozenset({FULL_ADMIN}))
"""The other controller, over the mutually authenticated peer link."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a caller sits. `address` is an IP address, or "unix" for the local socket (then uid and gid are known)."""

    address: str
    uid: int | None = None
    gid: int | None = None
    secure: bool = False  # TLS
    channel_binding: bytes | None = None  # tls-server-end-point (RFC 5929) of the certificate that the caller sees
    local_address: str = ""

    @property
    def is_unix(self) -> bool:
        return self.address == "unix"

    def matches(self, other: "Origin") -> bool:
        """The same place (PROTOCOL 5.7): the same address, or on the unix socket the same uid and gid."""
        return (self.address, self.uid, self.gid) == (other.address, other.uid, other.gid)


LOCAL_ORIGIN = Origin("unix", uid=0, gid=0)
"""Calls that the daemon makes itself."""
