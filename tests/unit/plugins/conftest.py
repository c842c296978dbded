"""A bench for one plugin: a real store, a machine in memory, and calls checked against the plugin's own schemas."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jsonschema
import pytest

from middlewared.alerts import Alerts
from middlewared.auth.identity import INTERNAL, LOCAL_ORIGIN
from middlewared.bus import Bus
from middlewared.plugin import Call, Context, Plugin
from middlewared.ports import Disk, FenceCode, FenceResult, FenceState, Identity, Listener, Nic, Pool, PortError, Ports
from middlewared.rpc import extjson
from middlewared.rpc.registry import Registry
from middlewared.rpc.validation import check_arguments
from middlewared.settings import Settings
from middlewared.store.database import Store

REGISTRY = Registry.load()


class FakeMachine:
    """Everything a controller's drivers would tell; every port at once. Tests set the attributes."""

    def __init__(self) -> None:
        self.nic_list = [
            Nic("eth0", True, "02:00:00:00:00:01", ("192.0.2.1/24",)),
            Nic("eth1", False, "02:00:00:00:00:02", ("198.51.100.1/24",)),
        ]
        self.heartbeat_nic: Nic | None = Nic("hb0", True, "02:00:00:00:00:03", ("169.254.10.1/30",))
        self.disk_list: list[Disk] = []
        self.pool_list: list[Pool] = []
        self.fence = FenceState()
        self.running = {"nfs": False, "iscsi": True}
        self.identity_now = Identity("boot-1", "ECHOWARP", "A1-00001", "0.1.0", licensed=True)
        self.broken: str | None = None  # why starting services and going down fail
        self.power_log: asyncio.Queue[tuple[str, str]] = asyncio.Queue(maxsize=10)

    def on_change(self, listener: Listener) -> None: ...

    def nics(self) -> Sequence[Nic]:
        return self.nic_list

    def heartbeat(self) -> Nic | None:
        return self.heartbeat_nic

    def disks(self) -> Sequence[Disk]:
        return self.disk_list

    async def pools(self) -> Sequence[Pool]:
        self._check()
        return self.pool_list

    async def imported(self) -> Sequence[Pool]:
        return [pool for pool in await self.pools() if pool.imported]

    def identity(self) -> Identity:
        return self.identity_now

    async def reboot(self, reason: str) -> None:
        self.power_log.put_nowait(("reboot", reason))
        self._check()

    async def shutdown(self, reason: str) -> None:
        self.power_log.put_nowait(("shutdown", reason))
        self._check()

    def _check(self) -> None:
        if self.broken:
            raise PortError(self.broken)


class FakeFence:
    def __init__(self, machine: FakeMachine) -> None:
        self._machine = machine

        self.log: list[str] = []

    def state(self) -> FenceState:
        return self._machine.fence

    async def acquire(self, *, force: bool) -> FenceResult:
        self._machine._check()
        self.log.append("acquire by force" if force else "acquire")
        return FenceResult(FenceCode.OK)

    async def release(self) -> None:
        self._machine._check()
        self.log.append("release")

    async def run_info(self) -> dict[str, Any]:
        self._machine._check()
        return {"pid": 7, "held": self._machine.fence.held}


class FakeServices:
    def __init__(self, machine: FakeMachine) -> None:
        self._machine = machine
        self.log: list[str] = []
        self.units: dict[str, str] = {}
        self.hanging = asyncio.Event()
        self.hanging.set()  # clear it, and nothing is ever finished

    def configure(self, units: Mapping[str, str]) -> None:
        self.units = dict(units)

    def states(self) -> dict[str, bool]:
        return self._machine.running

    async def start(self, name: str) -> None:
        await self.hanging.wait()
        self._machine._check()
        self.log.append(f"start {name}")
        self._machine.running[name] = True

    async def stop(self, name: str) -> None:
        await self.hanging.wait()
        self.log.append(f"stop {name}")
        self._machine.running[name] = False


class Bench:
    """Calls methods the way a client's calls arrive: arguments validated, defaults filled in, results encoded."""

    def __init__(self, context: Context, machine: FakeMachine) -> None:
        self.context = context
        self.machine = machine
        self.services = cast(FakeServices, context.ports.services)
        self.fence = cast(FakeFence, context.ports.fencing)
        self.plugin: Plugin | None = None
        self._handlers: dict[str, Callable[..., Awaitable[Any]]] = {}

    def use(self, kind: type[Plugin]) -> None:
        self.plugin = kind(self.context)
        for name in dir(self.plugin):
            member = getattr(self.plugin, name)
            if hasattr(member, "__api_method__"):
                self._handlers[member.__api_method__] = member

    async def call(self, name: str, *arguments: Any) -> Any:
        """The result as a client gets it, checked against the method's schema."""
        method = REGISTRY.methods[name]
        filled = check_arguments(method.params, list(arguments))
        result = await self._handlers[name](Call(INTERNAL, LOCAL_ORIGIN), *filled)
        plain = extjson.plain(result)
        jsonschema.validate(plain, method.spec["result"]["schema"])
        return plain


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    store = await Store.open(tmp_path / "store.db")
    bus = Bus()
    machine = FakeMachine()
    parts: dict[str, Any] = {field.name: machine for field in dataclasses.fields(Ports)}
    ports = Ports(**(parts | {"fencing": FakeFence(machine), "services": FakeServices(machine)}))
    unused = cast(Any, None)
    context = Context(
        settings=Settings(hostname="controller-a.example", state_dir=str(tmp_path)),
        ports=ports,
        store=store,
        bus=bus,
        jobs=unused,
        alerts=Alerts(bus, store),
        audit=unused,
        authenticator=unused,
        peer=unused,
        registry=REGISTRY,
        call=unused,
    )
    bench = Bench(context, machine)
    yield bench
    if bench.plugin is not None:
        await bench.plugin.stop()
    await store.close()
