"""Network namespaces, the cables between them and the switch that joins them, by iproute2 (ip-netns(8), ip-link(8)).

One namespace a machine, and one for the switch. Everything carries the network's prefix and is gone after `close`.
"""

import asyncio
import ctypes
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

from middlewared import programs
from middlewared.ports import PortError

PREFIX_MAX = 8  # an interface name has 15 signs
_TIMEOUT_MS = 10_000
_CLONE_NEWNET = 0x40000000  # <sched.h>
_BRIDGE = "br0"
_libc = ctypes.CDLL(None, use_errno=True)


class Network:
    """A room of machines. Use it as `async with`, or call `close` whatever happens."""

    def __init__(self, prefix: str) -> None:
        if not prefix.isalnum() or len(prefix) > PREFIX_MAX:
            raise ValueError(f"{prefix!r}: one to {PREFIX_MAX} letters and digits")
        self._prefix = prefix
        self._switch = self.name("switch")
        self._machines: set[str] = set()
        self._plugged = 0
        self._ports: dict[tuple[str, str], tuple[str, str]] = {}  # a machine's NIC -> the other end of its cable

    def name(self, machine: str) -> str:
        """The namespace of a machine."""
        return f"{self._prefix}-{machine}"

    async def __aenter__(self) -> "Network":
        await self.create()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def create(self) -> None:
        """The switch: a bridge that forwards at once and floods multicast. Raises PortError without root."""
        await self._add(self._switch)
        await _ip("-n", self._switch, "link", "add", _BRIDGE, "type", "bridge", "stp_state", "0", "forward_delay", "0",
                  "mcast_snooping", "0")  # fmt: skip
        await self._up(self._switch, _BRIDGE)

    async def add_machine(self, machine: str) -> None:
        await self._add(self.name(machine))

    async def plug(self, machine: str, nic: str, *addresses: str) -> None:
        """Give a machine a NIC with addresses ("192.0.2.1/24"), its cable in the switch."""
        self._plugged += 1
        port = f"port{self._plugged}"
        inside = self.name(machine)
        far = ("peer", "name", nic, "address", _hardware_address(inside, nic), "netns", inside)
        await _ip("-n", self._switch, "link", "add", port, "type", "veth", *far)
        await _ip("-n", self._switch, "link", "set", port, "master", _BRIDGE, "up")
        self._ports[machine, nic] = (self._switch, port)
        await self._address(inside, nic, addresses)

    async def connect(self, one: str, other: str, nic: str, address: str, other_address: str) -> None:
        """A cable from machine to machine, for the heartbeat; the NIC has the same name on both."""
        inside, beyond = self.name(one), self.name(other)
        await _ip("-n", inside, "link", "add", nic, "type", "veth", "peer", "name", nic, "netns", beyond)
        self._ports[one, nic], self._ports[other, nic] = (beyond, nic), (inside, nic)
        await self._address(inside, nic, [address])
        await self._address(beyond, nic, [other_address])

    async def cut(self, machine: str, nic: str) -> None:
        """Pull the cable: the NIC loses its carrier."""
        namespace, port = self._ports[machine, nic]
        await _ip("-n", namespace, "link", "set", port, "down")

    async def unplug(self, machine: str) -> None:
        """Pull all cables of a machine at once, for good: they go with its namespace."""
        ends = [self._ports.pop(end) for end in list(self._ports) if end[0] == machine]
        await asyncio.gather(*(_ip("-n", where, "link", "set", port, "down") for where, port in ends))

    async def mute(self, machine: str, nic: str) -> None:
        """The machine stands still: its cable has a carrier, and nothing goes through."""
        namespace, port = self._ports[machine, nic]
        await _ip("-n", namespace, "link", "set", port, "nomaster")

    async def unmute(self, machine: str, nic: str) -> None:
        namespace, port = self._ports[machine, nic]
        await _ip("-n", namespace, "link", "set", port, "master", _BRIDGE)

    async def heal(self, machine: str, nic: str) -> None:
        namespace, port = self._ports[machine, nic]
        await _ip("-n", namespace, "link", "set", port, "up")

    async def addresses(self, machine: str, nic: str) -> tuple[str, ...]:
        """All addresses of a NIC now, with prefix length."""
        shown = await _ip("-n", self.name(machine), "-brief", "address", "show", "dev", nic)
        return tuple(shown.split()[2:])

    def command(self, machine: str, *command: str, mortal: bool = False) -> tuple[str, ...]:
        """The command that runs another one on the machine. Mortal: with a process namespace of its own, so that
        killing `unshare`, its parent, is pulling the plug: every process that began there dies with it."""
        within = ("unshare", "-m", "-u", "-i", "-p", "--fork", "--kill-child", "--mount-proc") if mortal else ()
        return ("ip", "netns", "exec", self.name(machine), *within, *command)

    def enter(self, machine: str) -> None:
        """Move the calling thread, and the processes that it starts, to the machine. Raises PortError."""
        descriptor = os.open(Path("/run/netns") / self.name(machine), os.O_RDONLY | os.O_CLOEXEC)
        try:
            if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
                raise PortError(f"{machine} cannot be entered: {os.strerror(ctypes.get_errno())}")
        finally:
            os.close(descriptor)

    async def close(self) -> None:
        """Delete everything, also after a failure halfway. Processes that run inside are the caller's."""
        while self._machines:
            await programs.run("ip", "netns", "delete", self._machines.pop(), timeout_ms=_TIMEOUT_MS)
        self._ports.clear()

    async def _add(self, namespace: str) -> None:
        await programs.run("ip", "netns", "delete", namespace, timeout_ms=_TIMEOUT_MS)  # of one that was killed
        self._machines.add(namespace)
        await _ip("netns", "add", namespace)
        await self._up(namespace, "lo")

    async def _address(self, namespace: str, nic: str, addresses: Sequence[str]) -> None:
        for address in addresses:
            # Nobody else has them here: duplicate address detection (RFC 4862) would cost a second.
            await _ip("-n", namespace, "address", "add", address, "dev", nic, *(["nodad"] if ":" in address else []))
        await self._up(namespace, nic)

    async def _up(self, namespace: str, nic: str) -> None:
        await _ip("-n", namespace, "link", "set", nic, "up")


def _hardware_address(machine: str, nic: str) -> str:
    """The same after every boot, as a real NIC has it: others remember by it where to send (RFC 826)."""
    number = zlib.crc32(f"{machine} {nic}".encode())
    return ":".join(f"{byte:02x}" for byte in (0x02, 0, *number.to_bytes(4, "big")))  # locally administered


async def _ip(*words: str) -> str:
    return await programs.output("ip", *words, timeout_ms=_TIMEOUT_MS)


async def missing() -> str:
    """Why there can be no namespaces here, a sentence; empty when there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    try:
        await programs.output("ip", "-V", timeout_ms=_TIMEOUT_MS)
        async with asyncio.timeout(_TIMEOUT_MS / 1000):
            async with Network(f"t{os.getpid() % 10_000_000}") as room:
                await room.add_machine("a")
                await room.plug("a", "eth0")
    except (PortError, TimeoutError) as error:
        return f"this machine makes no network namespaces: {error}"
    return ""
