"""middlewared's side of `fenced`: ports.Fencing over its socket."""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from middlewared.lines import LineClient, LineError, LineLost
from middlewared.plugins.fencing import watchdog
from middlewared.plugins.fencing.sources import in_lab, real_source_of
from middlewared.ports import (
    DiskRehearsal,
    FenceCode,
    FenceRehearsal,
    FenceResult,
    FenceState,
    Finding,
    Listener,
    PortError,
)
from middlewared.settings import Settings, SettingsError

log = logging.getLogger(__name__)

RETRY_MS_MIN = 20
RETRY_MS_MAX = 500
ACQUIRE_MS_MAX = 4_000  # below the failover engine's own deadline for the phase
RELEASE_MS_MAX = 4_000
FORGET_MS_MAX = 4_000
REHEARSE_MS_MAX = 4_000
STATE_MS_MAX = 1_500  # the keeper answers late while it proves its reservations after lost time
LOOK_MS = 500  # between questions to a keeper that says nothing: one that hangs keeps its socket open


class FencedDriver:
    """Follows the keeper's state by its events; reconnects for ever, the wait between tries growing to RETRY_MS_MAX."""

    def __init__(self, socket: Path, settings: Settings | None = None) -> None:
        """`settings`: this controller's, for `examine` to know which disks and which watchdog are meant."""
        self._socket = socket
        self._settings = settings
        self._client = LineClient(socket, self._on_event, self._on_lost)
        self._state = FenceState()
        self._listeners: list[Listener] = []
        self._lost = asyncio.Event()
        self._connecting: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Tries to connect once before it returns; goes on in the background."""
        await self._connect()
        self._connecting = asyncio.create_task(self._stay_connected())

    async def stop(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        await self._client.close()
        self._set(FenceState())

    def state(self) -> FenceState:
        return self._state

    def on_change(self, listener: Listener) -> None:
        self._listeners.append(listener)

    async def acquire(self, *, force: bool) -> FenceResult:
        answer = await self._call("acquire", ACQUIRE_MS_MAX, force=force)
        await self._refresh()
        return FenceResult(FenceCode(answer["code"]), str(answer["message"]))

    async def held(self) -> bool:
        await self._refresh()
        return self._state.held

    async def release(self) -> None:
        """A keeper that dies meanwhile is started again: the new one is asked, and what the old one did is no harm."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RELEASE_MS_MAX / 1000):
                while not await self._released():
                    await self._running()
                return
        raise PortError("the keeper of the reservations (fenced) is not running, or did not answer")

    async def _released(self) -> bool:
        """False: the connection ended before the answer came."""
        try:
            answer = await self._client.call("release", RELEASE_MS_MAX)
        except LineLost:
            return False
        except LineError as error:
            raise PortError(f"the keeper of the reservations (fenced) refused: {error.message}") from error
        await self._refresh()
        if answer["code"] != FenceCode.OK:
            raise PortError(f"the reservations were not all given up: {answer['message']}")
        return True

    async def _running(self) -> None:
        """Until the keeper answers again."""
        changed = asyncio.Event()
        self._listeners.append(changed.set)
        try:
            while not (self._client.connected and self._state.running):
                changed.clear()
                await changed.wait()
        finally:
            self._listeners.remove(changed.set)

    async def forget(self, serials: Sequence[str]) -> None:
        await self._call("forget", FORGET_MS_MAX, serials=list(serials))
        await self._refresh()

    async def rehearse(self) -> FenceRehearsal:
        return _rehearsal_of(await self._call("rehearse", REHEARSE_MS_MAX))

    async def run_info(self) -> dict[str, Any]:
        """The keeper's own view, for an administrator. Raises PortError."""
        info = await self._call("run_info", STATE_MS_MAX)
        return dict(info)

    async def examine(self) -> Sequence[Finding]:
        """Whether the keeper answers; then the disks and the watchdog that the settings mean (ports.Driver)."""
        found = [await self._examine_keeper()]
        if self._settings is None or in_lab(self._settings):
            return found
        try:
            found += await real_source_of(self._settings).examine()
        except SettingsError as error:
            found.append(Finding("shared disks", False, str(error), "correct the settings file"))
        return [*found, watchdog.examine(self._settings.fence.watchdog)]

    async def _examine_keeper(self) -> Finding:
        """By a connection of its own, so that it works before `start`."""
        client = LineClient(self._socket)
        try:
            await client.connect()
            info = await client.call("run_info", STATE_MS_MAX)
        except LineError as error:
            return Finding("fenced", False, f"does not answer: {error.message}", "systemctl status fenced")
        finally:
            await client.close()
        held = "holds the disks" if info["held"] else "holds nothing"
        return Finding("fenced", True, f"runs (process {info['pid']}), and {held}")

    async def _call(self, op: str, timeout_ms: int, **args: Any) -> Any:
        try:
            return await self._client.call(op, timeout_ms, **args)
        except LineLost as error:
            raise PortError(f"the keeper of the reservations (fenced) did not answer: {error.message}") from error
        except LineError as error:
            raise PortError(f"the keeper of the reservations (fenced) refused: {error.message}") from error

    async def _refresh(self) -> None:
        """Events and answers may cross; after a request the state is as new as the answer."""
        self._set(_state_of(await self._call("state", STATE_MS_MAX)))

    async def _connect(self) -> None:
        """Connect if need be, and learn the state; without both, it stays `running=False`."""
        try:
            if not self._client.connected:
                self._lost.clear()
                await self._client.connect()
            await self._refresh()
        except (LineError, PortError) as error:
            log.debug("fenced: %s", error)
            self._set(FenceState())

    async def _stay_connected(self) -> None:
        wait_ms = RETRY_MS_MIN
        while True:
            if self._client.connected and self._state.running:
                wait_ms = RETRY_MS_MIN
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_MS / 1000):
                        await self._lost.wait()
            await asyncio.sleep(wait_ms / 1000)
            wait_ms = min(wait_ms * 2, RETRY_MS_MAX)
            await self._connect()

    def _on_event(self, event: str, data: Any) -> None:
        if event == "state":
            self._set(_state_of(data))

    def _on_lost(self) -> None:
        self._lost.set()
        self._set(FenceState())

    def _set(self, state: FenceState) -> None:
        if state != self._state:
            self._state = state
            for listener in self._listeners:
                listener()


def _rehearsal_of(data: dict[str, Any]) -> FenceRehearsal:
    result = FenceResult(FenceCode(data["result"]["code"]), str(data["result"]["message"]))
    disks = [DiskRehearsal(**{**row, "unexpected": tuple(row["unexpected"])}) for row in data["disks"]]
    return FenceRehearsal(result, tuple(disks))


def _state_of(data: dict[str, Any]) -> FenceState:
    return FenceState(**{**data, "disks_failed": tuple(data["disks_failed"])})
