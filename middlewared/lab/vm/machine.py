"""A virtual controller, as the room sees one (`python -m middlewared.lab.vm.machine`): qemu, and its wires to the room.

Leads the process group that qemu belongs to, so that the room can cut its power (SIGKILL) or freeze it (SIGSTOP): a
machine that was stopped so finds on waking that its clock went on. Ends when qemu does.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from middlewared.lab.places import DISK_LINKS, HEARTBEAT_NIC, LAN_LINKS, Places
from middlewared.lab.started import by_room, leads_its_group
from middlewared.lab.vm import setup
from middlewared.lab.vm.emulator import Boot, Emulator
from middlewared.lab.vm.layout import MANAGEMENT_ADDRESS, SAN_NIC, VM
from middlewared.lab.vm.shelf import READY_S_MAX
from middlewared.lab.vm.wires import WireError
from middlewared.lines import LineClient, LineConnection, LineError, LineServer
from middlewared.ports import Vrrp

_ROOM_MS = 5_000
_EXEC_S_MAX = 60.0
_RELAY_BYTES = 1 << 16
_WITNESS_BYTES_MAX = 1 << 16
_CONSOLE_BYTES = 64 << 10
_LAST_WORDS = ("resetting this controller", "Kernel panic", "watchdog", "reboot: ")
_KILLS = {"restart_daemon": "middlewared", "kill_keeper": "fenced", "kill_speaker": "middlewared-vrrp"}


class Cables:
    """The carriers of one machine's NICs; it has them all when it is new."""

    def __init__(self, node: str, set_link: Callable[..., Awaitable[None]]) -> None:
        """`set_link(nic, up=…)`."""
        self.wanted: Mapping[str, bool] = {}  # by link, as the room said last
        self.changing = asyncio.Lock()
        self._node = node
        self._set_link = set_link
        self._are: dict[str, bool] = {}  # by link

    async def plug(self) -> None:
        """Bring them to what is wanted. One call after the other: the room's last word holds."""
        async with self.changing:
            for link, up in self.wanted.items():
                nic = nic_of(link, self._node)
                if nic and self._are.get(link, True) != up:
                    await self._set_link(nic, up=up)
                    self._are[link] = up


