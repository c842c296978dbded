"""The world: two controllers, a shelf, wires and time. Faults change it (faults.py); oracles watch it (oracles.py)."""

import dataclasses
import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from middlewared.bus import Event as BusEvent
from middlewared.lab.files import fill
from middlewared.lab.places import LAN_LINKS, NODES
from middlewared.lab.pool import RING_LBA, label, unpack
from middlewared.lab.shelf import STANDARD, Shelf, ShelfDisk, Target
from middlewared.plugins.failover.actions import Action
from middlewared.plugins.failover.engine import next_wake_ms
from middlewared.plugins.failover.events import Event
from middlewared.plugins.failover.runner import Runner
from middlewared.plugins.failover.state import State
from middlewared.settings import FenceSettings
from middlewared.store.database import Store
from tests.simulator import commands
from tests.simulator.controller import Controller, Daemon
from tests.simulator.fabric import Fabric
from tests.simulator.loop import Process, VirtualLoop
from tests.simulator.network import HEARTBEAT, Network
from tests.simulator.oracles import Oracles
from tests.simulator.parked import park
from tests.simulator.writer import Writer

_numbers = itertools.count(1)
STILL_S = 12.0  # longer than standing aside, the pause of a unit, and the standby's round of all disks
_DISK_BYTES = 1 << 20
_STORE = Path("/store.db")


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    """What the seed draws of the hardware."""

    disks: int = 4
    disk_latency_ms: float = 0.5
    network_latency_ms: float = 0.2
    boot_ms: float = 2000.0
    sentinels: int = 2
    target: Target = STANDARD  # what the shelf can do
    blank: bool = False  # its disks are new: nobody ever reserved them


