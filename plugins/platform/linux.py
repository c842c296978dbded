"""This controller as Linux, its firmware and its files describe it."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sdbus.sd_bus_internals import SdBusSlot

from middlewared import __version__
from middlewared.dbus import SYSTEMD, SYSTEMD_MANAGER, SYSTEMD_PATH, SystemBus, connected
from middlewared.licence.document import LicenceError
from middlewared.licence.files import LicenceFiles
from middlewared.plugins.platform import host
from middlewared.plugins.platform.hardware import MANUAL, recognise
from middlewared.ports import Finding, Identity, Listener, Platform, PortError

log = logging.getLogger(__name__)

REBOOT_REASONS = Path("run/middlewared/reboot-reasons")  # one file a reason: its name the code, its text the sentence
REASONS_MAX = 32
_LOOK_S = 2.0  # licence and reasons are files that other programs write
_BOOTING = ("initializing", "starting")  # of systemd's SystemState


@dataclass(frozen=True, slots=True)
class PlatformSettings:
    """What overrides what is found; empty: nothing does."""

    hardware: str = ""  # a name of PROTOCOL 10.2, such as ECHOWARP
    serial: str = ""


class LinuxPlatform(Platform):
    """`bus` is started before us, and stopped after us, by whoever picks the drivers. `node` is what the settings say;
    `root` another place for /proc, /sys, /etc and /run, for tests."""

    def __init__(
        self,
        bus: SystemBus,
        node: str,
        state_dir: Path,
        settings: PlatformSettings | None = None,
        root: Path = Path("/"),
    ) -> None:
        self._bus = bus
        self._node = node
        self._root = root
        self._settings = settings or PlatformSettings()
        self._licence = LicenceFiles(state_dir)
        self._listeners: list[Listener] = []
        self._looking: asyncio.Task[None] | None = None
        self._slot: SdBusSlot | None = None
        self._stamp: Any = None
        self._identity = Identity("", MANUAL, "", __version__, licensed=False, booting=True)
        bus.on_connect(self._on_connect)

    async def start(self) -> None:
        """Raises PortError when the kernel has no boot id, or a file of hardware rules is wrong."""
        boot_id = host.text(self._root / "proc/sys/kernel/random/boot_id")
        if not boot_id:
            raise PortError("/proc/sys/kernel/random/boot_id cannot be read: /proc is not mounted")
        hardware, _ = self._recognised()
        self._take(replace(self._identity, boot_id=boot_id, hardware=hardware, serial=self._serial()))
        self._look()
        self._looking = asyncio.create_task(self._look_again())

    async def stop(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    def identity(self) -> Identity:
        return self._identity

    def on_change(self, listener: Listener) -> None:
        self._listeners.append(listener)

    async def examine(self) -> Sequence[Finding]:
        return [*self._hardware_findings(), self._serial_finding(), self._licence_finding(), await _time_finding()]

    # ------------------------------------------------------------------------------------------ looking

    async def _on_connect(self) -> None:
        """Whether the operating system has finished starting: asked once, and told by a signal."""
        manager = (SYSTEMD, SYSTEMD_PATH, SYSTEMD_MANAGER)

        def finished(arguments: tuple[Any, ...]) -> None:
            self._take(replace(self._identity, booting=False))

        self._slot = await self._bus.watch(*manager, "StartupFinished", finished)
        await self._bus.subscribe()
        state = await self._bus.get(*manager, "SystemState")
        self._take(replace(self._identity, booting=state in _BOOTING))

    async def _look_again(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            self._look()

    def _look(self) -> None:
        reasons = self._reboot_reasons()
        stamp = self._licence.stamp()
        problem = self._identity.licence_problem
        if stamp != self._stamp or not problem:  # a licence may expire
            problem, self._stamp = self._licence_problem(self._identity.serial), stamp
        if problem != self._identity.licence_problem and problem:
            log.warning("this controller has no licence: %s", problem)
        self._take(replace(self._identity, licensed=not problem, licence_problem=problem, reboot_reasons=reasons))

    def _take(self, identity: Identity) -> None:
        if identity != self._identity:
            self._identity = identity
            for listener in self._listeners:
                listener()

    def _recognised(self) -> tuple[str, str]:
        name, node = recognise(host.read_host(self._root), host.rules(self._root))
        return self._settings.hardware or name, node

    def _serial(self) -> str:
        return self._settings.serial or host.serial(self._root)

    def _licence_problem(self, serial: str) -> str:
        try:
            self._licence.check(serial)
        except LicenceError as error:
            return str(error)
        return ""

    def _reboot_reasons(self) -> Mapping[str, str]:
        files = sorted((self._root / REBOOT_REASONS).glob("*"))[:REASONS_MAX]
        return {path.name: host.text(path) for path in files if not path.name.startswith(".")}

    # ------------------------------------------------------------------------------------------ for the doctor

    def _hardware_findings(self) -> list[Finding]:
        try:
            name, node = self._recognised()
        except PortError as error:
            return [Finding("hardware", False, str(error), "correct the file")]
        said = " (by the settings)" if self._settings.hardware else ""
        findings = [Finding("hardware", True, f"{name}{said}")]
        if node and node != self._node:
            remedy = f'node = "{node}" in the settings, or exchange the controllers'
            findings.append(Finding("node", False, f"looks like {node}, the settings say {self._node}", remedy))
        else:
            detail = f"{self._node}, as the hardware says" if node else f"{self._node}; the hardware does not tell"
            findings.append(Finding("node", True, detail))
        return findings

    def _serial_finding(self) -> Finding:
        serial = self._serial()
        remedy = "" if serial else "`systemd-machine-id-setup` makes a machine id, which will do"
        return Finding("serial number", bool(serial), serial or "none", remedy)

    def _licence_finding(self) -> Finding:
        problem = self._licence_problem(self._serial())
        remedy = "`middlewared pair` makes one for both, free of charge; or `middlewared licence issue OTHER_SERIAL`"
        return Finding("licence", not problem, problem or "holds for this controller", remedy if problem else "")


async def _time_finding() -> Finding:
    """Whether the kernel's clock follows a time server, as org.freedesktop.timedate1(5) tells it."""
    subject, remedy = "time synchronisation", "apt-get install chrony, and name it a time server"
    service = "org.freedesktop.timedate1"
    try:
        async with connected() as bus:
            fine = bool(await bus.get(service, "/org/freedesktop/timedate1", service, "NTPSynchronized"))
    except PortError as error:
        return Finding(subject, False, str(error), remedy)
    return Finding(subject, fine, "the clock follows a time server" if fine else "none", "" if fine else remedy)
