"""Hears other machines' VRRP adverts with one of our virtual router ids on our links.

A raw socket a family. The kernel itself drops what comes from our own pair: its adverts carry addresses of our making
(keepalived_conf), so that a quiet network wakes nobody here.
"""

import asyncio
import ctypes
import ipaddress
import logging
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from middlewared.ports import Stranger

log = logging.getLogger(__name__)

GONE_MS = 10_000  # so long after the last advert it has stopped; they come every few seconds at the latest
STRANGERS_MAX = 16
_VRRP = 112  # IP protocol number
_GROUPS = {4: "224.0.0.18", 6: "ff02::12"}
_PACKETS_AT_ONCE_MAX = 64
_PACKET_BYTES_MAX = 2_048
_SO_ATTACH_FILTER = 26
_IP_PKTINFO = 8
# Classic BPF (code, jump if true, jump if false, constant): keep, unless the first address in the advert is ours,
# 169.254.112.* or fe80::112:*. An IPv4 packet begins with its IP header, an IPv6 one behind it.
_DROP_OURS = {
    4: ((0xB1, 0, 0, 0), (0x40, 0, 0, 8), (0x54, 0, 0, 0xFFFFFF00), (0x15, 0, 1, 0xA9FE7000)),
    6: ((0x20, 0, 0, 20), (0x54, 0, 0, 0xFFFFFF00), (0x15, 0, 1, 0x01120000)),
}
_VERDICTS = ((0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFF))  # drop, keep


@dataclass(frozen=True, slots=True)
class Advert:
    """As much of an advertisement (RFC 9568 section 5.1; RFC 3768 likewise) as tells whose it is."""

    router_id: int
    address: str  # of its sender


def parse(family: int, packet: bytes, sender: str) -> Advert | None:
    """A packet of the raw socket; None when it is no advert."""
    if family == 4:
        packet = packet[4 * (packet[0] & 0x0F) :] if packet else b""
    if len(packet) < 8 or packet[0] & 0x0F != 1 or packet[0] >> 4 not in (2, 3):
        return None
    return Advert(packet[1], sender.partition("%")[0])


class Strangers:
    """`on_change` is called when `seen` has become another."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._sockets: dict[int, socket.socket] = {}
        self._ours: dict[str, int] = {}
        self._expiries: dict[Stranger, asyncio.TimerHandle] = {}

    @property
    def seen(self) -> tuple[Stranger, ...]:
        return tuple(sorted(self._expiries, key=lambda one: (one.interface, one.router_id, one.address)))

    def open(self) -> None:
        """Without the right to do so nobody listens, and the log says so."""
        for family in (4, 6):
            try:
                self._sockets[family] = _open(family)
            except OSError as error:
                log.warning("nobody listens for strangers' VRRP adverts by IPv%d: %s", family, error.strerror)
                continue
            asyncio.get_running_loop().add_reader(self._sockets[family], self._readable, family)

    def close(self) -> None:
        for opened in self._sockets.values():
            asyncio.get_running_loop().remove_reader(opened)
            opened.close()
        self._sockets.clear()
        for expiry in self._expiries.values():
            expiry.cancel()
        self._expiries.clear()

    def watch(self, ours: Mapping[str, int]) -> None:
        """Our virtual router ids by interface, from now on."""
        for family, opened in self._sockets.items():
            for interface in ours.keys() - self._ours.keys():
                _join(opened, family, interface)
        self._ours = dict(ours)
        for stranger in [one for one in self._expiries if self._ours.get(one.interface) != one.router_id]:
            self._forget(stranger)

    def _readable(self, family: int) -> None:
        for _ in range(_PACKETS_AT_ONCE_MAX):
            try:
                packet, control, _, sender = self._sockets[family].recvmsg(_PACKET_BYTES_MAX, 256)
            except BlockingIOError:
                return
            except OSError as error:
                log.warning("VRRP adverts cannot be received: %s", error.strerror)
                return
            advert, interface = parse(family, packet, sender[0]), _interface(family, control)
            if advert is not None and self._ours.get(interface) == advert.router_id:
                self._hear(Stranger(interface, advert.router_id, advert.address))

    def _hear(self, stranger: Stranger) -> None:
        known = self._expiries.get(stranger)
        if known is None and len(self._expiries) >= STRANGERS_MAX:
            return
        if known is not None:
            known.cancel()
        self._expiries[stranger] = asyncio.get_running_loop().call_later(GONE_MS / 1000, self._forget, stranger)
        if known is None:
            self._on_change()

    def _forget(self, stranger: Stranger) -> None:
        self._expiries.pop(stranger).cancel()
        self._on_change()


def _open(family: int) -> socket.socket:
    opened = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_RAW, _VRRP)
    try:
        opened.setblocking(False)
        program = b"".join(struct.pack("HBBI", *one) for one in (*_DROP_OURS[family], *_VERDICTS))
        kept = ctypes.create_string_buffer(program)
        fprog = struct.pack("HL", len(program) // 8, ctypes.addressof(kept))  # struct sock_fprog
        opened.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)
        if family == 4:
            opened.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        else:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    except OSError:
        opened.close()
        raise
    return opened


def _join(opened: socket.socket, family: int, interface: str) -> None:
    """The group that strangers send to. An interface that is not there, or was joined already, is no trouble."""
    try:
        index = socket.if_nametoindex(interface)
        if family == 4:
            request = struct.pack("4s4si", socket.inet_aton(_GROUPS[4]), bytes(4), index)  # struct ip_mreqn
            opened.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
        else:
            request = struct.pack("16sI", ipaddress.ip_address(_GROUPS[6]).packed, index)  # struct ipv6_mreq
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
    except OSError as error:
        log.debug("%s: %s", interface, error)


def _interface(family: int, control: list[tuple[int, int, bytes]]) -> str:
    """Where the packet came in, by its IP_PKTINFO or IPV6_PKTINFO; empty when it does not tell."""
    for level, kind, data in control:
        index = 0
        if family == 4 and (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
            index = struct.unpack_from("i", data)[0]
        elif family == 6 and (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            index = struct.unpack_from("I", data, 16)[0]
        if index:
            try:
                return socket.if_indextoname(index)
            except OSError:
                return ""
    return ""
