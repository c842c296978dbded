"""Which pools there are besides the imported ones, and which are this controller's own; pure but for sysfs lookups."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from middlewared.blockdevices import BlockDevice, disks_under

MISSED_MAX = 3


@dataclass(frozen=True, slots=True)
class Known:
    """A pool seen on the disks, or imported here before. It is forgotten when scans that see its disks miss it."""

    name: str
    serials: frozenset[str]  # the shared disks that were there when it was seen last
    missed: int = 0


def serials_of(devices: Iterable[BlockDevice]) -> frozenset[str]:
    return frozenset(device.serial for device in devices if device.shared)


def merge(
    known: Mapping[str, Known], found: Mapping[str, str], *, here: Collection[str], serials: frozenset[str]
) -> dict[str, Known]:
    """What is known after a scan that found these names by guid.

    `here`: guids of pools that are, or are being, imported here, which no scan shows. `serials`: the disks of now. A
    scan that does not see the disks of a pool proves nothing about it, and one alone may read while labels change.
    """
    after: dict[str, Known] = {}
    for guid, pool in known.items():
        missed = pool.missed + (guid not in here and pool.serials <= serials)
        if missed < MISSED_MAX:
            after[guid] = replace(pool, missed=missed)
    return after | {guid: Known(name, serials) for guid, name in found.items()}


def is_local(root: Path, members: Iterable[Path], devices: Iterable[BlockDevice]) -> bool:
    """Whether a pool is this controller's own: some member is known to be on none of the shared disks, and none is.

    `members`: device nodes and files ("/dev/sda1", "/tmp/file"). One that does not exist here proves nothing.
    """
    shared = {block for device in devices if device.shared for block in device.blocks}
    local = False
    for member in members:
        if not member.is_relative_to("/dev"):
            local = True
            continue
        under = disks_under(root, member.name)
        if under & shared:
            return False
        local = local or bool(under)
    return local


def nodes(root: Path, names: Iterable[str], folder: str) -> list[Path]:
    """The device nodes of members that `zpool import` shows by last name alone: "sda", "wwn-0x5000c500d1e2f301"."""
    places = [root / "dev", root / folder.lstrip("/")]
    links = [place / name for name in names for place in places if (place / name).exists()]
    return [Path("/dev") / link.resolve().name for link in links]
