"""The iSCSI initiator of a controller's kernel, in user space: it owns the sessions, and whoever is above shares them.

The real kernel's sessions outlive every program, and so do these: fenced reaches the disks through the controller's own
process, over the same protocol as in the loopback lab (middlewared.lab.shelf_server); the pool, which is a part of that
process as of a kernel, without one.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from middlewared.lab.blocks import COMMAND_TIMEOUT_MS, BlockDevices, BlockError, Lun
from middlewared.lines import LineConnection, LineError, LineServer
from middlewared.plugins.fencing import scsi
from middlewared.plugins.fencing.iscsi import IscsiSource, IscsiTransport
from middlewared.plugins.fencing.scsi import Reply
from middlewared.plugins.fencing.transport import TransportError, command

_TIMEOUT_MS = 5_000  # of a caller that names none
_TIMEOUT_MS_MAX = 60_000
_CAPACITY_MS = 1_000


class Initiator:
    """Serves the disks behind a portal at `socket`. `on_luns` is given their rows when there are others than before."""

    def __init__(self, portal: str, name: str, socket: Path) -> None:
        self._source = IscsiSource([portal], name)
        self._socket = socket
        self._server = LineServer(self._handle)
        self.on_luns: Callable[[list[dict[str, Any]]], None] = lambda rows: None
        self._units: dict[int, IscsiTransport] = {}
        self._sizes: dict[str, int] = {}
        self._telling: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Raises PortError without libiscsi."""
        self._source.on_change(self._changed)
        await self._source.start()
        await self._server.start(self._socket)

    async def stop(self) -> None:
        if self._telling is not None:
            self._telling.cancel()
        await self._server.stop()
        await self._source.stop()

    def _changed(self) -> None:
        paths = [path for disk in self._source.disks().values() for path in disk.paths]
        # Unit 0 is the target's own.
        self._units = {path.lun - 1: path for path in paths if isinstance(path, IscsiTransport)}
        if self._telling is not None:
            self._telling.cancel()
        self._telling = asyncio.create_task(self._tell())

    async def _tell(self) -> None:
        rows = await self.luns()
        self._server.broadcast("luns", rows)
        self.on_luns(rows)

    async def _handle(self, connection: LineConnection, op: str, args: dict[str, Any]) -> Any:
        match op:
            case "luns":
                return await self.luns()
            case "scsi":
                cdb, data = bytes.fromhex(args["cdb"]), bytes.fromhex(args.get("data", ""))
                reply = await self.execute(int(args["lun"]), cdb, data, _patience(args))
                return {"status": int(reply.status), "sense": reply.sense.hex(), "data": reply.data.hex()}
            case "lun_reset":
                return await self.lun_reset(int(args["lun"]), _patience(args))
        raise LineError("EINVAL", f"no such operation: {op}")

    async def execute(self, lun: int, cdb: bytes, data: bytes, timeout_ms: int) -> Reply:
        """One command. Raises LineError."""
        try:
            return await self._unit(lun).execute(cdb, data, timeout_ms)
        except TransportError as error:
            raise LineError("ENODEV", str(error)) from error

    async def lun_reset(self, lun: int, timeout_ms: int) -> None:
        """Raises LineError."""
        try:
            await self._unit(lun).lun_reset(timeout_ms)
        except TransportError as error:
            raise LineError("ENODEV", str(error)) from error

    def _unit(self, lun: int) -> IscsiTransport:
        unit = self._units.get(lun)
        if unit is None:
            raise LineError("ENODEV", f"disk {lun} is not there")
        return unit

    async def luns(self) -> list[dict[str, Any]]:
        return [
            {
                "lun": lun,
                "serial": unit.serial,
                "size_bytes": await self._size(unit),
                "nexus": id(unit.session),
                "aborts": unit.aborts,
            }
            for lun, unit in sorted(self._units.items())
        ]

    async def _size(self, unit: IscsiTransport) -> int:
        """Asked once a disk; 0 as long as it does not answer."""
        if unit.serial not in self._sizes:
            try:
                reply = await command(unit, scsi.read_capacity_10(), timeout_ms=_CAPACITY_MS)
                blocks, block_bytes = scsi.parse_capacity(reply.data)
            except (TransportError, ValueError):
                return 0
            self._sizes[unit.serial] = blocks * block_bytes
        return self._sizes[unit.serial]


class Blocks(BlockDevices):
    """The disks as the kernel that this initiator is a part of sees them."""

    def __init__(self, initiator: Initiator, on_luns: Callable[[], None]) -> None:
        self._initiator = initiator
        self._on_luns = on_luns
        self.luns: tuple[Lun, ...] = ()

    async def start(self) -> None:
        self._initiator.on_luns = self._see
        await self.look()

    async def stop(self) -> None: ...

    async def look(self) -> None:
        self._see(await self._initiator.luns())

    async def _send(self, lun: int, cdb: bytes, data: bytes) -> Reply:
        try:
            return await self._initiator.execute(lun, cdb, data, COMMAND_TIMEOUT_MS)
        except LineError as error:
            raise BlockError(f"disk {lun}: {error.message}") from error


def _patience(args: dict[str, Any]) -> int:
    return min(int(args.get("wait_ms") or _TIMEOUT_MS), _TIMEOUT_MS_MAX)
