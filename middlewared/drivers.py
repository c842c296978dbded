"""Picks the drivers for a machine. The only place that knows which ones there are."""

import asyncio
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

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
from middlewared.settings import Settings

if TYPE_CHECKING:
    from middlewared.plugins.firewall.nftables import NftablesFirewall
    from middlewared.plugins.interface.netlink import NetlinkInterfaces
    from middlewared.plugins.vip.keepalived import KeepalivedVirtualIps

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
    """The drivers that the settings name, not started. Raises SettingsError.

    `simulated`: all of them, over the lab's machine. `netns`: the network is real, and the rest the lab's. `linux`: all
    of a real machine. What a set does not need is not imported.
    """
    return {"simulated": _simulated, "netns": _netns, "linux": _linux}[settings.drivers](settings)


def _simulated(settings: Settings) -> Drivers:
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


def _netns(settings: Settings) -> Drivers:
    lab = _simulated(settings)
    interfaces, firewall, speaker = network = _network(settings)
    ports = dataclasses.replace(lab.ports, interfaces=interfaces, virtual_ips=speaker, firewall=firewall)
    return Drivers(ports, (*lab.parts, *network), network)


def _network(settings: Settings) -> "tuple[NetlinkInterfaces, NftablesFirewall, KeepalivedVirtualIps]":
    """The real drivers of the network, in the order in which they start."""
    from middlewared.plugins.firewall.nftables import NftablesFirewall
    from middlewared.plugins.interface.netlink import NetlinkInterfaces
    from middlewared.plugins.interface.netlink_table import NetworkSettings
    from middlewared.plugins.vip.keepalived import KeepalivedVirtualIps

    network = settings.network
    interfaces = NetlinkInterfaces(NetworkSettings(network.heartbeat, network.physical, network.ignored))
    directory = Path(settings.run_dir) / "vrrp"  # packaging/systemd/middlewared-vrrp.service names it, too
    speaker = KeepalivedVirtualIps(directory, unit=network.vrrp_unit, router_id_base=network.router_id_base)
    return interfaces, NftablesFirewall(), speaker


def _linux(settings: Settings) -> Drivers:
    from middlewared.blockdevices import BlockDeviceWatch
    from middlewared.dbus import SystemBus
    from middlewared.plugins.disk.sysfs import SysfsDisks
    from middlewared.plugins.platform.linux import LinuxPlatform, PlatformSettings
    from middlewared.plugins.pool.commands import ZfsCommands
    from middlewared.plugins.pool.zfs import ZfsPools
    from middlewared.plugins.power.linux import LinuxPower
    from middlewared.plugins.service.systemd import SystemdServices
    from middlewared.plugins.service.units import stored_units

    state_dir = Path(settings.state_dir)
    bus = SystemBus()
    watch = BlockDeviceWatch(ignored=settings.fence.exclude)
    interfaces, firewall, speaker = _network(settings)
    disks = SysfsDisks(watch)
    pools = ZfsPools(watch, commands=ZfsCommands(altroot=settings.pools.altroot), ignored=settings.pools.ignored)
    keeper = FencedDriver(Path(settings.fence.socket), settings)
    services = SystemdServices(bus, stored_units(state_dir / "store.db"))
    power = LinuxPower(bus)
    platform = LinuxPlatform(
        bus, settings.node, state_dir, PlatformSettings(settings.platform.hardware, settings.platform.serial)
    )
    ports = Ports(
        interfaces=interfaces,
        virtual_ips=speaker,
        firewall=firewall,
        disks=disks,
        pools=pools,
        fencing=keeper,
        services=services,
        power=power,
        platform=platform,
    )
    parts = (bus, power, platform, interfaces, firewall, speaker, disks, pools, keeper)
    return Drivers(ports, parts, (bus, interfaces, speaker, firewall, disks, pools, keeper, services, power, platform))


def to_examine(settings: Settings) -> Sequence[Examined]:
    """The real drivers for `middlewared doctor`, not started; none where everything is simulated."""
    return pick(settings).examined


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
