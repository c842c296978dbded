"""The network of the virtual machines: the switch's namespace, with a tap for each of their NICs."""

from middlewared import programs
from middlewared.lab.netns.namespaces import Network
from middlewared.lab.vm.layout import MANAGEMENT_HOST, PREFIX, nics, tap

SWITCH = "switch"
_IP_MS = 10_000


async def _ip(*words: str) -> None:
    await programs.output("ip", "-n", f"{PREFIX}-{SWITCH}", *words, timeout_ms=_IP_MS)


async def open_switch(network: Network) -> None:
    """The switch itself has an address, from where the lab reaches its machines. Raises PortError."""
    await network.create()
    await _ip("address", "add", f"{MANAGEMENT_HOST}/24", "dev", "br0")


async def plug(node: str) -> None:
    """A machine's cables; they stay when it is off, as a switch's ports do. Raises PortError."""
    for nic in nics(node):
        await _ip("tuntap", "add", "dev", tap(node, nic), "mode", "tap")
        await _ip("link", "set", tap(node, nic), "master", "br0", "up")
