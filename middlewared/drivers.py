"""Picks the drivers for a machine. The only place that knows which ones there are."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from middlewared.machine import SimulatedMachine
from middlewared.plugins.disk.simulated import SimulatedDisks
from middlewared.plugins.fencing.driver import FencedDriver
from middlewared.plugins.firewall.simulated import SimulatedFirewall
from middlewared.plugins.interface.simulated import SimulatedInterfaces
from middlewared.plugins.platform.simulated import SimulatedPlatform
from middlewared.plugins.pool.simulated import SimulatedPools
from middlewared.plugins.power.simulated import SimulatedPower
from middlewared.plugins.service.simulated import SimulatedServices
from middlewared.plugins.vip.simulated import SimulatedVirtualIps
from middlewared.ports import Finding, PortError, Ports
from middlewared.settings import Settings, SettingsError

EXAMINE_MS_MAX = 5_000  # for each driver


class Part(Protocol):
    """A driver, or the connection behind some, that has to be started."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


class Examined(Protocol):
    """A driver that can look at its host; see ports.Driver."""

    async def examine(self) -> Sequence[Finding]: ...


@dataclass(frozen=True, slots=True)
class Drivers:
    """The ports, and what is behind them."""

    ports: Ports
    parts: tuple[Part, ...]  # in the order in which they start
    examined: tuple[Examined, ...] = ()

    async def start(self) -> None:
        """Connect. Raises PortError when the machine does not answer; the keeper may come later."""
        started: list[Part] = []
        try:
            for part in self.parts:
                started.append(part)
                await part.start()
        except BaseException:
            await _stop(started)
            raise

    async def stop(self) -> None:
        await _stop(self.parts)

    async def examine(self) -> list[Finding]:
        """What every real driver found on this host."""
        return await examine(self.examined)


def pick(settings: Settings) -> Drivers:
    """The drivers that the settings name. Raises SettingsError."""
    if settings.drivers != "simulated":
        raise SettingsError(
            "drivers = linux: the drivers for real hardware are not part of this release; see README.md"
        )
    machine = SimulatedMachine(Path(settings.machine))
    keeper = FencedDriver(Path(settings.fence.socket))
    ports = Ports(
        interfaces=SimulatedInterfaces(machine),
        virtual_ips=SimulatedVirtualIps(machine),
        firewall=SimulatedFirewall(machine),
        disks=SimulatedDisks(machine),
        pools=SimulatedPools(machine),
        fencing=keeper,
        services=SimulatedServices(machine),
        power=SimulatedPower(machine),
        platform=SimulatedPlatform(machine),
    )
    return Drivers(ports, (machine, keeper))


def to_examine(settings: Settings) -> Sequence[Examined]:
    """The real drivers for `middlewared doctor`, not started; none where everything is simulated."""
    if settings.drivers == "simulated":
        return ()
    # Imported here: a simulated controller does without the libraries of the real drivers.
    from middlewared.dbus import SystemBus
    from middlewared.plugins.platform.linux import LinuxPlatform
    from middlewared.plugins.power.linux import LinuxPower
    from middlewared.plugins.service.systemd import SystemdServices
    from middlewared.plugins.service.units import stored_units

    bus = SystemBus()
    services = SystemdServices(bus, stored_units(Path(settings.state_dir) / "store.db"))
    platform = LinuxPlatform(bus, settings.node, Path(settings.state_dir))
    return (bus, services, LinuxPower(bus), platform)


async def examine(examined: Sequence[Examined]) -> list[Finding]:
    """All at once, each with a deadline; the findings in the order of the drivers."""
    answers = await asyncio.gather(*(_examine(one) for one in examined))
    return [finding for findings in answers for finding in findings]


async def _examine(one: Examined) -> Sequence[Finding]:
    name = type(one).__name__
    try:
        async with asyncio.timeout(EXAMINE_MS_MAX / 1000):
            return await one.examine()
    except TimeoutError:
        return [Finding(name, False, f"could not be examined within {EXAMINE_MS_MAX} ms", "see what hangs: ps axl")]
    except (PortError, OSError) as error:
        return [Finding(name, False, f"could not be examined: {error}", "see the log")]


async def _stop(parts: Sequence[Part]) -> None:
    for part in reversed(parts):
        await part.stop()
