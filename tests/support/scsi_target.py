"""Tests against a real target: tgt on a loopback address, reached with libiscsi."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from middlewared.lab.target import ScsiTarget, TargetDisk, missing
from middlewared.plugins.fencing import libiscsi
from middlewared.plugins.fencing.iscsi import IscsiSource
from middlewared.ports import PortError

DISK_BYTES = 1 << 20
ADDRESSES = ("127.0.0.1", "127.0.0.2")  # two portals of the same target


def skip_unless_possible() -> None:
    why = missing()
    if why:
        pytest.skip(why)
    try:
        libiscsi.load()
    except PortError as error:
        pytest.skip(f"needs libiscsi: {error}")


def free_portals() -> tuple[str, ...]:
    """Both addresses with one port that is free on them, and not used again soon by chance."""
    with socket.create_server((ADDRESSES[0], 0)) as taken:
        port = taken.getsockname()[1]
    return tuple(f"{address}:{port}" for address in ADDRESSES)


@asynccontextmanager
async def running_target(folder: Path, disks: int) -> AsyncIterator[ScsiTarget]:
    """The target, with disks S001, S002, … on units 1, 2, …"""
    skip_unless_possible()
    rows = [TargetDisk(lun, f"S{lun:03}", DISK_BYTES) for lun in range(1, disks + 1)]
    target = ScsiTarget(folder, rows, free_portals())
    await target.start()
    try:
        yield target
    finally:
        await target.kill()


@asynccontextmanager
async def logged_in(target: ScsiTarget, name: str, portals: int = 1) -> AsyncIterator[IscsiSource]:
    """One controller's way to it, by so many of its portals."""
    source = IscsiSource(target.portals[:portals], f"iqn.2026-11.org.middlewared.test:{name}")
    await source.start()
    try:
        yield source
    finally:
        await source.stop()
