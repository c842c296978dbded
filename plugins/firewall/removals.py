"""The kernel's word that something of the packet filter was removed, by whomever (nf_tables over netlink(7))."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable

from middlewared.ports import PortError

_NETLINK_NETFILTER = 12
_GROUP_NFTABLES = 7  # NFNLGRP_NFTABLES of <linux/netfilter/nfnetlink.h>
_SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
_REMOVALS = {
    2,
    5,
    8,
    11,
    14,
}  # NFT_MSG_DELTABLE, DELCHAIN, DELRULE, DELSET, DELSETELEM of <linux/netfilter/nf_tables.h>
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_READ_BYTES = 1 << 16


class Removals:
    """Calls `removed` whenever a table, chain, rule, set or element has gone; also for our own removals."""

    def __init__(self, removed: Callable[[], None]) -> None:
        self._removed = removed
        self._socket: socket.socket | None = None

    def start(self) -> None:
        """Raises PortError."""
        opened = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER
        )
        try:
            opened.bind((0, 1 << (_GROUP_NFTABLES - 1)))
        except OSError as error:
            opened.close()
            raise PortError(f"the packet filter cannot be watched: {error.strerror}") from error
        self._socket = opened
        asyncio.get_running_loop().add_reader(opened, self._read, opened)

    def stop(self) -> None:
        opened, self._socket = self._socket, None
        if opened is not None:
            asyncio.get_running_loop().remove_reader(opened)
            opened.close()

    def _read(self, opened: socket.socket) -> None:
        try:
            told = opened.recv(_READ_BYTES)
        except OSError:  # more was told than the socket can hold: whatever it was
            self._removed()
            return
        if tells_removal(told):
            self._removed()


def tells_removal(told: bytes) -> bool:
    """Whether a datagram of netlink messages tells of one. Broken ones tell nothing."""
    at = 0
    with contextlib.suppress(struct.error):
        while at < len(told):
            size, kind, *_ = _HEADER.unpack_from(told, at)
            if kind >> 8 == _SUBSYSTEM and kind & 0xFF in _REMOVALS:
                return True
            at += max(_HEADER.size, size + 3 & ~3)  # NLMSG_ALIGN
    return False
