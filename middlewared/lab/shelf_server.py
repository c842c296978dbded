"""The shelf on unix sockets, one a controller, and what can go wrong between them and the disks.

Operations on each socket (middlewared.lines): `scsi {lun, cdb, data, wait_ms}` → {status, sense, data}, bytes in hex;
`wait_ms` is how long the caller means to wait; `luns` → [{lun, serial, size_bytes}]; `lun_reset {lun, wait_ms}`. Event
`luns` when that controller sees other disks than before.
"""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

from middlewared.lab.shelf import QueuedWrite, Shelf
from middlewared.lines import LineConnection, LineError, LineServer
from middlewared.plugins.fencing.scsi import Reply

NODES = ("a", "b")
FLUSH_MS = 200
_TIMEOUT_MS = 5000  # of a caller that names none
_TIMEOUT_MS_MAX = 60_000


class ShelfServer:
    """Serves `shelf` at directory/shelf-a.sock and directory/shelf-b.sock.

    `write_latency_ms` is how long an accepted write waits in the disk's queue before it lands.
    """

    def __init__(self, shelf: Shelf, directory: Path, *, write_latency_ms: int = 0) -> None:
        self.shelf = shelf
        self.write_latency_ms = write_latency_ms
        self._directory = directory
        self._servers = {node: self._server(node) for node in NODES}
        self._cut: set[str] = set()
        self._pulled: set[tuple[str, int]] = set()
        self._hung: set[int] = set()
        self._flushing: asyncio.Task[None] | None = None

    def socket(self, node: str) -> Path:
        return self._directory / f"shelf-{node}.sock"

    async def start(self) -> None:
        for node, server in self._servers.items():
            await server.start(self.socket(node))
        self._flushing = asyncio.create_task(self._flush())

    async def stop(self) -> None:
        for server in self._servers.values():
            await server.stop()
        if self._flushing is not None:
            self._flushing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._flushing
        self.shelf.log.close()

    # ------------------------------------------------------------------------------------------ faults

    def cut(self, node: str) -> None:
        """The controller's cable to the shelf is dead: commands vanish, and are not carried out after `heal` either."""
        self._cut.add(node)

    def heal(self, node: str) -> None:
        self._cut.discard(node)

    def pull(self, node: str, lun: int) -> None:
        """This controller does not see that disk any more (selection timeout)."""
        self._pulled.add((node, lun))
        self._servers[node].broadcast("luns", self.luns(node))

    def push(self, node: str, lun: int) -> None:
        self._pulled.discard((node, lun))
        self._servers[node].broadcast("luns", self.luns(node))

    def fail(self, lun: int) -> None:
        """The disk answers errors to both controllers."""
        self.shelf.fail(lun)

    def hang(self, lun: int) -> None:
        """The disk answers nobody."""
        self._hung.add(lun)

    def repair(self, lun: int) -> None:
        """End of `fail` and `hang`."""
        self._hung.discard(lun)
        self.shelf.repair(lun)

    def replace(self, lun: int) -> int:
        """The disk is taken out for good, and a blank one with another serial put in; returns its number."""
        new = self.shelf.replace(lun).lun
        self._hung.discard(lun)
        for node, server in self._servers.items():
            self._pulled.discard((node, lun))
            server.broadcast("luns", self.luns(node))
        return new

    def restart(self) -> None:
        self.shelf.restart()

    def power_off(self, node: str) -> None:
        """The controller lost power: what it had under way is dropped. Its registrations stay, as on real disks."""
        self.shelf.drop(node)

    def luns(self, node: str) -> list[dict[str, Any]]:
        """The disks that this controller sees."""
        return [
            {"lun": disk.lun, "serial": disk.serial, "size_bytes": disk.size_bytes}
            for disk in self.shelf.disks
            if (node, disk.lun) not in self._pulled
        ]

    # ------------------------------------------------------------------------------------------ serving

    def _server(self, node: str) -> LineServer:
        async def handle(connection: LineConnection, op: str, args: dict[str, Any]) -> Any:
            match op:
                case "scsi":
                    return await self._scsi(node, args)
                case "luns":
                    return self.luns(node)
                case "lun_reset":
                    return await self._lun_reset(node, args)
            raise LineError("EINVAL", f"no such operation: {op}")

        return LineServer(handle)

    async def _scsi(self, node: str, args: dict[str, Any]) -> dict[str, Any]:
        lun, timeout_ms = int(args["lun"]), _patience(args)
        cdb, data = bytes.fromhex(args["cdb"]), bytes.fromhex(args.get("data", ""))
        await self._reach(node, lun, timeout_ms)
        answer = self.shelf.submit(node, lun, cdb, data)
        reply: Reply | None
        if isinstance(answer, QueuedWrite):
            if self.write_latency_ms:
                await asyncio.sleep(self.write_latency_ms / 1000)
            reply = self.shelf.complete(answer)
        else:
            reply = answer
        if reply is None or node in self._cut:
            await self._swallow(timeout_ms)
            raise LineError("ENODEV", "aborted")
        return {"status": int(reply.status), "sense": reply.sense.hex(), "data": reply.data.hex()}

    async def _lun_reset(self, node: str, args: dict[str, Any]) -> None:
        lun = int(args["lun"])
        await self._reach(node, lun, _patience(args))
        self.shelf.lun_reset(node, lun)

    async def _reach(self, node: str, lun: int, timeout_ms: int) -> None:
        """Return if the disk hears this controller; otherwise the command is lost, here and now."""
        if node in self._cut or lun in self._hung:
            await self._swallow(timeout_ms)
            raise LineError("ENODEV", f"disk {lun} did not answer")
        if (node, lun) in self._pulled or lun not in self.shelf:
            raise LineError("ENODEV", f"disk {lun} is not there")

    async def _swallow(self, timeout_ms: int) -> None:
        """Outlast the caller's own timeout; then the request may be forgotten, so that the lost do not pile up."""
        await asyncio.sleep(timeout_ms * 2 / 1000)

    async def _flush(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_MS / 1000)
            self.shelf.log.flush()


def _patience(args: dict[str, Any]) -> int:
    """How long the caller waits, ms. (`timeout_ms` is the same, for callers whose client leaves that name free.)"""
    return min(int(args.get("wait_ms") or args.get("timeout_ms") or _TIMEOUT_MS), _TIMEOUT_MS_MAX)