class Hull:
    """What is around the virtual machine: power button, cables, console, and an onlooker inside."""

    def __init__(self, places: Places, node: str) -> None:
        self.places = places
        self.node = node
        folder = places.node(node)
        self._emulator = Emulator(node, folder, boot_of(places, node))
        self._room = LineClient(places.room, self._on_room_event, self._room_lost)
        self._server = LineServer(self._handle)
        self._work: set[asyncio.Task[Any]] = set()
        self._cables = Cables(node, self._emulator.set_link)
        self._held: dict[str, list[str]] = {}
        self._relaying: asyncio.Server | None = None

    async def run(self) -> None:
        """Power on; returns when the machine is off, and the room need not be told how."""
        await self._room.connect()
        hello = await self._room.call("hello", timeout_ms=_ROOM_MS, node=self.node)
        try:
            await self._power_on(hello["links"])
        except (WireError, OSError) as error:
            self._log(f"lab: {error}")
            return
        await self._emulator.wait()
        self._log(last_words(self._emulator.console))
        await self._ended()

    async def _power_on(self, links: Mapping[str, bool]) -> None:
        fresh = fresh_mark(self.places, self.node)
        begins = await asyncio.to_thread(fresh.exists)
        self._cables.wanted = self._cables.wanted or links  # what came meanwhile is newer
        async with self._cables.changing:
            await self._emulator.start(snapshot=begins)
        await self._cables.plug()
        self._relaying = await asyncio.start_unix_server(self._relay, str(self.places.api(self.node)))
        await self._server.start(self.places.machine(self.node))
        self._start(self._listen())
        if begins:
            await self._emulator.agent.until_ready(READY_S_MAX)
            await setup.provision(self._emulator.agent, self.places, self.node)
            await asyncio.to_thread(fresh.unlink)

    async def _ended(self) -> None:
        if self._emulator.end == "guest-shutdown":
            await self._halt("shutdown", "its operating system ended")
        elif "reboot: Restarting system" in last_words(self._emulator.console):
            await self._halt("reboot", "its operating system ended")

    def _log(self, words: str) -> None:
        """On the console, where the room looks for a machine's last words."""
        with self.places.console(self.node).open("a") as console:
            console.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {words}\n")

    async def _halt(self, kind: str, reason: str) -> None:
        """The room cuts this process's power then."""
        with suppress(LineError):
            await self._room.call("halt", timeout_ms=_ROOM_MS, kind=kind, reason=reason)
            await asyncio.get_running_loop().create_future()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The controller's API by the lab's own cable."""
        try:
            there = await asyncio.open_connection(MANAGEMENT_ADDRESS[self.node], VM.port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(_pour(reader, there[1]), _pour(there[0], writer))

    # ------------------------------------------------------------------------------------------ what is seen inside

    async def _listen(self) -> None:
        """What the onlooker inside says, for as long as the machine is on."""
        reader, _ = await asyncio.open_unix_connection(str(self._emulator.witness), limit=_WITNESS_BYTES_MAX)
        while line := await reader.readline():
            with suppress(ValueError):  # it was killed amid a line
                await self._tell(json.loads(line))

    async def _tell(self, seen: dict[str, Any]) -> None:
        held = seen.pop("held")
        state = Vrrp.MASTER if held else Vrrp.BACKUP
        with suppress(LineError):
            if held != self._held:
                self._held = held
                allowed = seen["firewall_allowed"]
                await self._room.call("network", timeout_ms=_ROOM_MS, held=held, firewall_allowed=allowed, announce=[])
            await self._room.call("report", timeout_ms=_ROOM_MS, vrrp={"eth0": str(state)}, **seen)

    # ------------------------------------------------------------------------------------------ orders

    async def _handle(self, connection: LineConnection, op: str, args: dict[str, Any]) -> Any:
        if op != "exec":
            raise LineError("EINVAL", f"no such operation: {op}")
        try:
            stdin = bytes.fromhex(args.get("stdin", ""))
            return await self._emulator.agent.run(*args["words"], stdin=stdin, timeout_s=_EXEC_S_MAX)
        except WireError as error:
            raise LineError("EIO", str(error)) from error

    def _on_room_event(self, event: str, data: Any) -> None:
        if event == "links":
            self._cables.wanted = data
            self._start(self._cables.plug())
        elif event in _KILLS:
            unit = f"{_KILLS[event]}.service"
            self._start(self._emulator.agent.run("systemctl", "kill", "--signal=KILL", unit))

    def _room_lost(self) -> None:
        """The room has gone, and with it network, disks and power."""
        os.killpg(os.getpgrp(), 9)

    def _start(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._work.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            print(f"lab: {error}", file=sys.stderr)


def boot_of(places: Places, node: str) -> Boot:
    """The machine's own disk, which outlives its boots, and the links to what it begins with."""
    folder = places.node(node) / "machine"
    return Boot(folder / "vmlinux", folder / "initrd", folder / "disk.qcow2")


def fresh_mark(places: Places, node: str) -> Path:
    """There as long as the machine has never been on: it begins from the snapshot then."""
    return places.node(node) / "machine" / "fresh"


def nic_of(link: str, node: str) -> str:
    """The NIC of a controller that a link is plugged into; empty: none of this one's."""
    if link == "heartbeat":
        return HEARTBEAT_NIC
    owner, nic = LAN_LINKS.get(link) or (DISK_LINKS[link], SAN_NIC)
    return nic if owner == node else ""


def last_words(console: Path) -> str:
    """What the machine said last on its serial line of why it ended."""
    try:
        text = console.read_bytes()[-_CONSOLE_BYTES:].decode(errors="replace")
    except OSError:
        return "nothing on its console"
    lines = [line.strip().rpartition("] ")[2] for line in text.splitlines() if line.strip()]
    for mark in _LAST_WORDS:
        for line in reversed(lines):
            if mark in line:
                return line
    return lines[-1] if lines else "nothing on its console"


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(_RELAY_BYTES):
            writer.write(data)
            await writer.drain()
    writer.close()


def main() -> None:
    places, node = by_room(VM, "middlewared lab up --vm", leads_its_group)
    try:
        asyncio.run(_run(places, node))
    except (WireError, LineError, OSError) as error:
        sys.exit(f"controller {node.upper()}: {error}")


async def _run(places: Places, node: str) -> None:
    await Hull(places, node).run()


if __name__ == "__main__":
    main()
