"""Reset by sysrq, orderly reboot and shutdown by systemd."""

from collections.abc import Sequence
from typing import NoReturn

from middlewared.dbus import SYSTEMD, SYSTEMD_MANAGER, SYSTEMD_PATH, SystemBus
from middlewared.ports import Finding, Power
from middlewared.sysrq import Sysrq


class LinuxPower(Power):
    """`bus` is started before us, and stopped after us, by whoever picks the drivers."""

    def __init__(self, bus: SystemBus, sysrq: Sysrq | None = None) -> None:
        self._bus = bus
        self._sysrq = sysrq or Sysrq("middlewared")

    async def start(self) -> None:
        self._sysrq.prepare()

    async def stop(self) -> None:
        self._sysrq.close()

    async def examine(self) -> Sequence[Finding]:
        return self._sysrq.findings()

    def reset(self, reason: str) -> NoReturn:
        self._sysrq.reset(reason)

    async def reboot(self, reason: str) -> None:
        await self._leave("reboot.target")

    async def shutdown(self, reason: str) -> None:
        await self._leave("poweroff.target")

    async def _leave(self, target: str) -> None:
        """What `systemctl reboot` does where logind does not run: nothing can replace the job any more. systemd's own
        Reboot() would not stop a single service first (org.freedesktop.systemd1(5))."""
        await self._bus.call(SYSTEMD, SYSTEMD_PATH, SYSTEMD_MANAGER, "StartUnit", "ss", target, "replace-irreversibly")