class World:
    """Two controllers in virtual time. `note` writes the log of the run."""

    def __init__(self, seed: int, shape: Shape = Shape()) -> None:
        self.seed = seed
        self.shape = shape
        self.name = f"w{next(_numbers)}"
        self.rng = random.Random(seed)
        self.loop = VirtualLoop()
        self.boot_ms = shape.boot_ms
        self.log: list[tuple[float, str]] = []
        self.on_note: Callable[[float, str], None] = lambda at_s, text: self.log.append((at_s, text))
        self.on_engine: Callable[[str, Event | Action], None] = lambda node, what: None
        self.touched_s = 0.0  # when a fault last changed anything
        self.pools = "default"
        self.last_master = "a"
        self.links_down: set[str] = set()
        self.unplugged: set[str] = set()  # controllers that stay off
        self.skipped_s = 0.0
        self._noted_s = self.loop.now_s
        disks = [ShelfDisk(lun, f"D{lun:02d}", _DISK_BYTES) for lun in range(shape.disks)]
        self.shelf = Shelf(disks, target=shape.target, now_ms=lambda: int(self.loop.now_s * 1000))
        self.fabric = Fabric(self.loop, self.shelf, self.rng, shape.disk_latency_ms)
        self.fabric.watch(self._disks_changed)
        self.network = Network(self.loop, self.rng, shape.network_latency_ms)
        self.network.on_advert = lambda node, nic, advert: self.controllers[node].hear_advert(nic, advert)
        self.oracles = Oracles(self)
        self.writer = Writer(self)
        self.fabric.on_landed = self.oracles.landed
        self.fabric.on_command = self.oracles.reserved
        self.oracles.start()
        self.loop.on_error = self.oracles.crashed
        fence = FenceSettings(sentinels=min(shape.sentinels, shape.disks))
        self.controllers = {node: Controller(self, node, fence) for node in NODES}
        self._format()

    # ------------------------------------------------------------------------------------------ life

    def _format(self) -> None:
        """A pool on the disks, which were given up in order, and the pair's configuration on both boot disks."""
        if not self.shape.blank:
            park(self.shelf)
        for disk in self.shelf.disks:
            unit = self.shelf._units[disk.lun]
            unit.blocks[0] = label(disk.lun, self.shape.disks)
            unit.blocks[RING_LBA] = b"{}".ljust(512, b"\0")
        process = Process(self.loop, "installer")
        for node in NODES:
            process.start(self._install(self.controllers[node]))
        self.run_ms(1)
        process.kill()

    async def _install(self, controller: Controller) -> None:
        store = await Store.open(_STORE, controller.disk.connect)
        await store.write(fill)
        await store.begin_epoch()
        await store.close()

    def blank_disks(self) -> int:
        """How many are no members of the pool (yet)."""
        return sum(not unpack(self.shelf._units[lun].blocks.get(0, b"")) for lun in self.fabric.slots)

    def power_on(self) -> None:
        for controller in self.controllers.values():
            controller.power_on()

    def close(self) -> None:
        """Nothing runs any more; the memory is given back."""
        self.on_note = lambda at_s, text: None
        for controller in self.controllers.values():
            controller.power_off()
            controller.disk.close()
        self.controllers.clear()
        self.network.wires.clear()
        self.loop.forget()

    def run_ms(self, duration_ms: float) -> None:
        self.loop.run_until(self.loop.now_s + duration_ms / 1000)

    def run_until(self, holds: Callable[[], bool], bound_ms: float, step_ms: float = 20.0) -> bool:
        """Let time pass until something holds; False when it does not within the bound, or an oracle failed."""
        end_s = self.loop.now_s + bound_ms / 1000
        while not holds():
            if self.loop.now_s >= end_s or self.oracles.violation:
                return False
            self.run_ms(step_ms)
        return True

    def do(self, line: str) -> None:
        """One command (commands.py), now."""
        self.note(f"> {line}")
        self.touched_s = self.now_s
        commands.run(self, line)

    def later(self, delay_ms: float, callback: Callable[..., Any], *args: Any) -> Any:
        """Call back as the world, not as the process that asks."""
        return self.loop.call_later(delay_ms / 1000, callback, *args, context=self.loop.world)

    @property
    def now_s(self) -> float:
        """Since the start, skipped time included."""
        return self.loop.now_s - 1000.0 + self.skipped_s

    def note(self, text: str) -> None:
        self._noted_s = self.loop.now_s
        self.on_note(self.now_s, text)

    def still(self) -> bool:
        """Nothing has happened for longer than any timer here runs, and no engine waits for a time to come.

        Then every second is like the one before: heartbeats, adverts, checks and transactions, and nothing else until
        the next fault. Such time can be skipped.
        """
        if self.loop.now_s - self._noted_s < STILL_S:
            return False
        return all(wake_ms is None for wake_ms in self.wakes_ms())

    def wakes_ms(self) -> list[int | None]:
        """What time each running engine waits for."""
        daemons = [controller.daemon for controller in self.controllers.values() if controller.powered]
        engines = [daemon.failover.controller.runner for daemon in daemons if daemon is not None and daemon.failover]
        return [next_wake_ms(engine.state) for engine in engines]

    def skip_to(self, at_s: float) -> None:
        """Time passes while nothing happens."""
        self.skipped_s += max(0.0, at_s - self.now_s)

    # ------------------------------------------------------------------------------------------ what happens in it

    def attach(self, daemon: Daemon) -> None:
        """Listen to what the engine of a new daemon does."""
        node, failover = daemon.controller.node, daemon.failover
        assert failover is not None
        runner: Runner = failover.controller.runner
        stepped, did, posted = runner._on_step, runner._act, runner._step

        def on_step(before: State, event: Event, after: State) -> None:
            if before.role is not after.role or before.phase is not after.phase:
                self.note(f"{node}: {before.role} -> {after.role} {after.phase or ''} ({after.error or after.cause})")
            stepped(before, event, after)
            if before.role is not after.role:
                self.oracles.role_changed(node, before.role, after.role)

        def act(action: Action) -> None:
            self.on_engine(node, action)
            did(action)

        def step(event: Event) -> None:
            self.on_engine(node, event)
            posted(event)

        runner._on_step, runner._act, runner._step = on_step, act, step  # type: ignore[method-assign]  # an ear, not a change

    def on_bus(self, node: str, event: BusEvent) -> None:
        if event.collection in ("failover.status", "failover.disabled.reasons"):
            self.note(f"{node}: {json.dumps(event.fields)}")

    def network_changed(self) -> None:
        """Addresses or filters moved, or a controller went dark."""
        for controller in self.controllers.values():
            controller.tell_links()

    def _disks_changed(self) -> None:
        for controller in self.controllers.values():
            controller.tell_disks()

    def link(self, name: str, *, up: bool) -> None:
        """A cable: both directions and the carrier. `heartbeat`, `lan-a`, …, `disks-a`, …"""
        if name.startswith("disks-"):
            node = name[-1]
            (self.fabric.cut.discard if up else self.fabric.cut.add)(node)
            self.fabric.changed()
            return
        (self.links_down.discard if up else self.links_down.add)(name)
        ends = [(HEARTBEAT, node) for node in NODES] if name == HEARTBEAT else [(LAN_LINKS[name][1], n) for n in NODES]
        for end in ends:
            (self.network.cut.discard if up else self.network.cut.add)(end)
        if not up or name != HEARTBEAT:  # the segment works only while both its cables do
            for other, (_, nic) in LAN_LINKS.items():
                if other in self.links_down:
                    self.network.cut.update((nic, node) for node in NODES)
        self.network_changed()
        if up:
            self.network.healed()

    # ------------------------------------------------------------------------------------------ to look at

    def role(self, node: str) -> str:
        """The engine's role, or what is instead of an engine."""
        controller = self.controllers[node]
        if not controller.powered:
            return "OFF"
        daemon = controller.daemon
        if daemon is None or daemon.failover is None:
            return "STARTING"
        return str(daemon.failover.controller.runner.state.role)

    def master(self) -> str | None:
        masters = [node for node in NODES if self.role(node) == "MASTER"]
        return masters[0] if len(masters) == 1 else None

    def reasons(self, node: str) -> list[str] | None:
        """As the API would answer; None while nobody answers."""
        daemon = self.controllers[node].daemon
        if not self.controllers[node].powered or daemon is None or daemon.failover is None:
            return None
        return list(daemon.failover.controller.publisher.reasons)

    def status(self, node: str) -> str | None:
        daemon = self.controllers[node].daemon
        if not self.controllers[node].powered or daemon is None or daemon.failover is None:
            return None
        return str(daemon.failover.controller.publisher.status)

    def answers(self, node: str) -> bool:
        """Somebody who asked there would get an answer."""
        controller = self.controllers[node]
        process = controller.process("daemon")
        return controller.powered and process is not None and not process.stops

    def why(self, node: str) -> str:
        """What the engine says of itself, for a human."""
        daemon = self.controllers[node].daemon
        if daemon is None or daemon.failover is None:
            return "no daemon"
        state = daemon.failover.controller.runner.state
        return f"{state.role} {state.phase or ''} {state.error or state.cause} {state.election}"

    def serves(self, node: str) -> bool:
        """Clients reach the virtual address there: it has the address, and lets traffic in."""
        controller = self.controllers[node]
        if not controller.powered or controller.frozen or controller.kernel is None:
            return False
        return controller.kernel.firewall_allowed and bool(controller.serving)
