"""`zpool` and `zfs`, run with deadlines: each function one command, each answer parsed. Raises PortError."""

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from middlewared import programs
from middlewared.plugins.pool import listing
from middlewared.plugins.pool.listing import Importable
from middlewared.ports import Dataset, PortError

T = TypeVar("T")

_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
_MOVE_TIMEOUT_MS = 3_600_000  # import and export: the caller sets the real deadline; this one bounds what it forgot
_COMPLAINT_LINES_MAX = 3


@dataclass(frozen=True, slots=True)
class Size:
    size_bytes: int
    allocated_bytes: int


@dataclass(frozen=True, slots=True)
class ZfsCommands:
    """The two programs, and where they look for disks. `timeout_ms` is for what only asks.

    `quick_ms` is for the questions that the list of imported pools waits for.
    """

    zpool: str = "zpool"
    zfs: str = "zfs"
    devices: str = (
        "/dev/disk/by-id"  # searched where it exists; names that stay the same whatever the order of discovery
    )
    altroot: str = "/mnt"
    timeout_ms: int = 15_000
    quick_ms: int = 3_000
    scan_ms: int = 25_000  # reads the labels of all disks; twice that is less than a plugin may take to start

    # ------------------------------------------------------------------------------------------ asking

    async def importable(self) -> list[Importable]:
        """Pools on the disks that are not imported here: reads the labels of all disks, writes nothing."""
        command = (self.zpool, "import", *self._searched())
        ended = await self._run(*await asyncio.to_thread(_each_device_once, command), timeout_ms=self.scan_ms)
        if listing.NOTHING_TO_IMPORT in ended.stderr + ended.stdout:
            return []
        if ended.status != 0:
            raise PortError(_complaint(command, ended))
        return _parsed(command, listing.parse_importable, ended.stdout)

    async def sizes(self) -> dict[str, Size]:
        """By guid, of every imported pool."""
        command = (self.zpool, "list", "-H", "-p", "-o", "guid,size,allocated")
        text = await self._output(*command)

        def parse(text: str) -> dict[str, Size]:
            rows = listing.parse_table(text, 3)
            return {guid: Size(int(size), int(allocated)) for guid, size, allocated in rows if size != "-"}

        return _parsed(command, parse, text)

    async def guid_of(self, pool: str) -> str:
        [guid] = await self.properties(pool, "guid", timeout_ms=self.quick_ms)
        return guid

    async def properties(self, pool: str, *names: str, timeout_ms: int = 0) -> list[str]:
        """Values of properties of an imported pool, in the order asked for."""
        command = (self.zpool, "get", "-H", "-p", "-o", "property,value", ",".join(names), pool)
        text = await self._output(*command, timeout_ms=timeout_ms)
        rows = _parsed(command, lambda text: dict(listing.parse_table(text, 2)), text)
        if missing := [name for name in names if name not in rows]:
            raise PortError(f"`{' '.join(command)}` does not tell {', '.join(missing)}")
        return [rows[name] for name in names]

    async def devices_of(self, pool: str) -> tuple[str, ...]:
        """Real device nodes of an imported pool: "/dev/sda1", "/dev/dm-3"."""
        text = await self._output(self.zpool, "status", "-LP", pool, timeout_ms=self.quick_ms)
        return listing.parse_devices(text)

    async def datasets(self, pool: str) -> list[Dataset]:
        """What needs a key of its own, or is not mounted as it should be."""
        command = (self.zfs, "list", "-H", "-p", "-r", "-t", "filesystem,volume", "-o", listing.DATASET_COLUMNS, pool)
        return _parsed(command, listing.parse_datasets, await self._output(*command))

    async def version(self) -> tuple[int, int]:
        """The lower of tools' and module's: (2, 1)."""
        return _parsed((self.zpool, "version"), listing.parse_version, await self._output(self.zpool, "version"))

    # ------------------------------------------------------------------------------------------ changing

    async def import_pool(self, guid: str) -> str:
        """Import by force and mount. Returns the complaint, empty when there is none: a pool may be imported all the
        same, with some dataset not mounted.

        cachefile=none, so that no boot imports it again on its own: only who holds the reservations may. Cancelling
        kills the program, but not the kernel at work in its name: see kernel.py.
        """
        where = ("-o", "cachefile=none", "-R", self.altroot)
        command = (self.zpool, "import", "-f", *where, *self._searched(), guid)
        ended = await self._run(*await asyncio.to_thread(_each_device_once, command), timeout_ms=_MOVE_TIMEOUT_MS)
        return "" if ended.status == 0 else _complaint(command, ended)

    async def export_pool(self, pool: str, *, force: bool) -> str:
        """Returns the complaint, empty when there is none. Cancelling does not stop the kernel."""
        command = (self.zpool, "export", *(("-f",) if force else ()), pool)
        ended = await self._run(*command, timeout_ms=_MOVE_TIMEOUT_MS)
        return "" if ended.status == 0 else _complaint(command, ended)

    async def load_key(self, dataset: str, key: bytes | None, *, only_check: bool = False) -> None:
        """Load a key: the given one (material.py), which goes through a pipe, or what keylocation leads to."""
        prompt = () if key is None else ("-L", "prompt")
        command = (self.zfs, "load-key", *(("-n",) if only_check else ()), *prompt, dataset)
        ended = await self._run(*command, stdin=key or b"")
        if ended.status != 0:
            raise PortError(_complaint(command, ended))

    async def mount_all(self) -> None:
        await self._output(self.zfs, "mount", "-a")

    # ------------------------------------------------------------------------------------------ running

    def _searched(self) -> Sequence[str]:
        return ("-d", self.devices) if Path(self.devices).is_dir() else ()

    async def _run(self, *command: str, timeout_ms: int = 0, stdin: bytes = b"") -> programs.Ended:
        environment = {**_ENVIRONMENT, "PATH": os.environ.get("PATH", _ENVIRONMENT["PATH"])}
        timeout_ms = timeout_ms or self.timeout_ms
        return await programs.run(*command, timeout_ms=timeout_ms, stdin=stdin, environment=environment)

    async def _output(self, *command: str, timeout_ms: int = 0) -> str:
        ended = await self._run(*command, timeout_ms=timeout_ms)
        if ended.status != 0:
            raise PortError(_complaint(command, ended))
        return ended.stdout


def _each_device_once(command: Sequence[str]) -> Sequence[str]:
    """The same search by one name of each device: there are up to five below by-id, and zpool would read them all.

    The last one in order is taken, wwn-… before scsi-…: the same on both controllers.
    """
    words = list(command)
    if "-d" not in words:
        return command
    at = words.index("-d")
    try:
        names = {link.resolve(): str(link) for link in sorted(Path(words[at + 1]).iterdir())}
    except OSError:
        return command
    searched = [word for name in sorted(names.values()) for word in ("-d", name)]
    return [*words[:at], *searched, *words[at + 2 :]] if searched else command


def _parsed(command: Sequence[str], parse: Callable[[str], T], text: str) -> T:
    try:
        return parse(text)
    except ValueError as error:
        raise PortError(f"`{' '.join(command)}` cannot be understood: {error}") from error


def _complaint(command: Sequence[str], ended: programs.Ended) -> str:
    """The first lines of what a program said; it never says a key."""
    lines = [line.strip() for line in (ended.stderr or ended.stdout).splitlines() if line.strip()]
    said = "; ".join(lines[:_COMPLAINT_LINES_MAX]) or f"exit status {ended.status}"
    return f"`{' '.join(command)}`: {said}"
