"""Two controllers with simulated kernels, and a peer link that copies the store. Time passes when a test says so."""

import dataclasses
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, cast

import jsonschema
import pytest

from middlewared.alerts import Alerts
from middlewared.auth.identity import INTERNAL, LOCAL_ORIGIN
from middlewared.bus import Bus, Event
from middlewared.errors import CallError
from middlewared.lab.links import LinkError, Links
from middlewared.plugin import Call, Context
from middlewared.plugins.interface.applier import Applier
from middlewared.plugins.interface.carry_out import carry_out
from middlewared.plugins.interface.commits import Commits
from middlewared.plugins.interface.methods import Interfaces as InterfacesPlugin
from middlewared.plugins.interface.plan import Change, describe, plan
from middlewared.plugins.interface.simulated import _config, _nic
from middlewared.ports import Identity, Interfaces, LinkConfig, Listener, Nic, PortError, Ports
from middlewared.rpc import extjson
from middlewared.rpc.registry import Registry
from middlewared.rpc.validation import check_arguments
from middlewared.settings import Settings
from middlewared.store.database import Store
from middlewared.store.lineage import Position

REGISTRY = Registry.load()
NICS = ("eth0", "eth1", "eth2")


class Machine(Interfaces):
    """One kernel; it outlives the daemon. `refuses`: a change that it then refuses, by its description."""

    def __init__(self, node: str) -> None:
        host = 1 if node == "A" else 2
        addresses = {name: f"192.0.{number}.{host}/24" for number, name in enumerate(NICS)}
        macs = {name: f"02:00:00:00:0{host}:0{number}" for number, name in enumerate(NICS)}
        self.links = Links(addresses, macs, lambda name: True)
        self.refuses = ""
        self.changes: list[str] = []
        self.listeners: list[Listener] = []
        self.virtual: dict[str, tuple[str, ...]] = {}

    def nics(self) -> Sequence[Nic]:
        nics = [_nic(row) for row in self.links.rows(NICS)]
        return [dataclasses.replace(nic, addresses=nic.addresses + self.virtual.get(nic.name, ())) for nic in nics]

    def heartbeat(self) -> Nic | None:
        return Nic("hb0", True, "02:00:00:00:00:99", ("169.254.10.1/30",))

    async def present(self) -> Sequence[LinkConfig]:
        return [_config(row) for row in self.links.rows(NICS)]

    async def apply(self, wanted: Sequence[LinkConfig], owned: Sequence[LinkConfig]) -> None:
        await carry_out(plan(await self.present(), wanted, owned), self._perform)

    async def _perform(self, change: Change) -> None:
        if self.refuses and self.refuses in describe(change):
            raise PortError(f"{describe(change)}: refused")
        try:
            self.links.change(type(change).__name__, dataclasses.asdict(change))
        except LinkError as error:
            raise PortError(f"{describe(change)}: {error}") from error
        self.changes.append(describe(change))
        for listener in self.listeners:
            listener()

    def on_change(self, listener: Listener) -> None:
        self.listeners.append(listener)

    def addresses(self, name: str) -> tuple[str, ...]:
        return next(nic.addresses for nic in self.nics() if nic.name == name)

    def names(self) -> list[str]:
        return [nic.name for nic in self.nics()]


class Clock:
    """Both clocks of both controllers."""

    def __init__(self) -> None:
        self.wall = 1_000_000.0
        self.monotonic = 50.0

    def pass_s(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds


class Link:
    """The peer link of one controller."""

    def __init__(self) -> None:
        self.paired = True
        self.other: Controller | None = None  # None: not connected

    @property
    def connected(self) -> bool:
        return self.other is not None

    async def call(self, name: str, args: list[Any], *, timeout_s: float) -> Any:
        if self.other is None:
            raise CallError("not connected")
        return await self.other.call(name, *args)


class Controller:
    """One daemon on one machine. `restart` is a new process; store, file and kernel stay."""

    def __init__(self, node: str, folder: Path, clock: Clock) -> None:
        self.node, self.folder, self.clock = node, folder / node, clock
        self.machine = Machine(node)
        self.events: list[Event] = []
        self.peer = Link()

    async def start(self) -> None:
        self.store = await Store.open(self.folder / "store.db")
        bus = Bus()
        bus.listen(self.events.append)
        identity = Identity("boot", "MANUAL", "1", "1", licensed=True)

        class Platform:
            def identity(self) -> Identity:
                return identity

        unused = cast(Any, None)
        parts: dict[str, Any] = {field.name: unused for field in dataclasses.fields(Ports)}
        self.alerts = Alerts(bus, self.store)
        context = Context(
            settings=Settings(node=self.node, state_dir=str(self.folder)),  # type: ignore[arg-type]  # "A" or "B"
            ports=Ports(**(parts | {"interfaces": self.machine, "platform": Platform()})),
            store=self.store,
            bus=bus,
            jobs=unused,
            alerts=self.alerts,
            audit=unused,
            authenticator=unused,
            peer=cast(Any, self.peer),
            registry=REGISTRY,
            call=unused,
        )
        plugin = self.plugin = InterfacesPlugin(context)
        clocks: Any = {"wall_s": lambda: self.clock.wall, "clock_s": lambda: self.clock.monotonic}
        plugin.applier = Applier(context, **clocks)
        plugin.commits = Commits(context, plugin.applier, wall_s=clocks["wall_s"])
        members = (getattr(plugin, name) for name in dir(plugin))
        self.handlers: dict[str, Callable[..., Any]] = {
            member.__api_method__: member for member in members if hasattr(member, "__api_method__")
        }
        await plugin.start()

    async def stop(self) -> None:
        await self.plugin.stop()
        if isinstance(self.machine, Machine):
            self.machine.listeners.clear()
        await self.store.close()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def call(self, name: str, *arguments: Any) -> Any:
        """The result as a client gets it, checked against the method's schema."""
        method = REGISTRY.methods[name]
        filled = check_arguments(method.params, list(arguments))
        plain = extjson.plain(await self.handlers[name](Call(INTERNAL, LOCAL_ORIGIN), *filled))
        jsonschema.validate(plain, method.spec["result"]["schema"])
        return plain

    def alert_keys(self) -> list[str]:
        return [row["key"] for row in self.alerts.list()]


@pytest.fixture
async def standing(tmp_path: Path) -> AsyncIterator[Controller]:
    """One controller that was not started yet: give it another machine first."""
    controller = Controller("A", tmp_path, Clock())
    yield controller
    await controller.stop()


@pytest.fixture
async def alone(tmp_path: Path) -> AsyncIterator[Controller]:
    """One controller whose other is switched off."""
    controller = Controller("A", tmp_path, Clock())
    await controller.start()
    yield controller
    await controller.stop()


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[Controller, Controller]]:
    """A writes, and B follows."""
    clock = Clock()
    a, b = Controller("A", tmp_path, clock), Controller("B", tmp_path, clock)
    for controller in (a, b):
        await controller.start()
    a.peer.other, b.peer.other = b, a

    async def replicate(_: Position) -> None:
        if a.peer.other is not None:
            await b.store.restore((await a.store.snapshot()).data)

    def refuse() -> None:
        raise CallError("controller A is active")

    a.store.replicate = replicate
    b.store.guard = refuse
    yield a, b
    for controller in (a, b):
        await controller.stop()
