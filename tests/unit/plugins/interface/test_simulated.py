"""The simulated driver on a simulated kernel: what is made shows up, and an error leaves nothing behind."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import pytest

from middlewared.lab.kernel import Kernel
from middlewared.lab.properties import defaults
from middlewared.lines import LineError
from middlewared.machine import SimulatedMachine
from middlewared.plugins.interface.simulated import SimulatedInterfaces
from middlewared.ports import LinkConfig, PortError

CABLES = {"heartbeat": True, "lan-a": True, "lan2-a": True}


class Disks:
    luns: tuple[Any, ...] = ()

    async def start(self) -> None: ...


class Machine:
    """SimulatedMachine and the kernel's outside, without the wires between them."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}
        self.kernel = Kernel("a", "boot", cast(Any, self), cast(Any, Disks()))
        self._listeners: dict[str, list[Callable[[], None]]] = {}

    def changed(self, parts: Mapping[str, Any]) -> None:
        self.state.update(parts)
        for part in parts:
            for listener in self._listeners.get(part, []):
                listener()

    async def network(self, held: Any, firewall_allowed: bool, announce: Any) -> None: ...

    def advert(self, nic: str, advert: Any) -> None: ...

    def on_change(self, part: str, listener: Callable[[], None]) -> None:
        self._listeners.setdefault(part, []).append(listener)

    async def call(self, op: str, **args: Any) -> Any:
        try:
            return await self.kernel.handle(op, args)
        except LineError as error:
            raise PortError(error.message) from error


@pytest.fixture
async def machine() -> Machine:
    found = Machine()
    found.kernel.power_on("none", CABLES, defaults())
    await found.kernel.find_hardware()
    return found


@pytest.fixture
def driver(machine: Machine) -> SimulatedInterfaces:
    return SimulatedInterfaces(cast(SimulatedMachine, machine))


VLAN = LinkConfig("vlan20", "VLAN", addresses=("203.0.113.1/24",), parent="eth1", tag=20)


async def test_what_is_made_shows_up_with_its_link(driver: SimulatedInterfaces, machine: Machine) -> None:
    news: list[list[str]] = []
    driver.on_change(lambda: news.append([nic.name for nic in driver.nics()]))
    await driver.apply([VLAN], [VLAN])
    assert news[-1] == ["eth0", "eth1", "vlan20"]
    vlan = driver.nics()[-1]
    assert (vlan.kind, vlan.link_up, vlan.addresses) == ("VLAN", True, ("203.0.113.1/24",))
    machine.kernel.follow_links(CABLES | {"lan2-a": False})
    assert not driver.nics()[-1].link_up, "it has no carrier without its parent's"
    await driver.apply([], [VLAN])
    assert news[-1] == ["eth0", "eth1"]


async def test_an_error_restores_what_was_before(driver: SimulatedInterfaces, machine: Machine) -> None:
    before = await driver.present()
    machine.kernel.follow_properties(defaults() | {"link_fails": True})
    with pytest.raises(PortError, match=r"add 203\.0\.113\.1/24 to vlan20: no address can be added"):
        await driver.apply([VLAN], [VLAN])
    assert await driver.present() == before


async def test_a_nic_that_is_taken_out(driver: SimulatedInterfaces, machine: Machine) -> None:
    machine.kernel.follow_properties(defaults() | {"nics": ["eth0"]})
    assert [nic.name for nic in driver.nics()] == ["eth0"]
    await driver.apply([VLAN], [VLAN])  # passed over
    assert [link.name for link in await driver.present()] == ["eth0"]
