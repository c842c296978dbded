"""Adverts that are not ours: what is read out of a packet, and for how long it is remembered."""

import asyncio
import socket
import struct

import pytest

from middlewared.plugins.vip import strangers
from middlewared.plugins.vip.strangers import Advert, Strangers, parse
from middlewared.ports import Stranger

IP = bytes([0x45]) + bytes(19)
V3 = bytes([0x31, 7, 100, 1, 0, 10, 0, 0]) + socket.inet_aton("198.51.100.7")


def test_an_advert_is_read_of_either_version_and_family() -> None:
    assert parse(4, IP + V3, "192.0.2.9") == Advert(7, "192.0.2.9")
    assert parse(4, IP + b"\x21" + V3[1:], "192.0.2.9") == Advert(7, "192.0.2.9")
    assert parse(4, bytes([0x46]) + bytes(23) + V3, "192.0.2.9") == Advert(7, "192.0.2.9"), "with an IP option"
    assert parse(6, V3, "fe80::9%eth0") == Advert(7, "fe80::9")


@pytest.mark.parametrize("packet", [b"", IP, IP + V3[:7], IP + b"\x32" + V3[1:], IP + b"\x41" + V3[1:], b"\x4f"])
def test_anything_else_is_none(packet: bytes) -> None:
    assert parse(4, packet, "192.0.2.9") is None


def heard(number: int) -> Stranger:
    return Stranger("eth0", 7, f"192.0.2.{number}")


async def test_a_stranger_is_told_once_and_gone_when_it_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strangers, "GONE_MS", 50)
    changed = asyncio.Event()
    listening = Strangers(changed.set)
    listening.watch({"eth0": 7})
    listening._hear(heard(9))
    assert (listening.seen, changed.is_set()) == ((heard(9),), True)
    changed.clear()
    listening._hear(heard(9))
    assert not changed.is_set()
    async with asyncio.timeout(20):
        await changed.wait()
    assert listening.seen == ()


async def test_only_so_many_are_remembered_and_none_when_our_id_is_another() -> None:
    listening = Strangers(lambda: None)
    listening.watch({"eth0": 7})
    for number in range(1, 40):
        listening._hear(heard(number))
    assert len(listening.seen) == strangers.STRANGERS_MAX
    listening.watch({"eth0": 8})
    assert listening.seen == ()


@pytest.mark.parametrize("family", [4, 6])
def test_the_kernel_takes_the_filter(family: int) -> None:
    try:
        opened = strangers._open(family)
    except PermissionError:
        pytest.skip("needs root: raw sockets")
    opened.close()


def test_where_a_packet_came_in() -> None:
    index = socket.if_nametoindex("lo")
    assert strangers._interface(4, [(socket.IPPROTO_IP, 8, struct.pack("i8x", index))]) == "lo"
    info = struct.pack("16xI", index)
    assert strangers._interface(6, [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, info)]) == "lo"
    assert strangers._interface(4, []) == ""
