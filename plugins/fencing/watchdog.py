"""The hardware watchdog (linux/watchdog.h): resets the machine when the keeper neither lives nor could reset it."""

import asyncio
import contextlib
import logging
import os
import struct
from collections.abc import Callable
from pathlib import Path

from middlewared.plugins.fencing.ioctl import Ioctl, linux_ioctl
from middlewared.ports import Finding, PortError

log = logging.getLogger(__name__)

WDIOC_SETTIMEOUT = 0xC004_5706
PETS = 4  # in each time-out
_DISARM = b"V"  # the magic close: what was last written before it is closed stops it


class Watchdog:
    """Is petted as long as `may_live()` says so: reservations are proven, or nothing is held.

    Only one program can have it open. One that dies leaves it running, and has the time-out to come back.
    """

    def __init__(self, device: str, timeout_s: int, may_live: Callable[[], bool], ioctl: Ioctl = linux_ioctl) -> None:
        """`device`: empty for none."""
        self._device = device
        self._timeout_s = timeout_s
        self._may_live = may_live
        self._ioctl = ioctl
        self._fd = -1
        self._petting: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Arms it. Raises PortError: a watchdog that was asked for and is not there is not passed over."""
        if not self._device:
            return
        try:
            self._fd = os.open(self._device, os.O_WRONLY | os.O_CLOEXEC)
            wanted = bytearray(struct.pack("i", self._timeout_s))
            self._ioctl(self._fd, WDIOC_SETTIMEOUT, wanted)
        except OSError as error:
            self._close(disarm=True)
            raise PortError(
                f"the watchdog {self._device} cannot be used: {error.strerror}; does systemd or another program have "
                "it (RuntimeWatchdogSec), or is fence.watchdog wrong?"
            ) from error
        (actual_s,) = struct.unpack("i", wanted)  # the driver takes the nearest that its hardware can
        log.info("watchdog %s: the machine is reset after %d s of silence", self._device, actual_s)
        self._petting = asyncio.get_running_loop().create_task(self._pet(min(actual_s, self._timeout_s) / PETS))

    async def stop(self, *, disarm: bool) -> None:
        """Let go of it; without `disarm` it goes on, and a new keeper has to come within the time-out."""
        petting, self._petting = self._petting, None
        if petting is not None:
            petting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await petting
        if self._fd >= 0 and not disarm:
            log.warning("the watchdog goes on: reservations are held, and nobody else watches over them")
        self._close(disarm=disarm)

    async def _pet(self, every_s: float) -> None:
        while True:
            if self._may_live():
                try:
                    os.write(self._fd, b"\0")
                except OSError as error:  # the next may be taken; if none is, the machine is reset, and this says why
                    log.critical("the watchdog cannot be petted: %s", error.strerror)
            await asyncio.sleep(every_s)

    def _close(self, *, disarm: bool) -> None:
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        if disarm:
            with contextlib.suppress(OSError):
                os.write(fd, _DISARM)
        os.close(fd)


def examine(device: str) -> Finding:
    """Whether there is a hardware watchdog, and it is used. Opening it would arm it: only looks."""
    found = sorted(str(one) for one in Path("/dev").glob("watchdog[0-9]*"))
    if not device:
        remedy = (
            "set fence.watchdog" if found else "load the driver of the mainboard's watchdog, then set fence.watchdog"
        )
        return Finding("watchdog", False, "none is configured: nothing resets a controller that hangs", remedy)
    if not Path(device).exists():
        return Finding(
            "watchdog", False, f"{device} does not exist", f"set fence.watchdog; there are: {found or 'none'}"
        )
    return Finding("watchdog", True, device)
