"""Puts the parts together: ports and peer in, engine in the middle, facts, status and configuration out."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path

from middlewared.bus import Event as BusEvent
from middlewared.plugin import Context
from middlewared.plugins.failover.election import fold
from middlewared.plugins.failover.events import (
    Configured,
    Discovered,
    Elected,
    Event,
    FenceLost,
    PeerChanged,
    PoolsChanged,
    Wish,
)
from middlewared.plugins.failover.facts import Facts
from middlewared.plugins.failover.gone import Gone
from middlewared.plugins.failover.observer import Observer, vrrp_instances
from middlewared.plugins.failover.progress import Progress
from middlewared.plugins.failover.publisher import Publisher
from middlewared.plugins.failover.runner import Runner
from middlewared.plugins.failover.state import Config, Limits, Lost, PeerView, Phase, Role, State
from middlewared.plugins.failover.sync import ConfigSync
from middlewared.plugins.failover.unfinished import UnfinishedFile
from middlewared.plugins.failover.wire import from_wire
from middlewared.plugins.failover.worker import Worker
from middlewared.ports import Pools, PortError, VrrpInstance

log = logging.getLogger(__name__)

_KEEPER_WAIT_S = 10.0
_SPEAKER_RETRY_S = 0.5


class FailoverController:
    """One controller's failover, from start to stop."""

    def __init__(self, context: Context) -> None:
        self._context = context
        settings, ports = context.settings, context.ports
        self._node = settings.node
        self._ports = ports
        self._ready = False
        self._was_held = False
        self._said: dict[type, Event] = {PoolsChanged: PoolsChanged(False)}  # the last of each kind, to post only news
        self._instances: tuple[VrrpInstance, ...] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self.other: Facts | None = None
        self.wall_s: Callable[[], float] = time.time
        self.on_closed: Callable[[str], None] = lambda address: None  # traffic to a virtual address is kept out now
        self.on_step: Callable[[State, Event, State], None] = lambda before, event, after: None  # for the history
        self.observer = Observer(settings, ports, context.store)
        limits = _limits(context)
        self.worker = Worker(
            self._node,
            ports,
            context.store,
            context.peer,
            context.alerts,
            limits.services_ms,
            UnfinishedFile(Path(settings.run_dir) / "services-unfinished"),
        )
        self.runner = Runner(ports, self.worker, limits, self._stepped)
        self.publisher = Publisher(context.bus, context.peer, context.alerts)
        kept = Path(settings.state_dir) / "kept"
        self.sync = ConfigSync(context.store, context.peer, context.alerts, self.mine, lambda: self.other, kept)
        self._progress = Progress(context.jobs)
        self._gone = Gone(ports)

    def mine(self) -> Facts:
        """This controller's facts, now."""
        return self.observer.facts(self.runner.state, ready=self._ready)

    async def start(self) -> None:
        peer = self._context.peer
        peer.on_facts = self._peer_facts
        peer.on_lost = self._peer_lost
        peer.serve_changes = self.sync.receive_changes
        peer.serve_snapshot = self.sync.receive
        await self.observer.start()
        await self.sync.start()
        self.observer.on_change(self.look)
        self.look()
        self._spawn(self._discover())

    async def stop(self) -> None:
        await self.runner.stop()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._gone.stop()
        await self.sync.stop()
        await self.observer.stop()

    def is_virtual(self, address: str) -> bool:
        """The address (without prefix length) moves between the controllers."""
        return any(item.split("/")[0] == address for item in self.observer.config.virtual_addresses)

    @property
    def serving(self) -> bool:
        """Traffic to the virtual addresses is wanted here: this controller leads, or is on its last step there."""
        state = self.runner.state
        return state.role is Role.MASTER or state.phase is Phase.OPENING

    async def wish(self, wish: Wish, cause: str) -> tuple[bool, str]:
        """An operator's request: (changed, refusal). TimeoutError when the outcome takes longer than a minute."""
        answer = await self.runner.ask(wish, cause, timeout_s=60.0)
        return answer.changed, answer.refusal

    def look(self) -> None:
        """Something changed somewhere: tell the engine what is news to it, then the world."""
        self._changed.set()
        config, state, facts = self.observer.config, self.runner.state, self.mine()
        election = fold(facts.interfaces)
        pair = facts.licensed and any(item.critical and item.virtual_addresses for item in config.interfaces)
        designated = (config.master_node or "A") == self._node
        self._post_news(Configured(Config(pair, not config.disabled, designated, config.timeout_s * 1000)))
        self._configure_speaker()
        self._post_news(Elected(election))
        self._post_news(self._pools_news())
        self._check_fence()
        self._alert_strangers()
        self._publish(facts if self.runner.state is state else None)

    def _pools_news(self) -> PoolsChanged:
        pools = self.observer.pools
        late = self.runner.state.role is Role.MASTER and self.worker.found_none and bool(pools)
        return PoolsChanged(any(pool.imported and pool.suspended for pool in pools), late)

    def _post_news(self, event: Event) -> None:
        if self._said.get(type(event)) != event:
            self._said[type(event)] = event
            self.runner.post(event)

    def _check_fence(self) -> None:
        fence = self._ports.fencing.state()
        if fence.running and self._was_held and not fence.held:
            self.runner.post(FenceLost())
        if fence.running:
            self._was_held = fence.held

    def _alert_strangers(self) -> None:
        alerts, found = self._context.alerts, self._ports.virtual_ips.strangers()
        keys = {f"failover.stranger.{one.interface}.{one.address}": one for one in found}
        alerts.clear_except("failover.stranger.", list(keys))
        for key, one in keys.items():
            text = (
                f"{one.address} speaks VRRP on {one.interface} with our virtual router id {one.router_id}. Give it "
                "another id, or change network.router_id_base, to the same number on both controllers."
            )
            alerts.set(key, "WARNING", text, self._node)

    def _configure_speaker(self) -> None:
        instances = vrrp_instances(self.observer.config, self._node, leading=self.runner.state.role is Role.MASTER)
        if instances != self._instances:
            self._instances = instances
            self._spawn(self._configure_until_done(instances))

    async def _configure_until_done(self, instances: tuple[VrrpInstance, ...]) -> None:
        while self._instances is instances:
            try:
                # The filter first: an address must not appear before it is guarded.
                await self._ports.firewall.configure([one for item in instances for one in item.addresses])
                await self._ports.virtual_ips.configure(instances)
                return
            except PortError as error:
                log.warning("the virtual addresses cannot be configured: %s", error)
                await asyncio.sleep(_SPEAKER_RETRY_S)

    async def _discover(self) -> None:
        """Find out where a former middlewared of this boot left things, as soon as the keeper can be asked."""
        if not await self._keeper_answers(self._context.settings.fence.lost_ms / 1000):
            await self._shut()  # by now the other controller may have the disks, and nobody here would know
            if not await self._keeper_answers(_KEEPER_WAIT_S):
                log.error("the keeper of the reservations (fenced) does not answer: going on without")
        while self._ports.platform.identity().booting and not self._ports.fencing.state().held:
            await self._next_change()
        imported, complete = await look_at_pools(self._ports.pools)
        try:
            is_open = await self._ports.firewall.allowed()
        except PortError as error:
            log.error("the packet filter counts as shut: %s", error)
            is_open = False
        self._ready = True
        self._context.ready = True
        self._context.bus.emit(BusEvent("system.ready", "added"))
        self.worker.found_none = not imported
        held = self._ports.fencing.state().held
        self.runner.post(Discovered(held, imported, complete, is_open))
        self.look()

    async def _keeper_answers(self, within_s: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while not self._ports.fencing.state().running:
                    await self._next_change()
        return self._ports.fencing.state().running

    async def _shut(self) -> None:
        log.warning("the keeper of the reservations (fenced) does not answer: no traffic is let in meanwhile")
        try:
            await self._ports.firewall.block()
        except PortError as error:
            log.error("the packet filter does not shut: %s", error)

    async def _next_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _stepped(self, before: State, event: Event, after: State) -> None:
        self._progress.follow(before, after)
        try:
            self.on_step(before, event, after)
        except Exception:
            log.exception("the history of failovers lacks a step")
        alerts = self._context.alerts
        if after.role is Role.ERROR and before.role is not Role.ERROR:
            alerts.set("failover.error", "CRITICAL", f"The last takeover failed here: {after.error}", self._node)
        if after.role is Role.MASTER and before.role is not Role.MASTER:
            alerts.clear("failover.error")
            restarted = before.role is Role.BOOTING
            self._spawn(self._lead(self._begin_epoch(restarted=restarted)))
            if restarted:
                self.worker.go_on()
        if (before.role is Role.MASTER) != (after.role is Role.MASTER):
            self._configure_speaker()
        if before.role is Role.MASTER and after.role is not Role.MASTER:
            for address in self.observer.config.virtual_addresses:
                self.on_closed(address.split("/")[0])
        if before.role is not after.role or before.phase is not after.phase:
            # A phase begins with the loop's next turn, and the world hears of it while it waits for its first answer.
            if after.phase is not None:
                asyncio.get_running_loop().call_soon(self._publish)
            else:
                self._publish()

    def _begin_epoch(self, *, restarted: bool) -> Awaitable[None] | None:
        """A new MASTER begins an epoch before anything else is written. Its number is unique in the pair: even on A,
        odd on B. A daemon that comes back on a MASTER goes on in the present one, if this controller began it."""
        store = self._context.store
        if restarted and store.leader == self._node:
            return None
        return store.begin_epoch(2 * int(self.wall_s() * 1000) + (1 if self._node == "B" else 0), self._node)

    async def _lead(self, epoch: Awaitable[None] | None) -> None:
        """The configuration says who leads."""
        if epoch is not None:
            await epoch
        if self._context.store.query("SELECT master_node FROM failover_config")[0]["master_node"] != self._node:
            await self._context.store.write(
                lambda tx: tx.execute("UPDATE failover_config SET master_node = ? WHERE id = 1", (self._node,))
            )

    def _publish(self, mine: Facts | None = None) -> None:
        """`mine`: our facts, if somebody has just gathered them."""
        mine = self.mine() if mine is None else mine
        self.publisher.publish(mine, self.other)
        self._gone.look(mine, self.other, self.observer.pools)
        self.sync.reconcile()

    def _peer_facts(self, data: dict[str, object]) -> None:
        try:
            other = from_wire(data)
        except ValueError as error:
            log.error("%s", error)
            return
        if other.role is Role.MASTER and (self.other is None or _shown(other) != _shown(self.other)):
            self._ports.disks.look()
            self._ports.pools.look()
        self.other = other
        master = other.role in (Role.MASTER, Role.TAKING, Role.YIELDING)
        if other.role is Role.MASTER:
            self._context.alerts.clear("failover.error")
        outvoted = other.role is Role.MASTER and other.could_lead and fold(other.interfaces).lost is Lost.RIVAL
        self._post_news(PeerChanged(PeerView(master, other.could_lead, outvoted)))
        self._publish()

    def _peer_lost(self) -> None:
        self.other = None
        self._post_news(PeerChanged(None))
        self._publish()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a background task of failover failed", exc_info=task.exception())


def _shown(facts: Facts) -> object:
    """What of a MASTER's pools and disks a standby sees, too, if it looks."""
    return facts.disks, {pool.guid for pool in facts.pools}


def _limits(context: Context) -> Limits:
    own = context.settings.failover
    return Limits(import_ms=own.import_ms_max, export_ms=own.export_ms_max, services_ms=own.services_ms_max)


async def look_at_pools(ports: Pools) -> tuple[bool, bool]:
    """Whether some pool is imported, and whether all are. Unknown counts as imported: that alone is a reason to reset,
    so that disks whose labels cannot be read in time must not look like it."""
    try:
        pools = await ports.pools()
        return any(pool.imported for pool in pools), all(pool.imported for pool in pools)
    except PortError as error:
        log.error("the pools on the disks are not known: %s", error)
    try:
        return bool(await ports.imported()), False
    except PortError as error:
        log.error("this machine cannot say what is imported: %s", error)
        return True, False
