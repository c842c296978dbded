"""Unix sockets in memory: what the processes of one controller say to one another (middlewared.lines runs on them)."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.simulator.loop import Process, VirtualLoop


def _current() -> "Process":
    from tests.simulator.loop import PROCESS

    process = PROCESS.get()
    assert process is not None, "only a simulated process opens sockets"
    return process


class MemoryTransport(asyncio.Transport):
    """One end. Bytes arrive in the other process's next turn, in order; a frozen one finds them when it thaws."""

    def __init__(self, process: "Process", protocol: Any) -> None:
        super().__init__()
        self._process = process
        self._protocol = protocol
        self._closing = False
        self.other: MemoryTransport | None = None
        process.on_death.append(self._died)

    def write(self, data: Any) -> None:
        if not self._closing and self.other is not None:
            self.other.take(bytes(data))

    def take(self, data: bytes) -> None:
        self._process.call_soon(self._receive, data)

    def _receive(self, data: bytes) -> None:
        if not self._closing:
            self._protocol.data_received(data)

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        self._process.call_soon(self._protocol.connection_lost, None)
        self._tell_other()

    def abort(self) -> None:
        self.close()

    def _died(self) -> None:
        if not self._closing:
            self._closing = True
            self._tell_other()

    def _tell_other(self) -> None:
        other, self.other = self.other, None
        if other is not None:
            other._process.call_soon(other._ended)

    def _ended(self) -> None:
        """End of file: the other end is gone."""
        if not self._closing:
            self._closing = True
            self.other = None
            self._protocol.eof_received()
            self._protocol.connection_lost(None)

    def is_closing(self) -> bool:
        return self._closing

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    def get_protocol(self) -> Any:
        return self._protocol


class _Server:
    def __init__(self, close: Callable[[], None]) -> None:
        self._close = close

    def close(self) -> None:
        self._close()

    async def wait_closed(self) -> None: ...


class MemorySockets:
    """All listening sockets, by path."""

    def __init__(self, loop: "VirtualLoop") -> None:
        self._loop = loop
        self._listening: dict[str, tuple[Process, Any]] = {}

    def listen(self, factory: Any, path: str) -> _Server:
        process = _current()
        self._listening[path] = (process, factory)

        def close() -> None:
            if self._listening.get(path, (None,))[0] is process:
                del self._listening[path]

        process.on_death.append(close)
        return _Server(close)

    async def connect(self, factory: Any, path: str) -> tuple[MemoryTransport, Any]:
        """Raises ConnectionRefusedError; a frozen listener accepts, as a kernel's backlog does."""
        process = _current()
        await asyncio.sleep(0)
        if path not in self._listening:
            raise ConnectionRefusedError(f"nobody listens at {path}")
        server, server_factory = self._listening[path]
        protocol = factory()
        here = MemoryTransport(process, protocol)
        there = MemoryTransport(server, None)
        here.other, there.other = there, here
        server.call_soon(_accept, there, server_factory)
        protocol.connection_made(here)
        return here, protocol


def _accept(transport: MemoryTransport, factory: Any) -> None:
    protocol = factory()
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
