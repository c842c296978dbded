"""The simulated drivers' common connection to their machine (DIR/<node>/machine.sock, see middlewared.lab.machine)."""

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import Any

from middlewared.lines import LineClient, LineError, LineLost
from middlewared.ports import Listener, PortError

log = logging.getLogger(__name__)

_CONNECT_PAUSE_S = 0.05
_CONNECT_ATTEMPTS_MAX = 100
_STATE_TIMEOUT_MS = 10_000
_CALL_TIMEOUT_MS = 10_000


class SimulatedMachine:
    """Keeps `state`, the machine's last word about itself, and tells listeners which part of it changed.

    A lost connection is tried again for a while: calls raise PortError meanwhile. A machine that does not come back
    has taken us with it: we are in its process group.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state: dict[str, Any] = {}
        self._client: LineClient | None = None
        self._listeners: dict[str, list[Listener]] = {}
        self._reconnecting: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect and fetch the state. Raises PortError when there is no machine."""
        for attempt in range(1, _CONNECT_ATTEMPTS_MAX + 1):
            try:
                await self._connect()
                return
            except LineError as error:
                if attempt == _CONNECT_ATTEMPTS_MAX:
                    raise PortError(f"the simulated machine does not answer: {error.message}") from error
                await asyncio.sleep(_CONNECT_PAUSE_S)

    async def stop(self) -> None:
        if self._reconnecting is not None:
            self._reconnecting.cancel()
            await asyncio.gather(self._reconnecting, return_exceptions=True)
        if self._client is not None:
            await self._client.close()

    def on_change(self, part: str, listener: Listener) -> None:
        """Call the listener whenever this top-level part of the state has changed."""
        self._listeners.setdefault(part, []).append(listener)

    async def call(self, op: str, *, timeout_ms: int = _CALL_TIMEOUT_MS, **args: Any) -> Any:
        """One operation of the machine. Raises PortError when it refuses, is gone, or takes too long."""
        if self._client is None:
            raise PortError(f"{op}: the simulated machine is gone")
        try:
            return await self._client.call(op, timeout_ms=timeout_ms, **args)
        except LineLost as error:
            raise PortError(f"{op}: the simulated machine did not answer: {error.message}") from error
        except LineError as error:
            raise PortError(error.message) from error

    async def _connect(self) -> None:
        client = LineClient(self.path, self._on_event, self._on_lost)
        await client.connect()
        self._client = client
        self._take(await client.call("state", timeout_ms=_STATE_TIMEOUT_MS))

    def _on_event(self, event: str, data: Any) -> None:
        if event == "state":
            self._take(data)

    def _take(self, parts: dict[str, Any]) -> None:
        changed = [part for part, value in parts.items() if self.state.get(part) != value]
        self.state.update(parts)
        for part in changed:
            for listener in self._listeners.get(part, []):
                listener()

    def _on_lost(self) -> None:
        self._client = None
        log.warning("the simulated machine has closed the connection")
        self._reconnecting = asyncio.get_running_loop().create_task(self._reconnect())

    async def _reconnect(self) -> None:
        with contextlib.suppress(PortError):
            await self.start()
