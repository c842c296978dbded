"""Picks the drivers for a machine. The only place that knows which ones there are."""

from dataclasses import dataclass
from pathlib import Path

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
from middlewared.ports import Ports
from middlewared.settings import Settings, SettingsError


@dataclass(slots=True)
class Drivers:
    """The ports, and the connections behind them."""

    ports: Ports
    machine: SimulatedMachine
    keeper: FencedDriver

    async def start(self) -> None:
        """Connect. Raises PortError when the machine does not answer; the keeper may come later."""
        await self.machine.start()
        await self.keeper.start()

    async def stop(self) -> None:
        await self.keeper.stop()
        await self.machine.stop()


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
    return Drivers(ports, machine, keeper)
