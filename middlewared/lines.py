"""Requests, replies and events as JSON lines over a unix socket.

How the processes of one controller talk: middlewared to its keeper (`fenced`), and in the labs to the simulated
machine and shelf. One line a message, at most LINE_BYTES_MAX:

    {"id": 7, "op": "import", "args": {"guid": "…"}}        request
    {"id": 7, "ok": <result>}                               reply
    {"id": 7, "error": {"code": "EBUSY", "message": "…"}}   reply
    {"event": "link", "data": {…}}                          event, server to client, at any time
"""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson

LINE_BYTES_MAX = 1 << 20
REQUESTS_MAX = 1024
UNSENT_BYTES_MAX = 4 << 20


class LineError(Exception):
    """The other side refused: a short code for the program, a message for a human."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class LineLost(LineError):
    """The other side is gone, or did not answer in time: what it did is unknown."""

    def __init__(self, message: str) -> None:
        super().__init__("LOST", message)


def _encode(message: dict[str, Any]) -> bytes:
    return orjson.dumps(message, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS)


class _Outbox:
    """Gathers the lines of one turn of the loop: a wave of requests to all disks costs one system call."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._lines: list[bytes] = []

    def put(self, message: dict[str, Any]) -> None:
        if not self._lines:
            asyncio.get_running_loop().call_soon(self.flush)
        self._lines.append(_encode(message))

    def flush(self) -> None:
        if self._lines and not self._writer.is_closing():
            self._writer.write(b"".join(self._lines))
        self._lines.clear()


def listening(path: Path) -> socket.socket:
    """A unix socket that only the owner may open, from its first moment on."""
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(path))
    path.chmod(0o600)
    listening.listen(128)
    return listening


class LineConnection:
    """The server's end of one connection; `name` is free for the server's use."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._outbox = _Outbox(writer)
        self.name = ""

    def send_event(self, event: str, data: Any) -> None:
        """Queue an event; a client that does not read is cut off rather than remembered for ever."""
        if self._writer.is_closing():
            return
        if self._writer.transport.get_write_buffer_size() > UNSENT_BYTES_MAX:
            self._writer.transport.abort()
            return
        self._outbox.put({"event": event, "data": data})

    def reply(self, message: dict[str, Any]) -> None:
        if not self._writer.is_closing():
            self._outbox.put(message)

    def close(self) -> None:
        """Send what is gathered, then end the connection."""
        self._outbox.flush()
        self._writer.close()


Handler = Callable[[LineConnection, str, dict[str, Any]], Awaitable[Any]]


class LineServer:
    """Serves `handler(connection, op, args)`; requests of one connection run concurrently."""

    def __init__(self, handler: Handler, on_closed: Callable[[LineConnection], None] | None = None) -> None:
        self._handler = handler
        self._on_closed = on_closed
        self._server: asyncio.Server | None = None
        self.connections: set[LineConnection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._readers: set[asyncio.Task[Any]] = set()

    async def start(self, path: Path) -> None:
        """Listen on a unix socket that only the owner may open. A stale file is replaced."""
        self._server = await asyncio.start_unix_server(self._serve, sock=listening(path), limit=LINE_BYTES_MAX)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in [*self._tasks, *self._readers]:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._readers, return_exceptions=True)

    def broadcast(self, event: str, data: Any) -> None:
        for connection in list(self.connections):
            connection.send_event(event, data)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = LineConnection(writer)
        self.connections.add(connection)
        me = asyncio.current_task()
        if me is not None:
            self._readers.add(me)
        try:
            while line := await reader.readline():
                request = orjson.loads(line)
                task = asyncio.create_task(self._answer(connection, request))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                while len(self._tasks) > REQUESTS_MAX:
                    await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        except (ValueError, ConnectionError, asyncio.CancelledError):
            pass  # a broken or cancelled client: its connection ends, nobody else's does
        finally:
            self.connections.discard(connection)
            if me is not None:
                self._readers.discard(me)
            if self._on_closed is not None:
                self._on_closed(connection)
            connection.close()

    async def _answer(self, connection: LineConnection, request: dict[str, Any]) -> None:
        try:
            result = await self._handler(connection, request["op"], request.get("args") or {})
            connection.reply({"id": request.get("id"), "ok": result})
        except LineError as error:
            connection.reply({"id": request.get("id"), "error": {"code": error.code, "message": error.message}})
        except (KeyError, TypeError, ValueError) as error:
            connection.reply({"id": request.get("id"), "error": {"code": "EINVAL", "message": repr(error)}})


class LineClient:
    """The client's end: concurrent calls with deadlines, events to a callback, one notice when the server is gone."""

    def __init__(
        self,
        path: Path,
        on_event: Callable[[str, Any], None] | None = None,
        on_lost: Callable[[], None] | None = None,
    ) -> None:
        self._path = path
        self._on_event = on_event
        self._on_lost = on_lost
        self._writer: asyncio.StreamWriter | None = None
        self._outbox: _Outbox | None = None
        self._pending: dict[int, asyncio.Future[Any]] = {}
        self._last_id = 0
        self._reading: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        return self._writer is not None

    async def connect(self, timeout_ms: int = 2000) -> None:
        """Connect once. Raises LineLost when nobody listens."""
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                reader, self._writer = await asyncio.open_unix_connection(str(self._path), limit=LINE_BYTES_MAX)
        except (OSError, TimeoutError) as error:
            raise LineLost(f"{self._path}: {error}") from error
        self._outbox = _Outbox(self._writer)
        self._reading = asyncio.create_task(self._read(reader))

    async def call(self, op: str, timeout_ms: int = 5000, **args: Any) -> Any:
        """Call and wait. Raises LineError (refused) or LineLost (unknown outcome)."""
        if self._writer is None or self._outbox is None:
            raise LineLost(f"{self._path}: not connected")
        self._last_id += 1
        number = self._last_id
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._pending[number] = future
        # A timer by itself costs a fraction of asyncio.timeout, and a takeover makes some hundred calls.
        deadline = loop.call_later(timeout_ms / 1000, self._too_late, future, op, timeout_ms)
        try:
            self._outbox.put({"id": number, "op": op, "args": args})
            return await future
        finally:
            deadline.cancel()
            self._pending.pop(number, None)

    def _too_late(self, future: "asyncio.Future[Any]", op: str, timeout_ms: int) -> None:
        if not future.done():
            future.set_exception(LineLost(f"{self._path}: {op} was not answered within {timeout_ms} ms"))

    async def close(self) -> None:
        if self._reading is not None:
            self._on_lost = None
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                message = orjson.loads(line)
                if "event" in message:
                    if self._on_event is not None:
                        self._on_event(message["event"], message.get("data"))
                    continue
                future = self._pending.get(message.get("id"))
                if future is None or future.done():
                    continue  # answered after its deadline: the caller has gone
                if "error" in message:
                    future.set_exception(LineError(message["error"]["code"], message["error"]["message"]))
                else:
                    future.set_result(message.get("ok"))
        except (ValueError, ConnectionError):
            pass
        finally:
            writer, self._writer = self._writer, None
            if writer is not None:
                with contextlib.suppress(RuntimeError):
                    writer.close()
            for future in self._pending.values():
                if not future.done():
                    future.set_exception(LineLost(f"{self._path}: the connection ended"))
            if self._on_lost is not None:
                self._on_lost()
