"""The shared disks of a Linux host: SCSI by /dev/sgN on every path, NVMe by its namespaces."""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from middlewared.blockdevices import BlockDevice, BlockDeviceWatch, Kind, boot_pool_members, scan
from middlewared.plugins.fencing.ioctl import Ioctl, linux_ioctl
from middlewared.plugins.fencing.logic import OURS_KIND
from middlewared.plugins.fencing.nvme import NvmeTransport, namespace_of, open_nvme
from middlewared.plugins.fencing.scsi import Status, explain
from middlewared.plugins.fencing.scsi_pr import parse_capabilities, report_capabilities
from middlewared.plugins.fencing.sgio import SgTransport, open_sg
from middlewared.plugins.fencing.transport import Disk, TransportError, command, persists
from middlewared.ports import Finding, PortError
from middlewared.workers import Workers

log = logging.getLogger(__name__)

LOOK_MS_MAX = 1000  # one question to a disk that was just found
REOPEN_MS = 2000  # until a node that could not be opened is tried again
_REMEDY_PR = "put its serial into fence.exclude if it is not shared; a shared disk must have persistent reservations"

AnyPath = SgTransport | NvmeTransport


class LinuxDisks:
    """The disks that this host shares (transport.DiskSource), as `middlewared.blockdevices` finds them.

    `exclude`: serials to leave alone. Everything else that is neither boot disk nor removable counts, also what cannot
    be reserved: it makes a takeover fail, and an administrator decide. `ioctl` and `root` are other ones in tests.
    """

    def __init__(
        self,
        watch: BlockDeviceWatch | None = None,
        *,
        exclude: Collection[str] = (),
        root: Path = Path("/"),
        ioctl: Ioctl = linux_ioctl,
    ) -> None:
        self._watch = watch or BlockDeviceWatch(root, ignored=exclude)
        self._exclude = frozenset(exclude)
        self._root = root
        self._ioctl = ioctl
        self._workers = Workers()
        self._paths: dict[tuple[str, str], AnyPath] = {}  # by serial and node
        self._lasting: set[str] = set()  # disks that can keep reservations: known of a disk, whichever path told
        self._disks: dict[str, Disk] = {}
        self._listeners: list[Callable[[], None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._reopen: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Raises PortError."""
        self._watch.on_change(self._update)
        await self._watch.start()
        self._update()
        learning = list(self._tasks)
        if learning:  # what the disks can do should be known before somebody has them taken
            await asyncio.wait(learning, timeout=2 * LOOK_MS_MAX / 1000)

    async def stop(self) -> None:
        await self._watch.stop()
        if self._reopen is not None:
            self._reopen.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._paths.clear()
        self._disks = {}

    def disks(self) -> Mapping[str, Disk]:
        return self._disks

    def on_change(self, listener: Callable[[], None]) -> None:
        self._listeners.append(listener)

    # ------------------------------------------------------------------------------------------ what there is

    def _shared(self) -> list[BlockDevice]:
        return [device for device in self._watch.devices if device.shared]

    def _update(self) -> None:
        """The devices have changed: open what is new, let go of what is gone."""
        before, self._paths = self._paths, {}
        unopened = False
        for device in self._shared():
            for node in _nodes(device):
                place = (device.serial, node)
                path = before.get(place) or self._open(device, node)
                if path is None:
                    unopened = True
                else:
                    self._paths[place] = path
                    path.persists = device.serial in self._lasting
                    if not path.persists and place not in before:
                        self._learn(path)
        self._publish()
        if unopened and self._reopen is None:
            self._reopen = asyncio.get_running_loop().call_later(REOPEN_MS / 1000, self._try_again)

    def _try_again(self) -> None:
        self._reopen = None
        self._update()

    def _open(self, device: BlockDevice, node: str) -> AnyPath | None:
        place = self._root / node.removeprefix("/")
        try:
            if device.kind is Kind.SCSI:
                return SgTransport(open_sg(place), device.serial, self._workers, self._ioctl)
            opened = open_nvme(place)
            namespace = namespace_of(opened, self._ioctl)
            return NvmeTransport(opened, device.serial, namespace, self._workers, self._ioctl)
        except OSError as error:
            log.error("disk %s: %s cannot be opened: %s", device.serial, node, error.strerror)
            return None

    def _learn(self, path: AnyPath) -> None:
        """Ask in the background whether it can keep reservations over a loss of power."""
        task = asyncio.get_running_loop().create_task(self._do_learn(path))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _do_learn(self, path: AnyPath) -> None:
        try:
            lasts = await persists(path, LOOK_MS_MAX)
        except TransportError as error:
            log.warning("disk %s: %s", path.serial, error)
            return
        if lasts and path.serial not in self._lasting:
            self._lasting.add(path.serial)
            for place, one in self._paths.items():
                one.persists = place[0] in self._lasting
            self._publish()

    def _publish(self) -> None:
        disks = {}
        for device in self._shared():
            paths = [self._paths[place] for node in _nodes(device) if (place := (device.serial, node)) in self._paths]
            disks[device.serial] = Disk(device.serial, tuple(paths), device.serial in self._lasting)
        self._disks = disks
        for listener in self._listeners:
            listener()

    # ------------------------------------------------------------------------------------------ a look at the host

    async def examine(self) -> Sequence[Finding]:
        """Which disks count as shared, and whether each can be reserved. Changes nothing; never raises."""
        try:
            boot = await boot_pool_members(self._root)
            devices = await asyncio.to_thread(scan, self._root, boot=boot, ignored=self._exclude)
        except (OSError, PortError) as error:
            return [Finding("shared disks", False, str(error), "mount sysfs on /sys")]
        wanted = [device for device in devices if device.shared]
        if not wanted:
            remedy = "check the cables to the shelf, and fence.exclude"
            return [Finding("shared disks", False, "none is visible from here", remedy)]
        unnamed = [device.name for device in devices if not device.serial and not device.is_boot]
        found = [await self._examine(device) for device in wanted]
        found += [Finding(f"disk {name}", True, "tells no serial number: it is no shared disk") for name in unnamed]
        return [Finding("shared disks", True, f"{len(wanted)} are visible"), *found]

    async def _examine(self, device: BlockDevice) -> Finding:
        subject, nodes = f"disk {device.serial}", _nodes(device)
        if not nodes:
            return Finding(subject, False, f"{device.name} has no /dev/sgN", "modprobe sg, and load it at boot")
        path = self._open(device, nodes[0])
        if path is None:
            return Finding(subject, False, f"{nodes[0]} cannot be opened", "run this as root")
        try:
            reply = await command(path, report_capabilities(), timeout_ms=LOOK_MS_MAX)
            if reply.status != Status.GOOD:
                return Finding(subject, False, f"no persistent reservations: {explain(reply)}", _REMEDY_PR)
            can = parse_capabilities(reply.data)
        except (TransportError, ValueError) as error:
            return Finding(subject, False, str(error), "check the disk and its cables")
        if can.kinds and OURS_KIND not in can.kinds:
            return Finding(subject, False, "no reservations of the type write exclusive, registrants only", _REMEDY_PR)
        power = "survive" if can.survives_power_loss else "do not survive"
        return Finding(subject, True, f"{len(nodes)} paths; reservations {power} a loss of power")


def _nodes(device: BlockDevice) -> list[str]:
    """Where its commands go, each once. Paths that the kernel has given up only if there is no other.

    One for NVMe: it knows hosts, not paths, and each path would undo what the other registered.
    """
    reachable = [path.node for path in device.paths if path.node and path.reachable]
    nodes = list(dict.fromkeys(reachable or [path.node for path in device.paths if path.node]))
    return nodes[:1] if device.kind is Kind.NVME else nodes
