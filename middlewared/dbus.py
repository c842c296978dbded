"""The system bus (D-Bus): calls with a deadline, signals, and a connection that comes back by itself.

Only real drivers use it. What systemd offers here: org.freedesktop.systemd1(5).
"""

import asyncio
import contextlib
import logging
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from sdbus import SdBus, SdBusBaseError, SdBusLibraryError, SdBusUnmappedMessageError, sd_bus_open_system
from sdbus.dbus_exceptions import DbusFailedError, DbusNoReplyError, DbusServiceUnknownError
from sdbus.sd_bus_internals import EXCEPTION_TO_DBUS_ERROR, SdBusMessage, SdBusSlot

from middlewared.ports import Finding, PortError

log = logging.getLogger(__name__)

SYSTEMD = "org.freedesktop.systemd1"
SYSTEMD_PATH = "/org/freedesktop/systemd1"
SYSTEMD_MANAGER = "org.freedesktop.systemd1.Manager"
PROPERTIES = "org.freedesktop.DBus.Properties"

CALL_TIMEOUT_MS = 5_000  # for an answer; what it sets going may take longer
_LOOK_S = 0.5  # the library does not tell that a connection ended: look, which costs no message
_RETRY_S = 0.5
_REMEDY = "`systemctl status dbus`, or apt-get install dbus"

Signal = Callable[[tuple[Any, ...]], None]
Hook = Callable[[], Awaitable[None]]


class BusError(PortError):
    """Somebody on the bus refused, or nobody answered. `name` is D-Bus' name of the error; empty: the bus itself."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


class SystemBus:
    """One connection for all drivers. While it is lost, calls raise PortError at once."""

    def __init__(self) -> None:
        self._bus: SdBus | None = None
        self._hooks: list[Hook] = []
        self._lost: list[Callable[[], None]] = []
        self._staying: asyncio.Task[None] | None = None
        self._subscribed = False

    def on_connect(self, hook: Hook) -> None:
        """Run `hook` on every new connection: there it watches its signals, and reads what they will change."""
        self._hooks.append(hook)

    def on_lost(self, listener: Callable[[], None]) -> None:
        """The connection ended: watched signals do not arrive any more, and what they told is stale."""
        self._lost.append(listener)

    async def start(self) -> None:
        """Connect. Raises PortError when there is no bus, or a hook cannot work on it."""
        await self._connect()
        self._staying = asyncio.create_task(self._stay())

    async def stop(self) -> None:
        if self._staying is not None:
            self._staying.cancel()
            await asyncio.gather(self._staying, return_exceptions=True)
        self._close()

    async def examine(self) -> Sequence[Finding]:
        """The bus, and the service manager on it."""
        try:
            async with connected() as bus:
                version = await bus.get(SYSTEMD, SYSTEMD_PATH, SYSTEMD_MANAGER, "Version")
        except PortError as error:
            return [Finding("systemd over D-Bus", False, str(error).removesuffix(f": {_REMEDY}"), _REMEDY)]
        return [Finding("systemd over D-Bus", True, str(version))]

    async def call(
        self, service: str, path: str, interface: str, member: str, signature: str = "", *arguments: Any
    ) -> tuple[Any, ...]:
        """Call a method; its results. Raises BusError."""
        if self._bus is None:
            raise BusError("", f"the system bus (D-Bus) is not connected: {_REMEDY}")
        try:
            message = self._bus.new_method_call_message(service, path, interface, member)
            if signature:
                message.append_data(signature, *arguments)
            async with asyncio.timeout(CALL_TIMEOUT_MS / 1000):
                reply = await self._bus.call_async(message)
        except TimeoutError:
            raise BusError("", f"{service} did not answer {member} within {CALL_TIMEOUT_MS} ms") from None
        except (SdBusBaseError, DbusFailedError) as error:
            raise _error(error, f"{service} {member}") from error
        return reply.parse_to_tuple()

    async def get(self, service: str, path: str, interface: str, name: str) -> Any:
        """A property's value. Raises BusError."""
        ((_, value),) = await self.call(service, path, PROPERTIES, "Get", "ss", interface, name)
        return value

    async def watch(self, service: str, path: str, interface: str, member: str, told: Signal) -> SdBusSlot:
        """Call `told` with the arguments of each such signal, until the result is closed, forgotten, or lost."""

        def arrived(message: SdBusMessage) -> None:
            told(message.parse_to_tuple())

        if self._bus is None:
            raise BusError("", f"the system bus (D-Bus) is not connected: {_REMEDY}")
        try:
            async with asyncio.timeout(CALL_TIMEOUT_MS / 1000):
                return await self._bus.match_signal_async(service, path, interface, member, arrived)
        except TimeoutError:
            raise BusError("", f"the system bus did not answer within {CALL_TIMEOUT_MS} ms") from None
        except (SdBusBaseError, DbusFailedError) as error:
            raise _error(error, f"the signal {member}") from error

    async def subscribe(self) -> None:
        """Have systemd send its signals to this connection, which it refuses to be asked for twice. Raises BusError."""
        if not self._subscribed:
            await self.call(SYSTEMD, SYSTEMD_PATH, SYSTEMD_MANAGER, "Subscribe")
            self._subscribed = True

    async def _connect(self) -> None:
        self._subscribed = False
        try:
            self._bus = sd_bus_open_system()
        except SdBusBaseError as error:
            raise _error(error, "the system bus (D-Bus)") from error
        try:
            for hook in self._hooks:
                await hook()
        except BaseException:
            self._close()
            raise

    def _close(self) -> None:
        bus, self._bus = self._bus, None
        if bus is not None:
            bus.close()

    async def _stay(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            if self._alive():
                continue
            log.error("the connection to the system bus (D-Bus) is lost; trying again")
            self._close()
            for listener in self._lost:
                listener()
            await self._reconnect()
            log.info("the system bus (D-Bus) is back")

    def _alive(self) -> bool:
        try:
            return self._bus is not None and self._bus.get_fd() >= 0
        except SdBusLibraryError:
            return False

    async def _reconnect(self) -> None:
        said = ""
        while True:
            try:
                return await self._connect()
            except PortError as error:
                if str(error) != said:
                    said = str(error)
                    log.warning("%s", said)
            await asyncio.sleep(_RETRY_S)


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[SystemBus]:
    """A connection of one's own, for the length of the block. Raises PortError when there is no bus."""
    bus = SystemBus()
    await bus.start()
    try:
        yield bus
    finally:
        await bus.stop()


def _error(error: Exception, what: str) -> BusError:
    """The library's exception as a sentence; systemd's own messages are sentences already."""
    if isinstance(error, SdBusUnmappedMessageError):
        name, message = (*error.args, "", "")[:2]
        return BusError(str(name), str(message).rstrip("."))
    if isinstance(error, DbusServiceUnknownError):
        return BusError(EXCEPTION_TO_DBUS_ERROR[type(error)], f"{what}: {str(error).rstrip('.')}: {_REMEDY}")
    if isinstance(error, DbusNoReplyError):
        return BusError(EXCEPTION_TO_DBUS_ERROR[type(error)], f"{what}: the connection to the system bus ended")
    number = re.search(r"returned error number: (\d+)", str(error))
    if number is not None:
        return BusError("", f"{what}: {os.strerror(int(number[1]))}: {_REMEDY}")
    return BusError(EXCEPTION_TO_DBUS_ERROR.get(type(error), ""), str(error).rstrip("."))
