"""Where two controllers meet to be paired: one listens for a while, the other dials.

The port is the one after that of the peer link, so that a link that is up is not in the way. It is open only while
somebody pairs, and says nothing to anybody who does not prove that it knows the code.
"""

import asyncio
import errno
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable

from middlewared.peer.introduction import (
    STEP_TIMEOUT_S,
    CodeRefused,
    Controller,
    NotProven,
    Paired,
    PairingError,
    answer,
    call,
)
from middlewared.peer.pake import Pake, WrongCode
from middlewared.peer.transport import split_address
from middlewared.settings import SettingsError

WAIT_S = 600.0
TRIES_MAX = 3  # of a code; of 2^40
CALLERS_MAX = 4  # at a time
_PORT_MAX = 65535


def address_beside(link: str) -> str:
    """Where to pair, beside the address of the peer link. Raises SettingsError: it has no port."""
    if link.startswith("unix:"):
        raise SettingsError(f"the peer link is at {link}, which has no port: name host:port to pair at")
    host, port = split_address(link)
    if port >= _PORT_MAX:
        raise SettingsError(f"the peer link is at port {port}, and there is none after it: name host:port to pair at")
    return f"[{host}]:{port + 1}" if ":" in host else f"{host}:{port + 1}"


async def show(
    me: Controller,
    code: str,
    address: str,
    *,
    on_listening: Callable[[str], None],
    on_wrong_code: Callable[[int], None],
    wait_s: float = WAIT_S,
) -> Paired:
    """Wait for the other controller, where the code (normalised here) is typed. Raises PairingError, SettingsError.

    `on_listening` gets the address in words, `on_wrong_code` how many tries are left.
    """
    waiting = _Waiting(me, code, on_wrong_code)
    host, port = split_address(address)
    try:
        server = await asyncio.start_server(waiting.accept, host, port, limit=1 << 16)
    except OSError as error:
        raise PairingError(_cannot_listen(address, error)) from error
    try:
        on_listening(address if port else f"{host}:{server.sockets[0].getsockname()[1]}")
        async with asyncio.timeout(wait_s):
            return await waiting.outcome
    except TimeoutError as error:
        raise PairingError(
            f"Nobody came within {wait_s / 60:.0f} minutes. Nothing was changed; start again for a new code."
        ) from error
    finally:
        server.close()
        await waiting.stop()


async def join(me: Controller, code: str, address: str) -> Paired:
    """Pair with the controller that shows the code (normalised here). Raises PairingError, SettingsError."""
    host, port = split_address(address)
    try:
        async with asyncio.timeout(STEP_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host, port, limit=1 << 16)
    except (OSError, TimeoutError) as error:
        why = f"no answer within {STEP_TIMEOUT_S:.0f} s" if isinstance(error, TimeoutError) else _words(error)
        raise PairingError(
            f"Nobody waits at {address} ({why}): start `middlewared pair` on the other controller first; "
            "--peer names another address."
        ) from error
    return await call(me, code, reader, writer)


class _Waiting:
    """The side that shows the code: several may call, one is paired with. Who has proven nothing does not count."""

    def __init__(self, me: Controller, code: str, on_wrong_code: Callable[[int], None]) -> None:
        self._me = me
        self._code = code
        self._on_wrong_code = on_wrong_code
        self._tries_left = TRIES_MAX
        self._chosen = False
        self._callers: set[asyncio.Task[None]] = set()
        self.outcome: asyncio.Future[Paired] = asyncio.get_running_loop().create_future()

    def accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        if len(self._callers) >= CALLERS_MAX or self.outcome.done():
            writer.transport.abort()
            return
        task = asyncio.create_task(self._talk(reader, writer))
        self._callers.add(task)
        task.add_done_callback(self._callers.discard)

    async def stop(self) -> None:
        for task in self._callers:
            task.cancel()
        await asyncio.gather(*self._callers, return_exceptions=True)

    async def _talk(self, reader: StreamReader, writer: StreamWriter) -> None:
        try:
            paired = await answer(self._me, self._code, reader, writer, self._check)
        except NotProven:
            return
        except CodeRefused:
            self._wrong_code()
        except PairingError as error:
            self._end(error)
        else:
            if not self.outcome.done():
                self.outcome.set_result(paired)

    def _check(self, pake: Pake, proof: bytes) -> None:
        """One caller is chosen, and there are no more tries than we say, however many call at once."""
        if self._chosen or not self._tries_left:
            raise NotProven("somebody else was first")
        try:
            pake.check(proof)
        except WrongCode:
            self._tries_left -= 1
            raise
        self._chosen = True

    def _wrong_code(self) -> None:
        if self._tries_left:
            self._on_wrong_code(self._tries_left)
            return
        self._end(
            PairingError(
                f"{TRIES_MAX} wrong codes: somebody mistyped it, or guesses. Nothing was changed; start again for a "
                "new code."
            )
        )

    def _end(self, error: PairingError) -> None:
        if not self.outcome.done():
            self.outcome.set_exception(error)


def _cannot_listen(address: str, error: OSError) -> str:
    why = _words(error)
    if error.errno == errno.EADDRNOTAVAIL:
        return f"Cannot wait at {address}: {why}. Give this host that address, or name another one with --listen."
    if error.errno == errno.EADDRINUSE:
        return f"Cannot wait at {address}: {why}. Does another `middlewared pair` run? Else name another with --listen."
    return f"Cannot wait at {address}: {why}."


def _words(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__
