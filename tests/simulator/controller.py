"""One simulated controller: a kernel, and the production keeper and daemon on top of it, from power on to power off."""

import asyncio
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from middlewared import drivers
from middlewared.alerts import Alerts
from middlewared.auth.identity import LOCAL_ORIGIN, NODE
from middlewared.bus import Bus
from middlewared.bus import Event as BusEvent
from middlewared.errors import CallError
from middlewared.jobs import Jobs
from middlewared.lab.kernel import Kernel
from middlewared.lab.places import LAN_LINKS, NODES
from middlewared.lab.properties import defaults
from middlewared.lines import LineConnection, LineError, LineServer
from middlewared.peer.link import PeerLink
from middlewared.plugin import Call, Context
from middlewared.plugins.failover.history import to_wire
from middlewared.plugins.failover.methods import Failover
from middlewared.plugins.failover.passage import Passage
from middlewared.plugins.fencing.keeper import Keeper
from middlewared.plugins.fencing.memory import Tenure
from middlewared.ports import Ports, Power
from middlewared.settings import FenceSettings, PeerSettings, Settings
from middlewared.store.database import Store
from tests.simulator.fabric import Blocks, Source
from tests.simulator.loop import Process
from tests.simulator.memdb import MemoryDisk
from tests.simulator.network import HEARTBEAT, Wire

if TYPE_CHECKING:
    from tests.simulator.world import World

_RESTART_MS_MIN = 100.0  # of a unit that failed, as the lab's init
_RESTART_MS_MAX = 5000.0
_STEADY_S = 10.0


class BootMemory:
    """What the keeper remembers in /run (fencing.memory.Memory): gone with the power."""

    def __init__(self) -> None:
        self._tenure: Tenure | None = None

    def load(self) -> Tenure | None:
        return self._tenure

    def save(self, host_id: int, floor: int, serials: tuple[str, ...]) -> None:
        self._tenure = Tenure(host_id, floor, serials)

    def forget(self) -> None:
        self._tenure = None


class BootNote:
    """A file in /run (failover.unfinished.Unfinished): gone with the power."""

    def __init__(self) -> None:
        self.noted = False

    def note(self) -> None:
        self.noted = True

    def strike(self) -> None:
        self.noted = False


class _Power(Power):
    def __init__(self, controller: "Controller") -> None:
        self._controller = controller

    def reset(self, reason: str) -> None:
        self._controller.reset(reason)

    async def reboot(self, reason: str) -> None:
        self._controller.order("reboot", reason)

    async def shutdown(self, reason: str) -> None:
        self._controller.order("shutdown", reason)


