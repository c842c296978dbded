"""Other programs, run with a deadline: what they print is bounded, and one that hangs is killed, never waited for."""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

from middlewared.ports import PortError

OUTPUT_BYTES_MAX = 8 << 20
_REAP_S = 0.5  # a process in uninterruptible sleep does not die of SIGKILL


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended: its exit status (negative: the signal that killed it) and what it printed."""

    status: int
    stdout: str
    stderr: str


async def run(
    *command: str, timeout_ms: int, stdin: str | bytes = "", environment: Mapping[str, str] | None = None
) -> Ended:
    """Run a program to its end. Raises PortError when it is not installed, does not end in time, or prints too much."""
    try:
        child = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
        )
    except OSError as error:
        raise PortError(f"{command[0]} cannot be run: {error.strerror}") from error
    try:
        async with asyncio.timeout(timeout_ms / 1000):
            stdout, stderr, _ = await asyncio.gather(_read(child.stdout), _read(child.stderr), _feed(child, stdin))
            status = await child.wait()
    except TimeoutError:
        raise PortError(f"`{' '.join(command)}` did not end within {timeout_ms} ms") from None
    except OverflowError:
        raise PortError(f"`{' '.join(command)}` printed more than {OUTPUT_BYTES_MAX} bytes") from None
    finally:
        await _end(child)
    return Ended(status, stdout, stderr)


async def output(*command: str, timeout_ms: int, stdin: str = "") -> str:
    """What a program printed. Raises PortError also when it fails, with the first line of its complaint."""
    ended = await run(*command, timeout_ms=timeout_ms, stdin=stdin)
    if ended.status != 0:
        complaint = (ended.stderr.strip() or ended.stdout.strip() or f"exit status {ended.status}").splitlines()[0]
        raise PortError(f"`{' '.join(command)}`: {complaint}")
    return ended.stdout


async def _read(stream: asyncio.StreamReader | None) -> str:
    if stream is None:
        return ""
    parts: list[bytes] = []
    size = 0
    while part := await stream.read(1 << 16):
        parts.append(part)
        size += len(part)
        if size > OUTPUT_BYTES_MAX:
            raise OverflowError
    return b"".join(parts).decode(errors="replace")


async def _feed(child: asyncio.subprocess.Process, given: str | bytes) -> None:
    if child.stdin is None:
        return
    with contextlib.suppress(ConnectionError):  # it ended without reading; its status says why
        child.stdin.write(given.encode() if isinstance(given, str) else given)
        await child.stdin.drain()
    child.stdin.close()


async def _end(child: asyncio.subprocess.Process) -> None:
    if child.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        child.kill()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_REAP_S):
            await child.wait()
    child._transport.close()  # type: ignore[attr-defined]  # its pipes; there is no public way to give up on them
