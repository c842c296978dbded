"""A controller in network namespaces, below middlewared (`python -m middlewared.lab.netns.machine`).

The first process of a process namespace: with it everything ends that runs on the controller. Network, VRRP and packet
filter are real; the kernel's disks come by iSCSI from user space; pool, services and platform are those of the other
lab.
"""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from middlewared.lab.blocks import BlockDevices
from middlewared.lab.ledger import Ledger
from middlewared.lab.machine import Machine
from middlewared.lab.netns.initiator import Blocks, Initiator
from middlewared.lab.netns.layout import NETNS, PORTAL
from middlewared.lab.places import Places
from middlewared.lab.started import by_room, is_init
from middlewared.ports import Vrrp

_LOOK_S = 0.02
_KEEPALIVED_GONE_S = 3.0


class NetnsMachine(Machine):
    """What the loopback lab's machine simulates of a network is here for real."""

    def __init__(self, places: Places, node: str) -> None:
        self._initiator = Initiator(PORTAL, f"iqn.2026-11.org.middlewared.lab:{node}", places.shelf(node))
        super().__init__(places, node)
        self._ledger = Ledger(node, self.disks, places.notes(node))
        self._writing: asyncio.Task[None] | None = None
        self._held: dict[str, list[str]] = {}
        self._looking: asyncio.Task[None] | None = None

    def block_devices(self, on_luns: Callable[[], None]) -> BlockDevices:
        return Blocks(self._initiator, on_luns)

    async def below(self) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._reap)
        await self._initiator.start()
        self._looking = asyncio.create_task(self._look())

    def vrrp(self) -> tuple[dict[str, str], bool]:
        state = Vrrp.MASTER if self._held else Vrrp.BACKUP
        return {"eth0": str(state)}, True

    def changed(self, parts: Mapping[str, Any]) -> None:
        super().changed(parts)
        imported = self.kernel.pool.imported
        if imported and (self._writing is None or self._writing.done()):
            self._writing = asyncio.create_task(self._ledger.write())
        elif not imported and self._writing is not None:
            self._writing.cancel()

    async def network(
        self, held: dict[str, list[str]], firewall_allowed: bool, announce: list[tuple[str, str]]
    ) -> None:
        """The kernel's own, simulated speaker and filter have nothing to say here."""

    async def stop_keeper(self) -> None:
        """An orderly end: the VRRP speaker goes last, and says so to the other controller."""
        await super().stop_keeper()
        for pid in _keepalived():
            os.kill(pid, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_KEEPALIVED_GONE_S):
                while _keepalived():
                    await asyncio.sleep(_LOOK_S)

    async def _look(self) -> None:
        """Which virtual addresses the kernel has now, for those who look on."""
        while True:
            held = {
                nic: [address] for nic, address in zip(("eth0", "eth1"), NETNS.virtual, strict=True) if _has(address)
            }
            if held != self._held:
                self._held = held
                await super().network(held, True, [])
                self.report()
            await asyncio.sleep(_LOOK_S)

    def _reap(self) -> None:
        """Whoever is left without a parent becomes a child of the first process; keepalived is started so."""
        units = {unit.pid for unit in (self._keeper, self._daemon)}
        for pid in _dead_children():
            if pid not in units:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)


def _has(address: str) -> bool:
    """Only an address that the kernel has can be bound."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def _dead_children() -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if state == "Z" and int(parent) == os.getpid():
                found.append(int(stat.parent.name))
    return found


def _keepalived() -> list[int]:
    found = []
    for name in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if name.read_text().strip() == "keepalived":
                found.append(int(name.parent.name))
    return found


def main() -> None:
    asyncio.run(_run(*by_room(NETNS, "middlewared lab up --netns", is_init)))


async def _run(places: Places, node: str) -> None:
    await NetnsMachine(places, node).run()


if __name__ == "__main__":
    main()
