"""One controller's daemon: builds the parts, starts them in order, stops them in reverse."""

import asyncio
import contextlib
import gc
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from middlewared import drivers, loader, systemd
from middlewared.alerts import Alerts
from middlewared.audit import AuditLog
from middlewared.auth.authenticator import Authenticator
from middlewared.auth.ratelimit import MinuteLimiter
from middlewared.bus import Bus
from middlewared.jobs import Jobs
from middlewared.peer.link import PeerLink
from middlewared.peer.pairfiles import PairFiles
from middlewared.plugin import Call, Context, Plugin
from middlewared.plugins.failover.methods import Failover
from middlewared.ports import PortError
from middlewared.pulse import Pulse
from middlewared.rpc.dispatch import Dispatcher
from middlewared.rpc.peer import PeerCalls
from middlewared.rpc.registry import Registry, RegistryError
from middlewared.rpc.server import Server
from middlewared.settings import Settings, SettingsError, load
from middlewared.store.database import Store
from middlewared.store.errors import StoreError
from middlewared.store.sealing import Sealing, has_sealed

log = logging.getLogger(__name__)

_PLUGIN_TIMEOUT_S = 90.0  # the labels of all disks may be read twice before failover knows the pools


def run(config: Path, log_level: str) -> int:
    """Run until SIGTERM or SIGINT. Exit status: 0 stopped as asked, 1 could not start; the log says why."""
    systemd.setup_logging(log_level)
    try:
        asyncio.run(_serve(load(config)))
    except (SettingsError, RegistryError, StoreError, PortError, OSError) as error:
        log.critical("cannot start: %s", error)
        return 1
    return 0


async def _serve(settings: Settings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with _running(settings):
        systemd.notify_ready()
        gc.freeze()  # what was made until now stays: walking it for garbage takes 15 ms, perhaps during a takeover
        log.info("controller %s is up", settings.node)
        await _until(stop)
        systemd.notify_stopping()


async def _until(stop: asyncio.Event) -> None:
    """Wait for the end, petting systemd's watchdog meanwhile if it has one."""
    interval_ms = systemd.watchdog_interval_ms()
    while not stop.is_set():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if interval_ms is None else interval_ms / 2000):
                await stop.wait()
        systemd.notify_watchdog()


@contextlib.asynccontextmanager
async def _running(settings: Settings) -> AsyncIterator[Context]:
    """Everything up and running inside the block."""
    state_dir = Path(settings.state_dir)
    async with contextlib.AsyncExitStack() as stack:
        machine = drivers.pick(settings)
        await machine.start()
        stack.push_async_callback(machine.stop)
        store = await _open_store(settings)
        stack.push_async_callback(store.close)
        audit = await AuditLog.open(state_dir / "audit.db", settings.node)
        stack.push_async_callback(audit.close)
        bus = Bus()
        registry = Registry.load()
        jobs = Jobs(bus)
        stack.push_async_callback(jobs.stop)
        anonymous = MinuteLimiter(
            settings.api.anonymous_calls_per_minute_max, refusal="Too many calls without a login; wait a minute"
        )
        dispatcher = Dispatcher(registry, jobs, Call, audit.record, anonymous)
        authenticator = Authenticator(store, failures_per_minute_max=settings.api.logins_failed_per_minute_max)
        stack.push_async_callback(authenticator.close)
        alerts = Alerts(bus, store)
        stack.push_async_callback(alerts.close)
        peer = PeerLink(settings.peer, settings.node)
        peer.serve_call = PeerCalls(dispatcher)
        context = Context(
            settings=settings,
            ports=machine.ports,
            store=store,
            bus=bus,
            jobs=jobs,
            alerts=alerts,
            audit=audit,
            authenticator=authenticator,
            peer=peer,
            registry=registry,
            call=dispatcher.call_internal,
        )
        plugins = loader.load_plugins(context)
        loader.bind(registry, plugins)
        examining = asyncio.create_task(_tell_what_is_missing(machine))
        stack.callback(examining.cancel)
        for plugin in plugins:
            await _in_time(plugin, plugin.start)
            stack.push_async_callback(_in_time, plugin, plugin.stop)
        await peer.start()
        stack.push_async_callback(peer.stop)
        pulse = Pulse()
        pulse.start()
        stack.callback(pulse.stop)
        server = _server(context, dispatcher, pulse, plugins)
        await server.start()
        stack.push_async_callback(server.stop)
        yield context


async def _open_store(settings: Settings) -> Store:
    """With the key that its secrets are sealed with; the first start makes one.

    Without the key that a store was sealed with, nobody can log in by password or API key; failover does not need it,
    so that is no reason not to start. An alert says so (plugins/pair).
    """
    files = PairFiles(settings.peer)
    sealing = Sealing()
    try:
        sealing.ring = files.ring()
    except SettingsError as error:
        log.error("%s", error)
    store = await Store.open(Path(settings.state_dir) / "store.db", sealing=sealing)
    if sealing.ring is None and not files.key_path.exists() and not has_sealed(store.query):
        sealing.ring = await asyncio.to_thread(files.make_ring)
    return store


async def _tell_what_is_missing(machine: drivers.Drivers) -> None:
    """What `middlewared doctor` would show, one line each."""
    for finding in await machine.examine():
        if not finding.ok:
            log.warning("%s: %s; %s", finding.subject, finding.detail, finding.remedy)


def _server(context: Context, dispatcher: Dispatcher, pulse: Pulse, plugins: list[Plugin]) -> Server:
    """The API's shell, which lets connections to a virtual address in only while this controller leads."""
    failover = next(plugin for plugin in plugins if isinstance(plugin, Failover)).controller

    def admit(local_address: str) -> bool:
        if not failover.is_virtual(local_address):
            return True
        return failover.serving and not pulse.late

    server = Server(
        context.settings.api,
        context.settings.socket,
        dispatcher=dispatcher,
        bus=context.bus,
        authenticator=context.authenticator,
        boot_id=context.ports.platform.identity().boot_id,
        admit=admit,
        inherited=systemd.listen_sockets(),
    )
    failover.on_closed = server.close_connections
    return server


async def _in_time(plugin: Plugin, act: Callable[[], Awaitable[None]]) -> None:
    try:
        async with asyncio.timeout(_PLUGIN_TIMEOUT_S):
            await act()
    except TimeoutError as error:
        name = f"{type(plugin).__name__}.{getattr(act, '__name__', '')}"
        raise PortError(f"plugin {name} did not finish within {_PLUGIN_TIMEOUT_S:.0f} s") from error
