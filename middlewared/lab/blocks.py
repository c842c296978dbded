"""Blocks on the shelf's disks, as a kernel's disk driver reads and writes them."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from middlewared.lines import LineClient, LineError
from middlewared.plugins.fencing import scsi

_ATTENTIONS_MAX = 4  # unit attentions stack; each hides the answer once
COMMAND_TIMEOUT_MS = 1000
_CONNECT_ATTEMPTS_MAX = 50
_CONNECT_PAUSE_S = 0.1


class BlockError(Exception):
    """The disk refused or does not answer."""


class ReservationConflict(BlockError):
    """Somebody else holds the disk."""


@dataclass(frozen=True, slots=True)
class Lun:
    """A disk that this controller sees."""

    number: int
    serial: str
    size_bytes: int


class BlockDevices:
    """One controller's connection to the shelf. `on_luns` is called when the set of visible disks changes."""

    def __init__(self, shelf: Path, on_luns: Callable[[], None]) -> None:
        self._on_luns = on_luns
        self._client = LineClient(shelf, self._on_event)
        self.luns: tuple[Lun, ...] = ()

    async def start(self) -> None:
        """Connect and see which disks there are. Raises LineError when the shelf is not there."""
        for attempt in range(_CONNECT_ATTEMPTS_MAX):
            try:
                await self._client.connect()
                break
            except LineError:
                if attempt + 1 == _CONNECT_ATTEMPTS_MAX:
                    raise
                await asyncio.sleep(_CONNECT_PAUSE_S)
        await self.look()

    async def stop(self) -> None:
        await self._client.close()

    async def look(self) -> None:
        """Ask for the visible disks; with the cable cut there are none."""
        try:
            rows = await self._client.call("luns", timeout_ms=COMMAND_TIMEOUT_MS)
        except LineError:
            rows = []
        self._see(rows)

    async def read(self, lun: int, lba: int, blocks: int = 1) -> bytes:
        reply = await self._command(lun, scsi.read_10(lba, blocks))
        return reply.data

    async def write(self, lun: int, lba: int, data: bytes) -> None:
        """Write whole blocks. Raises ReservationConflict, BlockError."""
        await self._command(lun, scsi.write_16(lba, len(data) // scsi.BLOCK_BYTES), data)

    async def _command(self, lun: int, cdb: bytes, data: bytes = b"") -> scsi.Reply:
        for _ in range(_ATTENTIONS_MAX):
            reply = await self._send(lun, cdb, data)
            sense = scsi.parse_sense(reply.sense)
            if reply.status == scsi.Status.GOOD:
                return reply
            if reply.status == scsi.Status.RESERVATION_CONFLICT:
                raise ReservationConflict(f"disk {lun}: reservation conflict")
            if sense is None or not sense.unit_attention:
                break
        raise BlockError(f"disk {lun}: {scsi.explain(reply)}")

    async def _send(self, lun: int, cdb: bytes, data: bytes) -> scsi.Reply:
        try:
            answer = await self._client.call(
                "scsi",
                timeout_ms=COMMAND_TIMEOUT_MS,
                lun=lun,
                cdb=cdb.hex(),
                data=data.hex(),
            )
        except LineError as error:
            raise BlockError(f"disk {lun}: {error.message}") from error
        return scsi.Reply(answer["status"], bytes.fromhex(answer["sense"]), bytes.fromhex(answer["data"]))

    def _on_event(self, event: str, data: Any) -> None:
        if event == "luns":
            self._see(data)

    def _see(self, rows: list[dict[str, Any]]) -> None:
        luns = tuple(
            sorted((Lun(row["lun"], row["serial"], row["size_bytes"]) for row in rows), key=lambda x: x.number)
        )
        if luns != self.luns:
            self.luns = luns
            self._on_luns()