class _History:
    """Past failovers of one daemon's life, without a thread or a file (failover.history.Remembers)."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._passages: dict[int, Passage] = {}
        self.next_number = 1
        self.damaged = False

    def keep(self, passage: Passage) -> None:
        self._passages[passage.number] = passage

    async def rows(self) -> list[dict[str, Any]]:
        return [to_wire(self._node, passage) for passage in self._passages.values()]

    async def close(self) -> None: ...


class Daemon:
    """One life of middlewared: the production parts, put together as middlewared.daemon does."""

    def __init__(self, controller: "Controller", process: Process) -> None:
        self.controller = controller
        self.process = process
        self.failover: Failover | None = None
        self.store: Store | None = None
        self.alerts: Alerts | None = None
        self.context: Context | None = None

    async def run(self) -> None:
        here = self.controller
        settings, world = here.settings, here.world
        picked = drivers.pick(settings)
        ports: Ports = dataclasses.replace(picked.ports, power=_Power(here))
        await picked.start()
        store = self.store = await Store.open(Path("/store.db"), here.disk.connect)
        bus = Bus()
        bus.listen(self._emitted)
        alerts = self.alerts = Alerts(bus, store, wall_s=here.wall_s)
        peer = PeerLink(settings.peer, settings.node, Wire(world.network, here.node, self.process))
        context = self.context = Context(
            settings=settings,
            ports=ports,
            store=store,
            bus=bus,
            jobs=Jobs(bus),
            alerts=alerts,
            audit=None,  # type: ignore[arg-type]  # failover does not use it
            authenticator=None,  # type: ignore[arg-type]  # nor this
            peer=peer,
            registry=None,  # type: ignore[arg-type]  # nor this
            call=self._call_own,
        )
        failover = self.failover = Failover(context, self._open_history, with_files=False)
        failover.controller.wall_s = here.wall_s
        failover.controller.worker.unfinished = here.unfinished
        failover.controller.sync.keep_aside, failover.controller.sync.kept_files = here.disk.keep, here.disk.kept
        peer.serve_call = self._serve_peer
        world.attach(self)
        await failover.start()
        await peer.start()

    async def _open_history(self) -> "_History":
        return _History(self.controller.settings.node)

    async def call(self, name: str, *args: Any, credential: Any = NODE) -> Any:
        """A method of the failover plugin (or a reboot), as the dispatcher would run it. Raises CallError."""
        if name == "system.reboot":
            self.controller.order("reboot", str(args[0]))
            return None
        if self.failover is None:
            raise CallError("The daemon is still starting")
        handler = _handlers(self.failover).get(name)
        if handler is None:
            raise CallError(f"no such method: {name}")
        return await handler(Call(credential, LOCAL_ORIGIN), *args)

    async def _call_own(self, name: str, *args: Any) -> None:
        """Of the other plugins only this one is called, and no dataset is encrypted here."""
        assert name == "pool.dataset.push_keys"

    async def _serve_peer(self, name: str, args: list[Any], on_progress: Any) -> Any:
        return await self.call(name, *args)

    def _emitted(self, event: BusEvent) -> None:
        self.controller.world.on_bus(self.controller.node, event)


def _handlers(plugin: Failover) -> dict[str, Any]:
    members = (getattr(plugin, name) for name in dir(type(plugin)))
    return {member.__api_method__: member for member in members if hasattr(member, "__api_method__")}


class Controller:
    """What stands in one slot of the chassis. Implements lab.kernel.Outside for its kernel."""

    def __init__(self, world: "World", node: str, fence: FenceSettings) -> None:
        self.world = world
        self.node = node
        self.disk = MemoryDisk(f"{world.name}-{node}")
        self.properties = defaults() | {"service_start_ms": 5}
        self.wall_offset_s = 0.0
        self.settings = Settings(
            node="A" if node == "a" else "B",
            hostname=f"controller-{node}",
            drivers="simulated",
            machine=f"/{node}/machine.sock",
            fence=dataclasses.replace(fence, socket=f"/{node}/fenced.sock"),
            peer=PeerSettings(),
        )
        self.powered = False
        self.frozen = False
        self.halting = False
        self.serving: dict[str, list[str]] = {}  # virtual addresses by NIC that the network leads here
        self.kernel: Kernel | None = None
        self.keeper: Keeper | None = None
        self.daemon: Daemon | None = None
        self.memory = BootMemory()
        self.unfinished = BootNote()
        self.boots = 0
        self.stopped: dict[str, Process] = {}  # processes that a fault made stand still
        self._processes: dict[str, Process] = {}
        self._born: dict[str, float] = {}
        self._server: LineServer | None = None
        self._blocks: Blocks | None = None
        self._allowed = False
        self._restart_ms: dict[str, float] = {}
        self._timers: list[Any] = []

    # ------------------------------------------------------------------------------------------ power

    def power_on(self) -> None:
        if self.powered:
            return
        self.powered, self.halting = True, False
        self.boots += 1
        self.memory, self.unfinished = BootMemory(), BootNote()
        self._restart_ms.clear()
        process = self._spawn("kernel")
        process.start(self._boot(process))
        self.world.network_changed()

    async def _boot(self, process: Process) -> None:
        blocks = self._blocks = Blocks(
            self.world.fabric, self.node, lambda: self.kernel.disks_changed() if self.kernel else None
        )
        kernel = self.kernel = Kernel(self.node, f"{self.node}-boot-{self.boots}", self, blocks)
        self._server = LineServer(self._handle, lambda daemon: kernel.daemon_ended())
        self.kernel.power_on(self.world.pools, self.links(), self.properties)
        await self._server.start(Path(self.settings.machine))
        self._start_keeper()
        self._start_daemon()
        await self.kernel.find_hardware()

    def power_off(self) -> None:
        """The plug is pulled."""
        if not self.powered:
            return
        self.powered = self.frozen = False
        for timer in self._timers:
            timer.cancel()
        wire = self.world.network.wires.get(self.node)
        if wire is not None:
            wire.lose_power()
        for process in self._processes.values():
            process.kill()
        self._processes.clear()
        self.stopped.clear()
        self.kernel = self.keeper = self.daemon = None
        self.serving, self._allowed = {}, False
        self.world.network_changed()

    def reset(self, reason: str) -> None:
        """A controller resets itself, and boots again."""
        self.world.note(f"{self.node}: resets itself: {reason}")
        self.world.oracles.was_reset(self.node)
        self.power_off()
        self.world.later(self.world.boot_ms, self.power_on_unless_off)

    def power_on_unless_off(self) -> None:
        if self.node not in self.world.unplugged:
            self.power_on()

    def freeze(self) -> None:
        if self.powered and not self.frozen:
            self.frozen = True
            for process in self._processes.values():
                process.freeze()

    def thaw(self) -> None:
        if self.frozen:
            self.frozen = False
            for process in list(self._processes.values()):
                process.thaw()

    def order(self, kind: str, reason: str) -> None:
        """An orderly end, as systemd would do it."""
        if self.powered and self.kernel is not None:
            self._processes["kernel"].start(self.kernel.handle(kind, {"reason": reason}))

    # ------------------------------------------------------------------------------------------ processes

    def process(self, name: str) -> Process | None:
        return self._processes.get(name)

    def kill(self, name: str) -> None:
        """SIGKILL of `daemon` or `keeper`; init starts it again."""
        process = self._processes.get(name)
        if process is None or not process.alive or self.halting:
            return
        lived_s = self.world.loop.time() - self._born[name]
        process.kill()
        del self._processes[name]
        self.stopped.pop(name, None)
        setattr(self, name, None)
        pause_ms = _RESTART_MS_MIN if lived_s > _STEADY_S else self._restart_ms.get(name, _RESTART_MS_MIN)
        self._restart_ms[name] = min(pause_ms * 2, _RESTART_MS_MAX)
        start = self._start_daemon if name == "daemon" else self._start_keeper
        self._timers.append(self.world.later(pause_ms, start))

    def _spawn(self, name: str) -> Process:
        process = self._processes[name] = Process(self.world.loop, f"{self.node}.{name}")
        self._born[name] = self.world.loop.time()
        if self.frozen:
            process.freeze()
        return process

    def _start_keeper(self) -> None:
        if not self.powered or self.halting or not self.properties["keeper"] or "keeper" in self._processes:
            return
        process = self._spawn("keeper")
        process.start(self._keep())

    async def _keep(self) -> None:
        keeper = self.keeper = Keeper(self.settings, Source(self.world.fabric, self.node), self, self.memory)
        await keeper.start()
        await keeper.guard.wait()

    def _start_daemon(self) -> None:
        if not self.powered or self.halting or "daemon" in self._processes:
            return
        process = self._spawn("daemon")
        self.daemon = Daemon(self, process)
        process.start(self.daemon.run())

    async def _handle(self, connection: LineConnection, op: str, args: dict[str, Any]) -> Any:
        kernel = self.kernel
        if kernel is None:
            raise LineError("EIO", "no power")
        if op == "pool_import" and self._blocks is not None:
            self._blocks.tenure = self.world.oracles.next_tenure(self.node)
        return await kernel.handle(op, args)

    # ------------------------------------------------------------------------------------------ lab.kernel.Outside

    def changed(self, parts: Mapping[str, Any]) -> None:
        if self._server is not None:
            self._server.broadcast("state", parts)

    def advert(self, nic: str, advert: dict[str, Any]) -> None:
        self.world.network.send_advert(self.node, nic, advert)

    async def network(
        self, held: dict[str, list[str]], firewall_allowed: bool, announce: list[tuple[str, str]]
    ) -> None:
        self.serving = {nic: addresses for nic, addresses in held.items() if addresses}
        if firewall_allowed and not self._allowed:
            self.world.oracles.opened(self.node)
        self._allowed = firewall_allowed
        self.world.network_changed()
        await asyncio.sleep(0)

    async def stop_daemon(self) -> None:
        self.halting = True
        self._end("daemon")
        self.daemon = None

    async def stop_keeper(self) -> None:
        self._end("keeper")
        self.keeper = None

    def _end(self, name: str) -> None:
        process = self._processes.pop(name, None)
        if process is not None:
            process.kill()

    def halt(self, kind: str, reason: str) -> None:
        self.world.note(f"{self.node}: {kind}: {reason}")
        self.power_off()
        if kind == "reboot":
            self.properties["reboot_reasons"] = []
            self.world.later(self.world.boot_ms, self.power_on_unless_off)

    # ------------------------------------------------------------------------------------------ surroundings

    def wall_s(self) -> float:
        """What its clock on the wall says."""
        return 1_700_000_000 + self.world.now_s + self.wall_offset_s

    def links(self) -> dict[str, bool]:
        """The carriers that this controller sees: its own cables, and the heartbeat's other end."""
        down = self.world.links_down
        carrier = {link: link not in down for link, (node, _) in LAN_LINKS.items() if node == self.node}
        other = self.world.controllers["b" if self.node == "a" else "a"]
        return carrier | {HEARTBEAT: HEARTBEAT not in down and other.powered}

    def tell_links(self) -> None:
        process = self._processes.get("kernel")
        if process is not None and self.kernel is not None:
            process.call_soon(self.kernel.follow_links, self.links())

    def tell_properties(self) -> None:
        process = self._processes.get("kernel")
        if process is not None and self.kernel is not None:
            process.call_soon(self.kernel.follow_properties, self.properties)
        if not self.properties["keeper"]:
            self._end("keeper")
            self.keeper = None
        else:
            self._start_keeper()

    def tell_pools(self) -> None:
        process = self._processes.get("kernel")
        if process is not None and self.kernel is not None:
            process.call_soon(self.kernel.follow_pools, self.world.pools)

    def tell_disks(self) -> None:
        process = self._processes.get("kernel")
        if process is not None and self._blocks is not None:
            process.call_soon(self._blocks.look_now)

    def hear_advert(self, nic: str, advert: dict[str, Any]) -> None:
        process = self._processes.get("kernel")
        if process is not None and self.kernel is not None:
            process.call_soon(self.kernel.advert, nic, advert)


assert NODES == ("a", "b")
