"""Which disks a controller fences: what the settings say. Drivers are imported only where they are picked."""

from pathlib import Path

from middlewared.plugins.fencing.transport import DiskSource, RealSource
from middlewared.settings import Settings, SettingsError


def in_lab(settings: Settings) -> bool:
    """The disks are a lab's, and so is the machine: it must not be reset by the means of a real one."""
    return settings.drivers == "simulated" or settings.fence.shelf != ""


def source_of(settings: Settings) -> DiskSource:
    """Raises SettingsError."""
    if settings.fence.shelf:
        from middlewared.plugins.fencing.simulated import ShelfSource

        return ShelfSource(Path(settings.fence.shelf))
    if settings.drivers == "simulated":
        raise SettingsError("drivers = simulated needs fence.shelf, the socket of the simulated disks")
    return real_source_of(settings)


def real_source_of(settings: Settings) -> RealSource:
    """The disks of a machine that is no lab's. Raises SettingsError."""
    fence = settings.fence
    if fence.iscsi:
        from middlewared.plugins.fencing.iscsi import IscsiSource

        initiator = fence.initiator or f"iqn.2026-11.org.middlewared:controller-{settings.node.lower()}"
        try:
            return IscsiSource(fence.iscsi, initiator, exclude=fence.exclude)
        except ValueError as error:
            raise SettingsError(f"fence.iscsi: {error}") from error
    from middlewared.plugins.fencing.linux import LinuxDisks

    return LinuxDisks(exclude=fence.exclude)
