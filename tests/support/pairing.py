"""Controllers to be paired, and somebody in between who sees every message."""

import asyncio
import contextlib
import socket
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable
from pathlib import Path

from middlewared.licence.files import LicenceFiles
from middlewared.peer.introduction import Controller, Paired, answer, call
from middlewared.peer.pairfiles import PairFiles
from middlewared.settings import PeerSettings

CODE = "7K3DQ9MX"
MESSAGES = 9  # of a pairing that succeeds
Alter = Callable[[int, bytes], bytes | None]
"""(number of the message from 1 on, message) -> what goes on instead; None: the line is cut."""


def peer_settings(folder: Path, **changes: object) -> PeerSettings:
    files = {"certificate": "own.pem", "peer_certificate": "other.pem", "pair_key": "pair.key"}
    return PeerSettings(**{key: str(folder / "peer" / name) for key, name in files.items()}, **changes)  # type: ignore[arg-type]  # as a test says


def controller(folder: Path, node: str, serial: str = "") -> Controller:
    """A fresh one, with everything in a folder of its own."""
    state = folder / (serial or node)
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = PairFiles(peer_settings(state))
    return Controller(node, f"controller-{node.lower()}", serial or f"SN-{node}", files, LicenceFiles(state))


Outcome = Paired | BaseException
Stream = tuple[StreamReader, StreamWriter]


async def introduce(
    caller: Controller, shower: Controller, *, codes: tuple[str, str] = (CODE, CODE), alter: Alter | None = None
) -> tuple[Outcome, Outcome]:
    """How it ended for the caller and for the shower; `alter` stands in between."""
    first, left = socket.socketpair()
    right, last = socket.socketpair()
    streams = [await asyncio.open_connection(sock=end) for end in (first, left, right, last)]
    relay = asyncio.create_task(_relay(streams[1], streams[2], alter or (lambda number, message: message)))
    ends: list[Awaitable[Paired]] = [call(caller, codes[0], *streams[0]), answer(shower, codes[1], *streams[3])]
    outcomes = await asyncio.gather(*ends, return_exceptions=True)
    await relay
    return outcomes[0], outcomes[1]


async def _relay(left: Stream, right: Stream, alter: Alter) -> None:
    """The two speak in turns, so each message is waited for where it has to come from."""
    with contextlib.suppress(EOFError, OSError):
        for number in range(1, MESSAGES + 1):
            (reader, _), (_, writer) = (left, right) if number % 2 else (right, left)
            message = await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))
            altered = alter(number, message)
            if altered is None:
                break
            writer.write(len(altered).to_bytes(4, "big") + altered)
            await writer.drain()
        else:
            await right[0].read()  # the shower hears the last one, and hangs up
    for _, writer in (left, right):
        writer.close()
