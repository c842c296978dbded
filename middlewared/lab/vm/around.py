"""The surroundings of virtual machines: a switch with their cables, a shelf, and a client that works all the time."""

import asyncio
import fcntl
import json
import os
import shutil
import sys
from asyncio.subprocess import DEVNULL, Process
from contextlib import suppress

from middlewared import programs
from middlewared.lab.netns.layout import CLIENT, CLIENT_ADDRESS, PREFIX_LENGTH, SHELF
from middlewared.lab.netns.namespaces import Network
from middlewared.lab.places import NODES, LabError, Places
from middlewared.lab.process import die_with_parent
from middlewared.lab.vm import layout, net, prepare, setup, shelf
from middlewared.lab.vm.emulator import Boot
from middlewared.lab.vm.image import Image
from middlewared.lab.vm.inside import inside, notes
from middlewared.lab.vm.machine import boot_of, fresh_mark
from middlewared.ports import PortError

_COPY_MS = 120_000
_READ_MS = 10_000


class VirtualMachines:
    """lab.surroundings.Surroundings for `lab up --vm`. Needs root, qemu, mmdebstrap, tgt; see image.missing."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._network = Network(layout.PREFIX)
        self._target = self._shelf()
        self._held: dict[str, list[str]] = {node: [] for node in NODES}
        self._client: Process | None = None

    async def start(self) -> None:
        self._lock()
        image, snapshots = await prepare.ensure(_say, self._places.layout)
        await self._lay_out(image, snapshots)
        try:
            await prepare.open_network(self._network, self._places.layout)
            await self._network.add_machine(CLIENT)
            await self._network.plug(CLIENT, "eth0", f"{CLIENT_ADDRESS}/{PREFIX_LENGTH}")
            await self._target.start()
        except PortError as error:
            raise LabError(f"the lab's network and shelf: {error}") from error
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
            boots[SHELF] = self._shelf_boot()
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
        await self._target.kill()
        await self._network.close()

    def machine(self, node: str) -> list[str]:
        return list(self._network.command(net.SWITCH, sys.executable, "-m", "middlewared.lab.vm.machine"))

    async def power(self, node: str, *, on: bool) -> None:
        if not on:
            self._held[node] = []

    async def freeze(self, node: str, *, frozen: bool) -> None:
        """Nothing: qemu stands still, and with it all of the machine. What it was sent waits in its NIC, as in a real
        one's."""

    async def set_link(self, link: str, *, up: bool) -> None:
        """The machines are told of their carriers (machine.Hull), and qemu drops what is sent without one."""

    async def set_disk_failed(self, lun: int, *, failed: bool) -> None:
        try:
            await self._target.set_failed(lun + 1, failed=failed)
        except PortError as error:
            raise LabError(str(error)) from error

    async def set_disk_pulled(self, node: str, lun: int, *, pulled: bool) -> None:
        """The kernel of one controller loses the disk, as when it is pulled out of its slot."""
        serial = shelf.DISKS[lun].serial
        remove = (
            f"for page in $(grep -l {serial} /sys/block/sd*/device/vpd_pg80); do echo 1 > ${{page%/*}}/delete; done"
        )
        await self._inside(node, "sh", "-ec", remove if pulled else "iscsiadm -m session --rescan")

    async def replace_disk(self, lun: int) -> int:
        raise LabError("the disks of this target are files that stay: replace one in the lab without --vm")

    async def kill_speaker(self, node: str) -> None:
        await self._inside(node, "systemctl", "kill", "--signal=KILL", "middlewared-vrrp.service")

    async def restart_shelf(self) -> None:
        await self._target.kill()
        try:
            await self._target.start()
        except PortError as error:
            raise LabError(f"the shelf does not start: {error}") from error

    def network(self, node: str, held: dict[str, list[str]], firewall_allowed: bool) -> None:
        self._held[node] = [address for addresses in held.values() for address in addresses]

    def announce(self, node: str, nic: str, address: str) -> None:
        """Nothing: keepalived itself does."""

    def held(self, node: str) -> list[str]:
        return self._held[node]

    async def holders(self) -> dict[int, str | None]:
        """Asked by a program of its own, as an initiator that registers nothing."""
        program = (sys.executable, "-m", "middlewared.lab.netns.holders", str(layout.DISKS))
        try:
            told = await programs.output(*self._network.command(SHELF, *program), timeout_ms=_READ_MS)
        except PortError as error:
            raise LabError(f"the shelf does not answer: {error}") from error
        return {int(lun): holder for lun, holder in json.loads(told).items()}

    # ------------------------------------------------------------------------------------------ inside

    def _shelf(self) -> shelf.Target:
        kind = self._places.layout
        if kind.shelf == "lio":
            return shelf.LioShelf(self._shelf_boot(), self._network, paths=kind.paths)
        return shelf.tgt(self._places.directory / SHELF, self._network, paths=kind.paths)

    def _shelf_boot(self) -> Boot:
        folder = self._places.directory / SHELF
        return Boot(folder / "vmlinux", folder / "initrd", folder / "disk.qcow2", shelf.drives(folder))

    async def _inside(self, node: str, *words: str) -> str:
        """Run a program on a controller."""
        return await inside(self._places, node, *words)

    def _lock(self) -> None:
        """The names of the namespaces are fixed, so there is one such lab at a time; until this process ends."""
        self._locked = os.open("/run/middlewared-lab-vm.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._locked)
            raise LabError("another lab of virtual machines runs: end that one first") from error


def _say(text: str) -> None:
    print(f"  {text}", flush=True)
