"""`fenced`: the process that keeps the reservations, and resets its controller when it lost them.

    python -m middlewared.plugins.fencing.keeper --config FILE

Runs on both controllers from boot, apart from middlewared, which may die without moving anything (S5). Serves JSON
lines (middlewared.lines) at fence.socket: `state`, `acquire {force}`, `release`, `forget {serials}`, `rehearse`,
`run_info`; event `state` when it changed. Exits with a FenceCode: 0 told to end, 5 unexpected, 6 another one runs
already.
"""

import argparse
import asyncio
import fcntl
import logging
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from middlewared.lines import LineConnection, LineError, LineServer
from middlewared.plugins.fencing.guard import Guard
from middlewared.plugins.fencing.hardening import harden
from middlewared.plugins.fencing.logic import HOST_IDS
from middlewared.plugins.fencing.memory import FileMemory, Memory
from middlewared.plugins.fencing.reset import ConsoleReset, Reset
from middlewared.plugins.fencing.sources import in_lab, source_of
from middlewared.plugins.fencing.transport import DiskSource
from middlewared.plugins.fencing.watchdog import Watchdog
from middlewared.ports import FenceCode, FenceState, PortError
from middlewared.settings import Settings, SettingsError, load
from middlewared.sysrq import Sysrq

log = logging.getLogger("fenced")


class Keeper:
    """The guard, and its door: nothing that arrives is answered before the guard says what it believes is proven."""

    def __init__(self, settings: Settings, source: DiskSource, reset: Reset, memory: Memory) -> None:
        self._socket = Path(settings.fence.socket)
        self._server = LineServer(self._handle)
        self.guard = Guard(
            settings.fence,
            settings.fence.host_id or HOST_IDS[settings.node],
            source,
            memory=memory,
            reset=reset.reset,
            publish=self._publish,
        )

    async def start(self) -> None:
        await self.guard.start()
        await self._server.start(self._socket)

    async def stop(self) -> None:
        await self._server.stop()
        await self.guard.stop()

    def _publish(self, state: FenceState) -> None:
        self._server.broadcast("state", asdict(state))

    async def _handle(self, connection: LineConnection, op: str, args: dict[str, Any]) -> Any:
        await self.guard.ready()
        match op:
            case "state":
                return asdict(self.guard.state())
            case "acquire":
                result = await self.guard.acquire(force=bool(args["force"]))
                return {"code": int(result.code), "message": result.message}
            case "release":
                result = await self.guard.release()
                return {"code": int(result.code), "message": result.message}
            case "forget":
                return sorted(await self.guard.forget([str(serial) for serial in args["serials"]]))
            case "rehearse":
                return asdict(await self.guard.rehearse())
            case "run_info":
                return {"pid": os.getpid(), **self.guard.run_info()}
        raise LineError("EINVAL", f"no such operation: {op}")


def _reset(settings: Settings) -> Reset:
    if in_lab(settings):
        return ConsoleReset(Path(settings.machine).parent)
    sysrq = Sysrq("fenced")
    sysrq.prepare()
    return sysrq


async def _serve(settings: Settings) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    memory = FileMemory(Path(settings.run_dir) / "fenced.json")
    keeper = Keeper(settings, source_of(settings), _reset(settings), memory)
    if settings.drivers != "simulated":
        harden(realtime=settings.fence.realtime)
    await keeper.start()
    watchdog = Watchdog(settings.fence.watchdog, settings.fence.watchdog_timeout_s, keeper.guard.trustworthy)
    await watchdog.start()
    log.info("ready")
    told = asyncio.create_task(ended.wait())
    running = asyncio.create_task(keeper.guard.wait())
    await asyncio.wait([told, running], return_when=asyncio.FIRST_COMPLETED)
    told.cancel()
    await watchdog.stop(disarm=not keeper.guard.state().held)
    await keeper.stop()
    if not ended.is_set():
        await running  # raises what ended it
        raise RuntimeError("this controller should have been reset")


def _lock(settings: Settings) -> IO[str] | None:
    """The lock of the only keeper, held until the process ends; None when another one has it."""
    path = Path(settings.fence.socket).with_suffix(".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def main(arguments: list[str] | None = None) -> FenceCode:
    """Run until told to end (SIGTERM, SIGINT). Reservations are not given up by that."""
    parser = argparse.ArgumentParser(prog="fenced", description="keeps the reservations on the shared disks")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="middlewared's settings file")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s fenced %(levelname)s %(message)s")
    try:
        settings = load(options.config)
        lock = _lock(settings)
        if lock is None:
            log.error("another fenced of this controller runs already")
            return FenceCode.ALREADY_RUNNING
        with lock:
            asyncio.run(_serve(settings))
    except (SettingsError, PortError, OSError) as error:
        log.error("%s", error)
        return FenceCode.UNEXPECTED
    except Exception:
        log.exception("fenced ends")
        return FenceCode.UNEXPECTED
    return FenceCode.OK


if __name__ == "__main__":
    sys.exit(main())
