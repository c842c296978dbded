"""A pair of machines that have booted, kept as snapshots: a fresh pair then takes seconds."""

import asyncio
import inspect
import shutil
import subprocess
from pathlib import Path

from middlewared import programs
from middlewared.lab.netns.layout import PREFIX_LENGTH, SHELF, SHELF_NIC
from middlewared.lab.netns.namespaces import Network
from middlewared.lab.places import NODES, LabError
from middlewared.lab.target import PORT, ScsiTarget, TargetDisk
from middlewared.lab.vm import layout, net, setup
from middlewared.lab.vm.emulator import Boot, Emulator
from middlewared.lab.vm.image import Image, Say, cache, digest, missing
from middlewared.lab.vm.wires import WireError
from middlewared.ports import PortError

BOOT_S_MAX = 300.0  # emulation, on a machine that does other things too
_TOOL_MS = 60_000


def target(folder: Path, network: Network) -> ScsiTarget:
    """The shelf, with its files in `folder`."""
    disks = [TargetDisk(lun + 1, f"LABDISK{lun:03d}", layout.DISK_BYTES) for lun in range(layout.DISKS)]
    portals = (f"{layout.SHELF_ADDRESS}:{PORT}",)
    return ScsiTarget(folder, disks, portals, within=network.command(SHELF), synchronous=False)


async def open_network(network: Network) -> None:
    """Switch, shelf and the machines' cables. Raises PortError."""
    await net.open_switch(network)
    await network.add_machine(SHELF)
    await network.plug(SHELF, SHELF_NIC, f"{layout.SHELF_ADDRESS}/{PREFIX_LENGTH}")
    for node in NODES:
        await net.plug(node)


class Snapshots:
    """The kept pair: a disk with a running machine in it for each controller, and the shelf's disks with a pool."""

    def __init__(self, image: Image, say: Say) -> None:
        qemu = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=False).stdout
        lines = [layout.command(node, Path(), Path(), Path(), Path(), snapshot=False) for node in NODES]
        made_by = [inspect.getsource(step) for step in (setup.connect, setup.log_in, setup.make_pool)]
        self._image = image
        self._say = say
        self.folder = cache() / f"pair-{digest(image.system.name, qemu, lines, made_by)}"

    def disk(self, node: str) -> Path:
        return self.folder / f"{node}.qcow2"

    @property
    def shelf(self) -> Path:
        return self.folder / SHELF

    async def make(self) -> None:
        """If it is not there yet. Raises LabError."""
        if self.folder.exists():
            return
        self._say("booting the pair for the first time, and keeping it: a minute")
        part = self.folder.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(mode=0o700, parents=True)
        network = Network(layout.PREFIX)
        shelf = target(part / SHELF, network)
        try:
            await open_network(network)
            await shelf.start()
            await self._boot_and_keep(part, network)
        except (PortError, WireError, OSError) as error:
            raise LabError(f"the machines do not start: {error}") from error
        finally:
            await shelf.kill()
            await network.close()
        part.rename(self.folder)

    async def _boot_and_keep(self, part: Path, network: Network) -> None:
        machines = {}
        for node in NODES:
            (part / f"{node}.d").mkdir()
            disk = part / f"{node}.qcow2"
            backing = ("-b", str(self._image.disk), "-F", "raw")
            await programs.output("qemu-img", "create", "-q", "-f", "qcow2", *backing, str(disk), timeout_ms=_TOOL_MS)
            within = network.command(net.SWITCH)
            boot = Boot(self._image.vmlinux, self._image.initrd, disk)
            machines[node] = Emulator(node, part / f"{node}.d", boot, within=within)
        try:
            await asyncio.gather(*(self._boot(node, machine) for node, machine in machines.items()))
            await setup.log_in(machines["a"].agent)
            await setup.make_pool(machines["a"].agent)
            for machine in machines.values():
                await machine.save()
        finally:
            for machine in machines.values():
                await machine.kill()
        for node in NODES:
            shutil.rmtree(part / f"{node}.d")

    async def _boot(self, node: str, machine: Emulator) -> None:
        await machine.start(snapshot=False)
        await machine.agent.until_ready(BOOT_S_MAX)
        await setup.connect(machine.agent, node)


async def ensure(say: Say) -> tuple[Image, Snapshots]:
    """Everything that is cached, made as far as it is not there. Raises LabError."""
    why = missing()
    if why:
        raise LabError(why)
    image = Image(say)
    await asyncio.to_thread(image.build)
    snapshots = Snapshots(image, say)
    await snapshots.make()
    return image, snapshots
