import struct

import pytest

from middlewared.plugins.firewall.removals import tells_removal

NFTABLES, OTHER = 10 << 8, 1 << 8
NEWTABLE, DELTABLE, NEWRULE, DELRULE, NEWGEN = 0, 2, 6, 8, 15


def message(kind: int, payload: bytes = b"\2\0\0\0") -> bytes:
    size = 16 + len(payload)
    return struct.pack("=IHHII", size, kind, 0, 0, 0) + payload + bytes(-size % 4)


@pytest.mark.parametrize("kind", [DELTABLE, DELRULE])
def test_a_removal_is_found_behind_other_messages(kind: int) -> None:
    assert tells_removal(message(NFTABLES | NEWRULE, b"12345") + message(NFTABLES | kind) + message(NFTABLES | NEWGEN))


def test_additions_and_other_subsystems_are_no_removals() -> None:
    assert not tells_removal(message(NFTABLES | NEWTABLE) + message(NFTABLES | NEWGEN) + message(OTHER | DELTABLE))


@pytest.mark.parametrize("told", [b"", b"\1\2", message(NFTABLES | NEWTABLE)[:7], bytes(64)])
def test_broken_messages_tell_nothing_and_end(told: bytes) -> None:
    assert not tells_removal(told)
