"""What surroundings with a real network, keepalived and SCSI target have in common."""

import fcntl
import json
import os
import sys

from middlewared import programs
from middlewared.lab.netns.layout import SHELF
from middlewared.lab.netns.namespaces import Network
from middlewared.lab.places import NODES, LabError, Places
from middlewared.lab.target import Target
from middlewared.ports import PortError

_READ_MS = 10_000


class Equipment:
    """A base of lab.surroundings.Surroundings: the shelf, and who holds what. `kind`: a word of `lab up`.

    The names of the namespaces are fixed, so there is one lab of a kind at a time: see `_lock`.
    """

    def __init__(self, places: Places, network: Network, target: Target, kind: str) -> None:
        self._places = places
        self._network = network
        self._target = target
        self._kind = kind
        self._held: dict[str, list[str]] = {node: [] for node in NODES}

    async def stop(self) -> None:
        await self._target.kill()
        await self._network.close()

    async def set_disk_failed(self, lun: int, *, failed: bool) -> None:
        try:
            await self._target.set_failed(lun + 1, failed=failed)
        except PortError as error:
            raise LabError(str(error)) from error

    async def replace_disk(self, lun: int) -> int:
        raise LabError(f"the disks of this target are files that stay: replace one in the lab without --{self._kind}")

    async def restart_shelf(self) -> None:
        await self._target.kill()
        await self._start_target()

    def network(self, node: str, held: dict[str, list[str]], firewall_allowed: bool) -> None:
        self._held[node] = [address for addresses in held.values() for address in addresses]

    def announce(self, node: str, nic: str, address: str) -> None:
        """Nothing: keepalived itself does."""

    def held(self, node: str) -> list[str]:
        return self._held[node]

    async def holders(self) -> dict[int, str | None]:
        """Asked by a program of its own, as an initiator that registers nothing."""
        program = (sys.executable, "-m", "middlewared.lab.netns.holders", str(self._places.layout.disks))
        try:
            told = await programs.output(*self._network.command(SHELF, *program), timeout_ms=_READ_MS)
        except PortError as error:
            raise LabError(f"the shelf does not answer: {error}") from error
        return {int(lun): holder for lun, holder in json.loads(told).items()}

    async def _start_target(self) -> None:
        try:
            await self._target.start()
        except PortError as error:
            raise LabError(f"the shelf does not start: {error}") from error

    def _lock(self) -> None:
        """Until this process ends."""
        self._locked = os.open(f"/run/middlewared-lab-{self._kind}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._locked)
            raise LabError(f"another lab of --{self._kind} runs: end that one first") from error
