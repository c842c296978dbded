"""The surroundings of virtual machines: a switch with their cables, a shelf, and a client that works all the time."""

import asyncio
import shutil
import sys
from asyncio.subprocess import DEVNULL, Process
from contextlib import suppress

from middlewared import programs
from middlewared.lab.equipment import Equipment
from middlewared.lab.netns.layout import CLIENT, CLIENT_ADDRESS, PREFIX_LENGTH, SHELF
from middlewared.lab.netns.namespaces import Network
from middlewared.lab.places import NODES, LabError, Places
from middlewared.lab.process import die_with_parent
from middlewared.lab.target import Target
from middlewared.lab.vm import layout, net, prepare, setup, shelf
from middlewared.lab.vm.emulator import Boot
from middlewared.lab.vm.image import Image
from middlewared.lab.vm.inside import inside, notes
from middlewared.lab.vm.machine import boot_of, fresh_mark
from middlewared.ports import PortError

_COPY_MS = 120_000


class VirtualMachines(Equipment):
    """lab.surroundings.Surroundings for `lab up --vm`. Needs root, qemu, mmdebstrap, tgt; see image.missing."""

    def __init__(self, places: Places) -> None:
        network = Network(layout.PREFIX)
        folder, kind = places.directory / SHELF, places.layout
        self._shelf_boot = Boot(folder / "vmlinux", folder / "initrd", folder / "disk.qcow2", shelf.drives(folder))
        target: Target = shelf.tgt(folder, network, paths=kind.paths)
        if kind.shelf == "lio":
            target = shelf.LioShelf(self._shelf_boot, network, paths=kind.paths)
        super().__init__(places, network, target, "vm")
        self._client: Process | None = None

    async def start(self) -> None:
        self._lock()
        image, snapshots = await prepare.ensure(_say, self._places.layout)
        await self._lay_out(image, snapshots)
        try:
            await prepare.open_network(self._network, self._places.layout)
            await self._network.add_machine(CLIENT)
            await self._network.plug(CLIENT, "eth0", f"{CLIENT_ADDRESS}/{PREFIX_LENGTH}")
        except PortError as error:
            raise LabError(f"the lab's network: {error}") from error
        await self._start_target()
        await self._start_client()

    async def _lay_out(self, image: Image, snapshots: prepare.Snapshots) -> None:
        """The machines' own disks, and the shelf's with an empty pool on them."""
        folder = self._places.directory / SHELF
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copy(image.installed, setup.package_file(self._places))
        boots = {node: boot_of(self._places, node) for node in NODES}
        for node, boot in boots.items():
            boot.disk.parent.mkdir(mode=0o700)
            fresh_mark(self._places, node).touch()
        if self._places.layout.shelf == "lio":
            boots[SHELF] = self._shelf_boot
        copies = [(snapshots.shelf, folder), *((snapshots.disk(name), boot.disk) for name, boot in boots.items())]
        try:
            for here, there in copies:
                await programs.output("cp", "-a", "--reflink=auto", str(here), str(there), timeout_ms=_COPY_MS)
            for boot in boots.values():
                boot.kernel.symlink_to(image.vmlinux)
                boot.initrd.symlink_to(image.initrd)
                await shelf.make_drives(boot.drives)
        except PortError as error:
            raise LabError(f"the machines' disks: {error}") from error

    async def _start_client(self) -> None:
        command = (sys.executable, "-m", "middlewared.lab.vm.ledger", "write", str(notes(self._places)))
        notes(self._places).unlink(missing_ok=True)
        self._client = await asyncio.create_subprocess_exec(
            *self._network.command(CLIENT, *command), stdin=DEVNULL, stdout=DEVNULL, preexec_fn=die_with_parent
        )

    async def stop(self) -> None:
        if self._client is not None and self._client.returncode is None:
            with suppress(ProcessLookupError):
                self._client.kill()
            await self._client.wait()
        await super().stop()

    def machine(self, node: str) -> list[str]:
        program = (sys.executable, "-m", "middlewared.lab.vm.machine", "--paths", str(self._places.layout.paths))
        return list(self._network.command(net.SWITCH, *program))

    async def power(self, node: str, *, on: bool) -> None:
        if not on:
            self._held[node] = []

    async def freeze(self, node: str, *, frozen: bool) -> None:
        """Nothing: qemu stands still, and with it all of the machine. What it was sent waits in its NIC, as in a real
        one's."""

    async def set_link(self, link: str, *, up: bool) -> None:
        """The machines are told of their carriers (machine.Hull), and qemu drops what is sent without one."""

    async def set_disk_pulled(self, node: str, lun: int, *, pulled: bool) -> None:
        """The kernel of one controller loses the disk, as when it is pulled out of its slot."""
        serial = shelf.DISKS[lun].serial
        remove = (
            f"for page in $(grep -l {serial} /sys/block/sd*/device/vpd_pg80); do echo 1 > ${{page%/*}}/delete; done"
        )
        await self._inside(node, "sh", "-ec", remove if pulled else "iscsiadm -m session --rescan")

    async def kill_speaker(self, node: str) -> None:
        await self._inside(node, "systemctl", "kill", "--signal=KILL", "middlewared-vrrp.service")

    # ------------------------------------------------------------------------------------------ inside

    async def _inside(self, node: str, *words: str) -> str:
        """Run a program on a controller."""
        return await inside(self._places, node, *words)


def _say(text: str) -> None:
    print(f"  {text}", flush=True)
