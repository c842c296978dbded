"""Machines that have booted, kept as snapshots: a fresh pair, and a shelf that is a machine, then take seconds."""

import asyncio
import inspect
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

from middlewared import programs
from middlewared.lab.netns.layout import PREFIX_LENGTH, SHELF, SHELF_NIC
from middlewared.lab.netns.namespaces import Network
from middlewared.lab.places import NODES, LabError, Layout
from middlewared.lab.vm import layout, lio, net, setup, shelf
from middlewared.lab.vm.emulator import Boot, Emulator
from middlewared.lab.vm.image import Image, Say, cache, digest, missing
from middlewared.lab.vm.layout import VM
from middlewared.lab.vm.wires import WireError
from middlewared.ports import PortError

_TOOL_MS = 60_000
_HERE = Path()


async def open_network(network: Network, kind: Layout = VM) -> None:
    """Switch, shelf and the machines' cables. Raises PortError."""
    await net.open_switch(network)
    await network.add_machine(SHELF)
    addresses = shelf.addresses(kind.shelf, kind.paths)
    await network.plug(SHELF, SHELF_NIC, *(f"{address}/{PREFIX_LENGTH}" for address in addresses))
    for machine in (*NODES, SHELF):
        await net.plug(machine)


class Snapshots:
    """The kept machines: a disk with a running one in it for each, and the shelf's disks with a pool."""

    def __init__(self, image: Image, say: Say) -> None:
        qemu = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=False).stdout
        pair = [layout.command(node, _HERE, _HERE, _HERE, _HERE, halted=True) for node in NODES]
        made_by = [inspect.getsource(step) for step in (setup.connect, setup.log_in, setup.make_pool)]
        alone = layout.command(SHELF, _HERE, _HERE, _HERE, _HERE, shelf.drives(_HERE), halted=True)
        self._image = image
        self._say = say
        self._pair = cache() / f"pair-{digest(image.system.name, qemu, pair, made_by)}"
        self._lio = cache() / f"shelf-{digest(image.system.name, qemu, alone, lio.LOAD)}"

    def disk(self, machine: str) -> Path:
        return (self._lio if machine == SHELF else self._pair) / f"{machine}.qcow2"

    @property
    def shelf(self) -> Path:
        """A folder with the shelf's disks."""
        return self._pair / SHELF

    async def make(self, kind: Layout) -> None:
        """What is needed and not there yet. Raises LabError."""
        await self._make(self._pair, self._boot_pair, "booting the pair for the first time, and keeping it: a minute")
        if kind.shelf == "lio":
            await self._make(self._lio, self._boot_shelf, "booting the shelf for the first time, and keeping it")

    async def _make(self, folder: Path, work: Callable[[Path, Network], Awaitable[None]], words: str) -> None:
        if await asyncio.to_thread(_used, folder):
            return
        self._say(words)
        part = folder.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(mode=0o700, parents=True)
        network = Network(layout.PREFIX)
        try:
            await open_network(network)
            await work(part, network)
            for sockets in part.glob("*.d"):
                shutil.rmtree(sockets)
        except (PortError, WireError, OSError) as error:
            raise LabError(f"the machines do not start: {error}") from error
        finally:
            await network.close()
        part.rename(folder)

    async def _boot_pair(self, part: Path, network: Network) -> None:
        target = shelf.tgt(part / SHELF, network)
        machines = {node: await self._machine(node, part, network) for node in NODES}
        try:
            await target.start()
            await asyncio.gather(*(_boot(machine) for machine in machines.values()))
            await asyncio.gather(*(setup.connect(machine.agent, node) for node, machine in machines.items()))
            await setup.log_in(machines["a"].agent, layout.PORTALS[:1])
            await setup.make_pool(machines["a"].agent)
            for machine in machines.values():
                await machine.save()
        finally:
            for machine in machines.values():
                await machine.kill()
            await target.kill()

    async def _boot_shelf(self, part: Path, network: Network) -> None:
        machine = await self._machine(SHELF, part, network)
        try:
            await _boot(machine)
            await machine.agent.script(lio.LOAD)
            await machine.save()
        finally:
            await machine.kill()

    async def _machine(self, name: str, part: Path, network: Network) -> Emulator:
        """Not on yet. Its sockets are in a folder of their own."""
        folder, disk = part / f"{name}.d", part / f"{name}.qcow2"
        folder.mkdir()
        backing = ("-b", str(self._image.disk), "-F", "raw")
        await programs.output("qemu-img", "create", "-q", "-f", "qcow2", *backing, str(disk), timeout_ms=_TOOL_MS)
        drives = shelf.drives(folder) if name == SHELF else ()
        await shelf.make_drives(drives)
        boot = Boot(self._image.vmlinux, self._image.initrd, disk, drives)
        return Emulator(name, folder, boot, within=network.command(net.SWITCH))


def _used(folder: Path) -> bool:
    """It is there; the cache forgets what was not used for long."""
    if found := folder.exists():
        folder.touch()
    return found


async def _boot(machine: Emulator) -> None:
    await machine.start(snapshot=False)
    await machine.agent.until_ready(shelf.READY_S_MAX)


async def ensure(say: Say, kind: Layout = VM) -> tuple[Image, Snapshots]:
    """Everything that is cached, made as far as it is not there. Raises LabError."""
    why = missing()
    if why:
        raise LabError(why)
    image = Image(say)
    await asyncio.to_thread(image.build)
    snapshots = Snapshots(image, say)
    await snapshots.make(kind)
    return image, snapshots
