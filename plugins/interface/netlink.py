"""The real driver of interfaces: rtnetlink, event-driven (rtnetlink(7), netlink(7)).

A socket of our own listens to the kernel's multicast groups; pyroute2 parses what comes, and makes requests. The table
is read whole at the start, and again whenever the kernel says that it dropped messages (ENOBUFS).
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from middlewared.plugins.interface.carry_out import carry_out
from middlewared.plugins.interface.netlink_changes import perform
from middlewared.plugins.interface.netlink_table import LinkTable, NetworkSettings
from middlewared.plugins.interface.plan import plan
from middlewared.ports import Driver, Finding, Interfaces, LinkConfig, Listener, Nic, PortError

log = logging.getLogger(__name__)

_NETLINK_ROUTE = 0
_GROUPS = 0x1 | 0x10 | 0x100  # RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
_DATAGRAM_BYTES_MAX = 1 << 17  # one message per datagram; an interface with many virtual functions has long ones
_DATAGRAMS_MAX = 64  # per turn of the event loop
_BACKLOG_MAX = 10_000  # messages that arrive while the table is read
_RECEIVE_BYTES = 1 << 20
_DUMP_TIMEOUT_S = 5.0
_DUMPS_MAX = 5  # of one reading: the kernel says when something changed in the midst of it
_RETRY_S = 1.0
_SKIP_STATISTICS = 1 << 3  # RTEXT_FILTER_SKIP_STATS
_CAP_NET_ADMIN = 12  # capability.h


class NetlinkInterfaces(Interfaces, Driver):
    """The interfaces of the network namespace that it is started in."""

    def __init__(self, settings: NetworkSettings) -> None:
        self._settings = settings
        self._table = LinkTable(settings)
        self._listeners: list[Listener] = []
        self._socket: socket.socket | None = None
        self._marshal = MarshalRtnl()
        self._backlog: list[Any] | None = None  # not None: the table is being read, and this came meanwhile
        self._reading: asyncio.Task[None] | None = None
        self._stale = False

    # ------------------------------------------------------------------------------------------ life

    async def start(self) -> None:
        """Listen first, then read everything: nothing falls between the two."""
        try:
            self._socket = _listen()
        except OSError as error:
            raise PortError(f"no netlink socket: {error.strerror}; the kernel has to have CONFIG_NET") from error
        asyncio.get_running_loop().add_reader(self._socket, self._readable)
        await self._read_all()
        if self._stale:
            self._read_again()

    async def stop(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    async def examine(self) -> Sequence[Finding]:
        """The heartbeat interface, the right to configure, and what the kernel can make."""
        try:
            table = await _dump(self._settings)
        except PortError as error:
            return [Finding("interfaces", False, str(error), "Run it on Linux, with access to netlink sockets")]
        return [
            _examine_heartbeat(self._settings.heartbeat, table.heartbeat()),
            Finding("interfaces", bool(table.nics()), ", ".join(nic.name for nic in table.nics()) or "none", _NO_NICS),
            _examine_right(),
            *(_examine_module(module, kind) for module, kind in (("bonding", "LINK_AGGREGATION"), ("8021q", "VLAN"))),
        ]

    # ------------------------------------------------------------------------------------------ the port

    def nics(self) -> Sequence[Nic]:
        return self._table.nics()

    def heartbeat(self) -> Nic | None:
        return self._table.heartbeat()

    async def present(self) -> Sequence[LinkConfig]:
        return (await _dump(self._settings)).configs()

    async def apply(self, wanted: Sequence[LinkConfig], owned: Sequence[LinkConfig]) -> None:
        if any(link.name == self._settings.heartbeat for link in wanted):
            raise PortError(f"{self._settings.heartbeat} is the heartbeat interface, which is configured elsewhere")
        changes = plan(await self.present(), wanted, owned)
        if changes:
            async with AsyncIPRoute(ext_ack=True) as route:
                await carry_out(changes, lambda change: perform(route, change))

    def on_change(self, listener: Listener) -> None:
        self._listeners.append(listener)

    # ------------------------------------------------------------------------------------------ events

    def _readable(self) -> None:
        changed = False
        for _ in range(_DATAGRAMS_MAX):
            try:
                data = self._socket.recv(_DATAGRAM_BYTES_MAX) if self._socket is not None else b""
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:  # ENOBUFS, netlink(7): messages were dropped, nobody knows which
                log.warning("netlink messages were lost (%s): reading all interfaces again", error.strerror)
                self._read_again()
                break
            if not data:
                break
            for message in self._marshal.parse(data):
                changed |= self._take(message)
        if changed:
            self._tell()

    def _take(self, message: Any) -> bool:
        if self._backlog is not None:
            self._backlog.append(message)
            if len(self._backlog) > _BACKLOG_MAX:
                self._backlog.clear()
                self._stale = True
        return self._table.take(message)

    def _read_again(self) -> None:
        self._stale = True
        if self._reading is None or self._reading.done():
            self._reading = asyncio.get_running_loop().create_task(self._read_while_stale())

    async def _read_while_stale(self) -> None:
        while self._stale:
            try:
                await self._read_all()
            except PortError as error:
                log.error("%s", error)
                await asyncio.sleep(_RETRY_S)

    async def _read_all(self) -> None:
        self._stale = False
        self._backlog = []
        try:
            table = await _dump(self._settings)
            for message in self._backlog:  # in order: what is older than the table is followed by what is newer
                table.take(message)
        except PortError:
            self._stale = True
            raise
        finally:
            self._backlog = None
        self._table = table
        self._tell()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()


_NO_NICS = "Fit a network interface, or name those of other kinds in the settings (physical)"


def _listen() -> socket.socket:
    opened = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, _NETLINK_ROUTE
    )
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
        opened.bind((0, _GROUPS))
    except OSError:
        opened.close()
        raise
    return opened


async def _dump(settings: NetworkSettings) -> LinkTable:
    """All interfaces as they are now. Raises PortError."""
    for _ in range(_DUMPS_MAX):
        table = LinkTable(settings)
        try:
            async with asyncio.timeout(_DUMP_TIMEOUT_S), AsyncIPRoute() as route:
                async for message in await route.get_links(ext_mask=_SKIP_STATISTICS):
                    table.take(message)
                async for message in await route.get_addr():
                    table.take(message)
            return table
        except NetlinkDumpInterrupted:
            continue
        except TimeoutError:
            raise PortError(f"the kernel did not list its interfaces within {_DUMP_TIMEOUT_S:.0f} s") from None
        except (NetlinkError, OSError) as error:
            raise PortError(f"the kernel does not list its interfaces: {error}") from error
    raise PortError(f"the interfaces changed {_DUMPS_MAX} times while they were listed: try again")


def _examine_heartbeat(name: str, heartbeat: Nic | None) -> Finding:
    subject = f"heartbeat interface {name}".strip()
    if heartbeat is None:
        remedy = "Name the interface of the link to the other controller in the settings (network.heartbeat)"
        return Finding(subject, False, "not there", remedy)
    if not heartbeat.link_up:
        return Finding(subject, False, "no carrier", "Check the cable, and that the other controller is switched on")
    return Finding(subject, True, f"up, {', '.join(heartbeat.addresses) or 'without an address'}")


def _examine_right() -> Finding:
    effective = 0
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/self/status").read_text().splitlines()
        effective = int(next(line for line in lines if line.startswith("CapEff:")).split()[1], 16)
    allowed = bool(effective >> _CAP_NET_ADMIN & 1)
    detail = "may configure interfaces" if allowed else "may only look at interfaces"
    return Finding(
        "CAP_NET_ADMIN", allowed, detail, "" if allowed else "Run middlewared as root, or with CAP_NET_ADMIN"
    )


def _examine_module(module: str, kind: str) -> Finding:
    """Not having it is no fault: most controllers need none of them."""
    loaded = Path(f"/sys/module/{module}").exists()
    detail = "loaded" if loaded else f"not loaded; interfaces of type {kind} need it"
    return Finding(f"kernel module {module}", True, detail)
