"""The heartbeat cable: TCP on 127.0.20.1 and .2, relayed to the daemon's own socket on the controller at that end.

A cut cable holds what is under way, as TCP does by sending again; healing delivers it. A controller that loses power
says no goodbye: its connections fall silent, and are reset only when it has booted again.
"""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

from middlewared.lab.places import HEARTBEAT_ADDRESS, PORT_HEARTBEAT, LabError, other

_CONNECTIONS_MAX = 64
_CHUNK_BYTES = 1 << 16
_DEATH_NOTICED_S = 0.05  # a connection's end may be seen before its process's
_SILENCE_MAX_S = 600.0


class Cable:
    """`sockets[node]` is where that controller's daemon listens."""

    def __init__(self, sockets: dict[str, Path], *, addresses: dict[str, str] = HEARTBEAT_ADDRESS) -> None:
        self._sockets = sockets
        self._addresses = addresses
        self._servers: list[asyncio.Server] = []
        self._relays: set[asyncio.Task[None]] = set()
        self._connected = asyncio.Event()
        self._connected.set()
        self._powered = {node: asyncio.Event() for node in sockets}

    @property
    def whole(self) -> bool:
        return self._connected.is_set()

    async def start(self, port: int = PORT_HEARTBEAT) -> None:
        """Raises LabError when an address is in use."""
        for node, address in self._addresses.items():
            try:
                server = await asyncio.start_server(self._acceptor(node), address, port)
            except OSError as error:
                await self.stop()
                raise LabError(f"{address}:{port} cannot be used: another lab or another program has it") from error
            self._servers.append(server)

    async def stop(self) -> None:
        for server in self._servers:
            server.close()
        for relay in self._relays:
            relay.cancel()
        await asyncio.gather(*self._relays, return_exceptions=True)

    def cut(self) -> None:
        self._connected.clear()

    def heal(self) -> None:
        self._connected.set()

    def power(self, node: str, on: bool) -> None:
        if on:
            self._powered[node].set()
        else:
            self._powered[node].clear()

    def _acceptor(self, node: str) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if len(self._relays) >= _CONNECTIONS_MAX:
                writer.transport.abort()
                return
            relay = asyncio.create_task(self._relay(node, reader, writer))
            self._relays.add(relay)
            relay.add_done_callback(self._relays.discard)

        return accept

    async def _relay(self, node: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection from the other controller to `node`."""
        far: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(_SILENCE_MAX_S):  # nobody answers while there is no way to the other end
                await self._powered[node].wait()
                await self._connected.wait()
            far_reader, far = await asyncio.open_unix_connection(str(self._sockets[node]))
            pumps = {
                asyncio.create_task(self._pump(reader, far)): other(node),
                asyncio.create_task(self._pump(far_reader, writer)): node,
            }
            await self._until_over(pumps)
        except (OSError, TimeoutError):
            pass  # the far end refuses or is gone: the near one sees its connection end
        finally:
            for end in (writer, far):
                if end is not None:
                    end.transport.abort()

    async def _until_over(self, pumps: dict[asyncio.Task[None], str]) -> None:
        """Return when the connection's end has become visible to the side that is still there."""
        try:
            done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(_DEATH_NOTICED_S)
            silent = [pumps[pump] for pump in done if not self._powered[pumps[pump]].is_set()]
            alive = [pump for pump in pumps if pump not in done]
            if silent and alive:
                booted = asyncio.create_task(self._powered[silent[0]].wait())
                await asyncio.wait([booted, *alive], timeout=_SILENCE_MAX_S, return_when=asyncio.FIRST_COMPLETED)
                booted.cancel()
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Bytes one way until its source ends. A sink that has gone swallows them: no answer is no news."""
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(_CHUNK_BYTES):
                await self._connected.wait()
                if writer.is_closing():
                    continue
                writer.write(data)
                with contextlib.suppress(ConnectionError):
                    await writer.drain()
        await self._connected.wait()  # a goodbye needs the cable too
