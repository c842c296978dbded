"""What `zpool` and `zfs` print, parsed; pure. Formats of OpenZFS 2.1 and later: zpool-import(8), zpool-status(8).

The list of importable pools exists as human text only, also in 2.3; it is printed with LC_ALL=C.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from middlewared.ports import Dataset

NOTHING_TO_IMPORT = "no pools available to import"
DATASET_COLUMNS = "name,type,canmount,mountpoint,mounted,encryptionroot,keystatus,keyformat,keylocation"

_FIELD = re.compile(r" *(pool|id|state|status|action|see|comment|config): ?(.*)")
_MEMBER = re.compile(r"\t( *)(\S.*?) +(ONLINE|DEGRADED|FAULTED|OFFLINE|REMOVED|UNAVAIL)(?: .*)?")
_GOOD = ("ONLINE", "DEGRADED")
_ELSEWHERE = "currently imported by another system"  # told by MMP (multihost), which alone knows that it is so now


@dataclass(frozen=True, slots=True)
class Member:
    """One line of a pool's layout. `depth` 0 is the pool, 1 a top-level vdev; leaves are devices by their last name."""

    name: str
    state: str
    depth: int
    is_leaf: bool


@dataclass(frozen=True, slots=True)
class Importable:
    """A pool that `zpool import` sees on the disks and that is not imported here."""

    name: str
    guid: str
    state: str
    status: str  # a sentence, or empty: nothing to say
    action: str
    members: tuple[Member, ...]

    @property
    def devices(self) -> tuple[str, ...]:
        return tuple(member.name for member in self.members if member.is_leaf and member.depth > 0)


def parse_importable(text: str) -> list[Importable]:
    """The output of `zpool import` without a pool. Raises ValueError when it is not that."""
    return [_importable(block) for block in _blocks(text)]


def trouble(pool: Importable) -> str:
    """Why it could not be imported by force, a sentence; empty when it could.

    That another system has it imported is none: fencing comes before the import, and `-f` overrides the rest.
    """
    if _ELSEWHERE in pool.status:
        possible = all(member.state in _GOOD for member in pool.members if member.depth == 1)
    else:
        possible = pool.state in _GOOD and "cannot be imported" not in pool.action
    if possible:
        return ""
    missing = [member.name for member in pool.members if member.is_leaf and member.state not in _GOOD]
    named = f" Not usable: {', '.join(missing)}." if missing else ""
    why = pool.status or pool.action or "zpool import does not say why."
    return f"{pool.name}: {pool.state}: {why}{named}"


def parse_devices(status: str) -> tuple[str, ...]:
    """The devices ("/dev/sda1") and files of `zpool status -LP POOL`; lost ones, shown by number, are left out."""
    first = [line.split()[0] for line in status.splitlines() if line.startswith("\t") and line.strip()]
    return tuple(name for name in first if name.startswith("/"))


def parse_table(text: str, columns: int) -> list[list[str]]:
    """Rows of `-H -p` output: tabs between columns. Raises ValueError for a row of another width."""
    rows = [line.split("\t") for line in text.splitlines() if line]
    for row in rows:
        if len(row) != columns:
            raise ValueError(f"{columns} columns were asked for, not {row!r}")
    return rows


def parse_datasets(text: str) -> list[Dataset]:
    """Rows of `zfs list -H -p -o DATASET_COLUMNS` that have a key of their own, or should be mounted and are not."""
    datasets = []
    for name, kind, canmount, mountpoint, mounted, root, keystatus, keyformat, keylocation in parse_table(text, 9):
        locked = keystatus == "unavailable"
        mountable = kind == "filesystem" and canmount == "on" and mountpoint.startswith("/")
        dataset = Dataset(
            name=name,
            has_key=root == name,
            locked=locked,
            unmounted=mountable and mounted == "no" and not locked,
            key_format=keyformat if root == name else "",
            key_location=keylocation if root == name else "",
        )
        if dataset.has_key or dataset.unmounted:
            datasets.append(dataset)
    return datasets


def parse_version(text: str) -> tuple[int, int]:
    """(2, 1) of `zpool version`: "zfs-2.1.11-1", then the module's. The lower of both counts. Raises ValueError."""
    found = [(int(major), int(minor)) for major, minor in re.findall(r"^zfs-(?:kmod-)?(\d+)\.(\d+)", text, re.M)]
    if not found:
        raise ValueError(f"no version in {text!r}")
    return min(found)


def _blocks(text: str) -> Iterator[list[str]]:
    """The lines of one pool each."""
    block: list[str] = []
    for line in text.splitlines():
        field = _FIELD.fullmatch(line)
        if field is not None and field[1] == "pool":
            if block:
                yield block
            block = []
        elif not block and line.strip():
            raise ValueError(f"not a list of pools: {line!r}")
        if line.strip():
            block.append(line)
    if block:
        yield block


def _importable(lines: Sequence[str]) -> Importable:
    fields: dict[str, str] = {}
    layout: list[str] = []
    last = ""
    for line in lines:
        field = _FIELD.fullmatch(line)
        if field is not None:
            last = field[1]
            fields[last] = field[2].strip()
        elif last == "config":
            layout.append(line)
        else:
            fields[last] = f"{fields[last]} {line.strip()}"
    if not fields.get("id", "").isdecimal() or "state" not in fields:
        raise ValueError(f"a pool without id or state: {fields!r}")
    return Importable(
        name=fields["pool"],
        guid=fields["id"],
        state=fields["state"],
        status=" ".join(fields.get("status", "").split()),
        action=" ".join(fields.get("action", "").split()),
        members=tuple(_members(layout)),
    )


def _members(layout: Sequence[str]) -> Iterator[Member]:
    rows = [match for line in layout if (match := _MEMBER.fullmatch(line))]
    depths = [len(row[1]) // 2 for row in rows]
    for row, depth, below in zip(rows, depths, [*depths[1:], 0], strict=True):
        yield Member(row[2], row[3], depth, below <= depth)
