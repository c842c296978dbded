"""The one word an administrator asks for, out of two snapshots of facts."""

import enum

from middlewared.plugins.failover.facts import Facts
from middlewared.plugins.failover.state import Role


class Status(enum.StrEnum):
    """Values on the wire (PROTOCOL 10.2); the CLI prints SLAVE for BACKUP."""

    SINGLE = "SINGLE"  # no licence, or no virtual IP: not a pair
    MASTER = "MASTER"
    BACKUP = "BACKUP"
    ELECTING = "ELECTING"  # about to take the disks
    IMPORTING = "IMPORTING"  # holds the disks, brings pools and services up
    ERROR = "ERROR"  # nobody has the pools, or the last takeover failed here
    UNKNOWN = "UNKNOWN"  # cannot tell


def status(mine: Facts, other: Facts | None) -> Status:
    """What this controller is to the administrator."""
    if not mine.licensed or not mine.virtual:
        return Status.SINGLE
    match mine.role:
        case Role.MASTER | Role.YIELDING:
            return Status.MASTER
        case Role.TAKING:
            return Status.ELECTING if mine.electing else Status.IMPORTING
        case Role.ERROR:
            return Status.ERROR
        case Role.BOOTING:
            return Status.UNKNOWN
        case Role.BACKUP:
            return _standing_by(mine, other)


def _standing_by(mine: Facts, other: Facts | None) -> Status:
    if other is not None and (other.role is Role.MASTER or other.ongoing):
        return Status.BACKUP
    if mine.rival_moving:  # unreachable or silent, and yet alive where it counts
        return Status.BACKUP
    if other is None:
        return Status.UNKNOWN
    if other.ready and other.role in (Role.ERROR, Role.BACKUP) and mine.disabled:
        return Status.ERROR  # nobody leads, and nobody will by itself
    return Status.ERROR if other.role is Role.ERROR else Status.BACKUP
