"""The two sockets by which a virtual machine is commanded from outside: qemu's own, and its guest agent.

JSON both, a line each way: the QEMU Machine Protocol (docs/interop/qmp-spec.txt), and the QEMU Guest Agent Protocol.
"""

import asyncio
import base64
import contextlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

LINE_BYTES_MAX = 64 << 20
CALL_S_MAX = 30.0
_POLL_S = 0.05
_POLL_S_MAX = 0.8
_SENTINEL = b"\xff"  # ends whatever the agent was told halfway (guest-sync-delimited)


class WireError(Exception):
    """The machine refused, or does not answer."""


class Wire:
    """One of the sockets. `on_event` gets what comes unasked; `ended` is set when the machine is off."""

    def __init__(
        self,
        path: Path,
        on_event: Callable[[str, dict[str, Any]], None] = lambda name, data: None,
    ) -> None:
        self._path = path
        self._on_event = on_event
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._listening: asyncio.Task[None] | None = None
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._numbers = itertools.count(1)
        self.ended = asyncio.Event()

    async def connect(self) -> None:
        """Raises OSError while nobody listens there."""
        self._reader, self._writer = await asyncio.open_unix_connection(str(self._path), limit=LINE_BYTES_MAX)
        self._listening = asyncio.create_task(self._listen(self._reader))

    async def close(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
        if self._writer is not None:
            self._writer.close()

    async def call(self, command: str, *, timeout_s: float = CALL_S_MAX, prefix: bytes = b"", **arguments: Any) -> Any:
        """Raises WireError."""
        if self._writer is None or self.ended.is_set():
            raise WireError(f"{command}: the machine is off")
        number = next(self._numbers)
        request = {"execute": command, "id": number, **({"arguments": arguments} if arguments else {})}
        answered = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self._writer.write(prefix + json.dumps(request).encode() + b"\n")
            async with asyncio.timeout(timeout_s):
                return await answered
        except TimeoutError:
            raise WireError(f"{command}: no answer within {timeout_s:.0f} s") from None
        finally:
            del self._waiting[number]

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                self._take(json.loads(line.rpartition(_SENTINEL)[2]))
        except (OSError, ValueError):
            pass
        finally:
            self.ended.set()
            for answered in self._waiting.values():
                if not answered.done():
                    answered.set_exception(WireError("the machine went off meanwhile"))

    def _take(self, message: dict[str, Any]) -> None:
        if "event" in message:
            self._on_event(message["event"], message.get("data", {}))
            return
        answered = self._waiting.get(message.get("id", 0))
        if answered is None or answered.done():
            return
        if "error" in message:
            answered.set_exception(WireError(str(message["error"].get("desc"))))
        else:
            answered.set_result(message.get("return"))


class Agent:
    """The guest agent: runs programs inside, without any network."""

    def __init__(self, path: Path) -> None:
        self._wire = Wire(path)

    async def connect(self) -> None:
        await self._wire.connect()

    async def close(self) -> None:
        await self._wire.close()

    async def until_ready(self, timeout_s: float) -> None:
        """Raises WireError when it has not answered by then: the machine did not boot."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not await self._answers():
                    await asyncio.sleep(_POLL_S)
                return
        raise WireError(f"its guest agent did not answer within {timeout_s:.0f} s")

    async def _answers(self) -> bool:
        try:
            await self._wire.call("guest-sync", timeout_s=1.0, prefix=_SENTINEL, id=1)
        except WireError:
            if self._wire.ended.is_set():
                raise
            return False
        return True

    async def run(self, *command: str, stdin: bytes = b"", timeout_s: float = CALL_S_MAX, check: bool = True) -> str:
        """A program's output, both streams. Raises WireError when it fails, unless told not to `check`."""
        words: dict[str, Any] = {
            "path": "/bin/sh",
            "arg": ["-c", 'exec "$@" 2>&1', "sh", *command],
            "capture-output": True,
        }
        if stdin:
            words["input-data"] = base64.b64encode(stdin).decode()
        pid = (await self._wire.call("guest-exec", **words))["pid"]
        wait_s = _POLL_S
        try:
            async with asyncio.timeout(timeout_s):
                while not (state := await self._wire.call("guest-exec-status", pid=pid))["exited"]:
                    await asyncio.sleep(wait_s)
                    wait_s = min(2 * wait_s, _POLL_S_MAX)  # each question costs the machine time
        except TimeoutError:
            raise WireError(f"`{' '.join(command)}` did not end within {timeout_s:.0f} s") from None
        output = base64.b64decode(state.get("out-data", "")).decode(errors="replace")
        if check and state.get("exitcode") != 0:
            raise WireError(f"`{' '.join(command)}`: {output.strip()[-2000:] or state}")
        return output

    async def script(self, text: str, *, timeout_s: float = CALL_S_MAX, check: bool = True) -> str:
        """Several commands, ended by the first that fails."""
        return await self.run("sh", "-ec", text, timeout_s=timeout_s, check=check)
