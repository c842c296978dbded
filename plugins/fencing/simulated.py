"""The simulated disks, as a controller reaches them: SCSI commands in JSON lines to the lab's shelf."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from middlewared.lines import LineClient, LineError
from middlewared.plugins.fencing.scsi import Reply
from middlewared.plugins.fencing.transport import Disk, TransportError

CONNECT_WAIT_MS = 1000  # start() waits so long for the first look at the disks
RETRY_MS_MIN = 20
RETRY_MS_MAX = 500


class ShelfTransport:
    """One disk of the shelf."""

    def __init__(self, client: LineClient, lun: int, serial: str, *, aborts: bool = True) -> None:
        self._client = client
        self._lun = lun
        self._serial = serial
        self.aborts = aborts

    @property
    def serial(self) -> str:
        return self._serial

    async def execute(self, cdb: bytes, data: bytes, timeout_ms: int) -> Reply:
        answer = await self._call("scsi", timeout_ms, lun=self._lun, cdb=cdb.hex(), data=data.hex())
        return Reply(answer["status"], bytes.fromhex(answer["sense"]), bytes.fromhex(answer["data"]))

    async def lun_reset(self, timeout_ms: int) -> None:
        await self._call("lun_reset", timeout_ms, lun=self._lun)

    async def _call(self, op: str, timeout_ms: int, **args: Any) -> Any:
        try:
            return await self._client.call(op, timeout_ms, wait_ms=timeout_ms, **args)
        except LineError as error:
            raise TransportError(f"{self._serial}: {error.message}") from error


class ShelfSource:
    """The disks of the shelf that this controller sees. Reconnects for ever; meanwhile nothing answers."""

    def __init__(self, socket: Path) -> None:
        self._client = LineClient(socket, self._on_event, self._on_lost)
        self._disks: dict[str, Disk] = {}
        self._nexus: dict[str, int] = {}
        self._listeners: list[Callable[[], None]] = []
        self._lost = asyncio.Event()
        self._seen = asyncio.Event()
        self._connecting: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns when the disks were seen, or after CONNECT_WAIT_MS without them; connecting then goes on."""
        self._connecting = asyncio.create_task(self._stay_connected())
        try:
            async with asyncio.timeout(CONNECT_WAIT_MS / 1000):
                await self._seen.wait()
        except TimeoutError:
            return

    async def stop(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        await self._client.close()

    def disks(self) -> Mapping[str, Disk]:
        return self._disks

    def on_change(self, listener: Callable[[], None]) -> None:
        self._listeners.append(listener)

    async def _stay_connected(self) -> None:
        wait_ms = RETRY_MS_MIN
        while True:
            self._lost.clear()
            try:
                await self._client.connect()
                self._see(await self._client.call("luns"))
                wait_ms = RETRY_MS_MIN
                await self._lost.wait()
            except LineError:
                await asyncio.sleep(wait_ms / 1000)
                wait_ms = min(wait_ms * 2, RETRY_MS_MAX)

    def _see(self, rows: list[dict[str, Any]]) -> None:
        """Disks that were there before keep their objects: the keeper remembers by them what a path has registered.

        Unless the machine under us reaches them by another `nexus` than before (a session made anew).
        """
        self._disks = {row["serial"]: self._disk(row) for row in rows}
        self._seen.set()
        for listener in self._listeners:
            listener()

    def _disk(self, row: dict[str, Any]) -> Disk:
        serial, nexus = row["serial"], row.get("nexus", 0)
        before = self._disks.get(serial)
        if before is not None and self._nexus[serial] == nexus:
            return before
        self._nexus[serial] = nexus
        path = ShelfTransport(self._client, row["lun"], serial, aborts=bool(row.get("aborts", True)))
        return Disk(serial, (path,), bool(row.get("persists")))

    def _on_event(self, event: str, data: Any) -> None:
        if event == "luns":
            self._see(data)

    def _on_lost(self) -> None:
        self._lost.set()
