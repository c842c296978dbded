"""The hardware watchdog: a FIFO for its device, so that what is written can be read."""

import asyncio
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from middlewared.plugins.fencing.watchdog import WDIOC_SETTIMEOUT, Watchdog, examine
from middlewared.ports import PortError


class Device:
    """A watchdog device; the driver can do no less than `least_s`."""

    def __init__(self, path: Path, least_s: int = 1) -> None:
        self.path = path
        self.least_s = least_s
        self.timeout_s = 0
        os.mkfifo(path)
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def ioctl(self, fd: int, request: int, buffer: bytearray) -> int:
        assert request == WDIOC_SETTIMEOUT == 3 << 30 | 4 << 16 | ord("W") << 8 | 6  # _IOWR('W', 6, int)
        (wanted,) = struct.unpack("i", buffer)
        self.timeout_s = max(wanted, self.least_s)
        struct.pack_into("i", buffer, 0, self.timeout_s)
        return 0

    async def told(self) -> bytes:
        """What was written since; waits for something."""
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self._fd, readable.set)
        async with asyncio.timeout(30):
            await readable.wait()
        loop.remove_reader(self._fd)
        return os.read(self._fd, 64)

    def left(self) -> bytes:
        try:
            return os.read(self._fd, 64)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        os.close(self._fd)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    device = Device(tmp_path / "watchdog")
    yield device
    device.close()


async def test_armed_petted_and_disarmed(device: Device) -> None:
    watchdog = Watchdog(str(device.path), 7, lambda: True, device.ioctl)
    await watchdog.start()
    assert device.timeout_s == 7
    assert await device.told() == b"\0"
    await watchdog.stop(disarm=True)
    assert device.left().endswith(b"V")


async def test_who_may_not_live_is_not_petted(device: Device) -> None:
    asked = asyncio.Event()

    def may_live() -> bool:
        asked.set()
        return False

    watchdog = Watchdog(str(device.path), 7, may_live, device.ioctl)
    await watchdog.start()
    await asked.wait()
    await watchdog.stop(disarm=False)
    assert device.left() == b"", "neither petted nor disarmed"


async def test_none_is_configured() -> None:
    watchdog = Watchdog("", 7, lambda: True)
    await watchdog.start()
    await watchdog.stop(disarm=True)
    assert not examine("").ok


async def test_one_that_is_not_there_is_not_passed_over(tmp_path: Path) -> None:
    with pytest.raises(PortError, match=r"cannot be used.*RuntimeWatchdogSec"):
        await Watchdog(str(tmp_path / "none"), 7, lambda: True).start()
    assert not examine(str(tmp_path / "none")).ok


async def test_one_that_refuses_is_let_go(device: Device) -> None:
    def refuse(fd: int, request: int, buffer: bytearray) -> int:
        raise OSError(22, "Invalid argument")

    with pytest.raises(PortError, match="Invalid argument"):
        await Watchdog(str(device.path), 7, lambda: True, refuse).start()
    assert device.left() == b"V"
