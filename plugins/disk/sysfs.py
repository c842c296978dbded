"""The shared disks of this host, out of sysfs; kept up to date by the kernel's uevents."""

from collections import Counter
from collections.abc import Iterator, Sequence

from middlewared.blockdevices import BlockDevice, BlockDeviceWatch, Kind
from middlewared.ports import Disk, Disks, Finding, Listener, PortError


class SysfsDisks(Disks):
    """A driver (ports.Driver). Starts and stops the watch that it is given, which others may use meanwhile."""

    def __init__(self, watch: BlockDeviceWatch) -> None:
        self._watch = watch

    async def start(self) -> None:
        """Raises PortError when the disks cannot be listed, or the kernel's news of them not be heard."""
        await self._watch.start()

    async def stop(self) -> None:
        await self._watch.stop()

    def disks(self) -> Sequence[Disk]:
        """Shared disks with at least one path that the kernel has not given up; `paths` counts those."""
        return [
            Disk(device.name, device.serial, device.size_bytes, device.model, paths)
            for device in self._watch.devices
            if device.shared and (paths := reachable_paths(device))
        ]

    def look(self) -> None:
        self._watch.stir()

    def on_change(self, listener: Listener) -> None:
        self._watch.on_change(listener)

    async def examine(self) -> Sequence[Finding]:
        try:
            return list(findings(await self._watch.look()))
        except PortError as error:
            return [Finding("shared disks", False, str(error))]


def reachable_paths(device: BlockDevice) -> int:
    return sum(path.reachable for path in device.paths)


def findings(devices: Sequence[BlockDevice]) -> Iterator[Finding]:
    """What is wrong with the disks of a host; pure."""
    shared = [device for device in devices if device.shared]
    yield Finding(
        "shared disks",
        bool(shared),
        _summary(shared) if shared else "none",
        "" if shared else "connect the shelf, or log in to the iSCSI target; boot, USB and virtio disks do not count",
    )
    for device in devices:
        if not device.is_boot and not device.is_ignored:
            yield from _trouble(device)


def _summary(shared: Sequence[BlockDevice]) -> str:
    counts = Counter(reachable_paths(device) for device in shared)
    return ", ".join(f"{count} with {paths} path{'s' * (paths != 1)}" for paths, count in sorted(counts.items()))


def _trouble(device: BlockDevice) -> Iterator[Finding]:
    subject = f"disk {device.name}"
    if not device.serial:
        yield Finding(
            subject,
            False,
            "it tells neither a serial (VPD page 80h) nor a designator (83h): it is neither listed nor fenced",
            "give it one at the target, or take it away from this host",
        )
        return
    if device.is_ata:
        yield Finding(
            subject,
            False,
            f"{device.serial} is a SATA disk: it knows no persistent reservations",
            f"if it is this controller's own, name {device.serial} in disks.ignored; else use SAS or NVMe",
        )
    if device.kind is Kind.SCSI and not all(path.node for path in device.paths):
        yield Finding(subject, False, "it has no /dev/sgN node", "modprobe sg; echo sg > /etc/modules-load.d/sg.conf")
    lost = [path.block for path in device.paths if not path.reachable]
    if lost:
        yield Finding(
            subject,
            False,
            f"{device.serial}: {len(lost)} of {len(device.paths)} paths are offline: {', '.join(lost)}",
            "look at the cable, the expander or the session of that path",
        )
