"""VirtualIps over keepalived, which outlives middlewared: elections go on while nobody is here to hear of them."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from middlewared import programs
from middlewared.plugins.vip.fifo import Fifo
from middlewared.plugins.vip.keepalived_conf import (
    Dumped,
    Router,
    apart,
    dumped,
    fold,
    heard,
    obeyed,
    render,
    routers,
    stays_out,
    weight,
)
from middlewared.plugins.vip.process import Keepalived, Running
from middlewared.plugins.vip.strangers import Strangers
from middlewared.ports import Finding, Listener, PortError, Stranger, VirtualIps, Vrrp, VrrpInstance

log = logging.getLogger(__name__)

RETRY_MS_MIN = 20
RETRY_MS_MAX = 2_000
STEADY_MS = 5_000  # who lived that long is started again at once
APPEAR_MS = 2_000
OBEY_MS = 1_000
END_MS = 4_000  # keepalived waits a second for nothing before it ends
CONFIGURE_MS = 4_000
_RELOAD_AGAIN_MS = 1_000
DUMP_MS = 1_000
_ASK_AGAIN_MS = 50
JOIN_MS = 1_000  # and _JOIN_ADVERTS adverts: until the new family has found its MASTER
_JOIN_ADVERTS = 4
_JOIN_POLL_MS = 20
_POLL_MS = 5
_PROGRAM_MS = 10_000  # of a program that only answers; a machine that has just booted is busy


class KeepalivedVirtualIps(VirtualIps):
    """Writes keepalived's files in `directory` (under /run, ours alone), follows its FIFO, starts it when it is dead.

    `unit` names the systemd unit that runs keepalived on these files; empty: it is started here as a daemon.
    `router_id_base` moves the virtual router ids, where others on the network use the same; alike on both controllers.
    """

    def __init__(self, directory: Path, *, unit: str = "", router_id_base: int = 0) -> None:
        self._directory = directory
        self._weights = directory / "weights"
        self._process = Keepalived(directory, unit)
        self._fifo = Fifo(directory / "notify", self._on_line)
        self._router_id_base = router_id_base
        self._listeners: list[Listener] = []
        self._strangers = Strangers(self._changed)
        self._routers: tuple[Router, ...] | None = None  # None: not configured by this process yet
        self._priorities: dict[str, int] = {}  # by interface
        self._apart: frozenset[str] = frozenset()  # interfaces whose two families do not move together yet
        self._taking_part = False
        self._states: dict[str, Vrrp] = {}  # by instance; STOP and none mean that it is not known
        self._running: Running | None = None
        self._dump_signal = 0
        self._turn = asyncio.Lock()  # configure and participate, one after the other
        self._dumping = asyncio.Lock()
        self._died = asyncio.Event()
        self._news = asyncio.Event()
        self._work = asyncio.Event()
        self._supervisor: asyncio.Task[None] | None = None

    # ------------------------------------------------------------------------------------------ Driver

    async def start(self) -> None:
        number = await programs.output("keepalived", "--signum=JSON", timeout_ms=_PROGRAM_MS)
        try:
            self._dump_signal = int(number)
        except ValueError:
            raise PortError("this keepalived was built without JSON; install Debian's, 2.2 or newer") from None
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._weights.mkdir(mode=0o700, exist_ok=True)
            self._taking_part = self._told_to_take_part()
        except OSError as error:
            raise PortError(f"{self._directory} cannot be used for keepalived's files: {error.strerror}") from error
        self._fifo.open()
        self._strangers.open()
        running = self._process.find()
        if running is not None:
            await self._adopt(running)
        self._supervisor = asyncio.create_task(self._supervise())

    async def stop(self) -> None:
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
        if self._running is not None:
            self._running.close()
            self._running = None
        self._fifo.close()
        self._strangers.close()

    async def examine(self) -> Sequence[Finding]:
        try:
            ended = await programs.run("keepalived", "--version", timeout_ms=_PROGRAM_MS)
        except PortError as error:
            return [Finding("keepalived", ok=False, detail=str(error), remedy="apt-get install keepalived")]
        said = ended.stdout + ended.stderr
        version = (said.splitlines() or ["no version"])[0]
        json = "JSON" in said.split()
        remedy = "" if json else "install a keepalived that was built with --enable-json, as Debian's is"
        return [Finding("keepalived", json, version, remedy), self._examine_process(), *await self._examine_ids()]

    def _examine_process(self) -> Finding:
        running = self._process.find()
        if running is None:
            idle = not self._process.config.exists()
            detail = "not running: no virtual address is configured" if idle else "not running"
            return Finding("VRRP speaker", idle, detail, "" if idle else "start middlewared; it starts keepalived")
        steady = running.steady()
        running.close()
        detail = f"running as process {running.speaker_pid}, {'with' if steady else 'without'} real-time priority"
        return Finding("VRRP speaker", steady, detail, "" if steady else "give it CAP_SYS_NICE")

    async def _examine_ids(self) -> Sequence[Finding]:
        """Only while we follow keepalived: does somebody else on the network use one of our virtual router ids?"""
        if self._running is None:
            return []
        try:
            dump = await self._learn()
        except PortError as error:
            return [Finding("virtual router ids", ok=False, detail=str(error), remedy="look again in a moment")]
        clashes = sorted({f"{one.router_id} on {name[:-2]}" for name, one in dump.items() if one.strange})
        if not clashes:
            return [Finding("virtual router ids", ok=True, detail="nobody else uses ours")]
        remedy = "choose another router_id_base, the same on both controllers, or find who else speaks VRRP there"
        return [Finding("virtual router ids", False, f"used by somebody else, too: {', '.join(clashes)}", remedy)]

    # ------------------------------------------------------------------------------------------ VirtualIps

    def states(self) -> Mapping[str, Vrrp]:
        known = self._states
        if self._routers is not None:
            # A family that is not joined yet has no vote: it begins as BACKUP beside a MASTER.
            names = {one.name for one in self._routers if one.family == 4 or one.interface not in self._apart}
            known = {name: state for name, state in known.items() if name in names}
        folded = fold(known)
        return folded if self._taking_part else dict.fromkeys(folded, Vrrp.STOP)

    async def configure(self, instances: Sequence[VrrpInstance]) -> None:
        """A changed priority is no reload. Multicast to unicast, or back, is an election; see keepalived_conf."""
        try:
            wanted = routers(instances, self._router_id_base)
        except ValueError as error:
            raise PortError(f"keepalived cannot be configured: {error}") from error
        self._strangers.watch({one.interface: one.router_id for one in wanted})
        async with self._turn:
            if not wanted:
                await self._end()
                return
            self._priorities = {instance.interface: instance.priority for instance in instances}
            if self._is_written(wanted):
                self._apart = frozenset()
            else:
                self._apart = apart(await self._learn() if self._running else {}, wanted)
            await self._apply(wanted)
        await self._join(wanted)

    async def _apply(self, wanted: tuple[Router, ...]) -> None:
        changed = await self._write(wanted)
        self._routers = wanted
        self._work.set()
        if changed and self._running is not None:
            self._running.send(signal.SIGHUP)
        await self._until_obeyed(wanted)
        self._forget(wanted)
        self._changed()

    async def _join(self, wanted: tuple[Router, ...]) -> None:
        """Make one of the two families of an interface when both are in the same state; in the end, in any case."""
        if not self._apart:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(JOIN_MS / 1000 + max(_JOIN_ADVERTS * one.advert_ms for one in wanted) / 1000):
                while apart(await self._learn(), wanted):
                    await asyncio.sleep(_JOIN_POLL_MS / 1000)
        async with self._turn:
            if self._routers is wanted:
                self._apart = frozenset()
                await self._apply(wanted)

    async def participate(self, wanted: bool) -> None:
        async with self._turn:
            self._taking_part = wanted
            for interface in self._priorities or self._written_weights():
                self._write_weight(interface)
            if wanted:
                self._states = dict.fromkeys(self._states, Vrrp.STOP)  # until keepalived says how it is now
                if self._running is not None:
                    await self._learn()
            else:
                await self._until_out()
        self._changed()

    def strangers(self) -> Sequence[Stranger]:
        return self._strangers.seen

    def on_change(self, listener: Listener) -> None:
        self._listeners.append(listener)

    # ------------------------------------------------------------------------------------------ files

    def _render(self, wanted: Sequence[Router], alone: Collection[str] = ()) -> str:
        return render(wanted, self._directory / "notify", self._weights, alone)

    def _is_written(self, wanted: Sequence[Router]) -> bool:
        """It is what keepalived has, or will read when it starts."""
        try:
            return self._process.config.read_text() == self._render(wanted)
        except OSError:
            return False

    async def _write(self, wanted: Sequence[Router]) -> bool:
        """Weights first, then the configuration, when keepalived likes it. True when it changed."""
        text = self._render(wanted, self._apart)
        try:
            for interface in self._priorities:
                self._write_weight(interface)
            if self._process.config.exists() and self._process.config.read_text() == text:
                return False
            trial = self._directory / "keepalived.conf.new"
            trial.write_text(text)
            await self._process.check(trial)
            trial.replace(self._process.config)
        except OSError as error:
            raise PortError(f"keepalived's files cannot be written: {error}") from error
        return True

    def _write_weight(self, interface: str) -> None:
        """By renaming: keepalived never reads half a file, which would be 0 and take part."""
        text = weight(self._priorities.get(interface) if self._taking_part else None)
        path, new = self._weights / interface, self._directory / "weight.new"
        try:
            if not path.exists() or path.read_text() != text:
                new.write_text(text)
                new.replace(path)
        except OSError as error:
            raise PortError(f"{path} cannot be written: {error.strerror}") from error

    def _written_weights(self) -> list[str]:
        return [path.name for path in self._weights.iterdir()]

    def _forget(self, wanted: Sequence[Router]) -> None:
        """What is left of instances that are gone."""
        names = {router.name for router in wanted}
        self._states = {name: state for name, state in self._states.items() if name in names}
        for name in self._written_weights():
            if name not in self._priorities:
                (self._weights / name).unlink(missing_ok=True)

    def _told_to_take_part(self) -> bool:
        """What a former middlewared of this boot has told keepalived last."""
        told = [(self._weights / name).read_text() for name in self._written_weights()]
        return bool(told) and not any(map(stays_out, told))

    # ------------------------------------------------------------------------------------------ obedience

    async def _until_obeyed(self, wanted: Sequence[Router]) -> None:
        """Read back what it does; a reload that it seems to have missed is ordered again."""
        loop = asyncio.get_running_loop()
        again_at_s = loop.time() + _RELOAD_AGAIN_MS / 1000
        try:
            async with asyncio.timeout(CONFIGURE_MS / 1000):
                while not obeyed(await self._learn(), wanted):
                    await asyncio.sleep(_POLL_MS / 1000)
                    if loop.time() >= again_at_s and self._running is not None:
                        again_at_s += _RELOAD_AGAIN_MS / 1000
                        self._running.send(signal.SIGHUP)
        except TimeoutError:
            raise PortError("keepalived does not take its new configuration; see its messages in the journal") from None

    async def _until_out(self) -> None:
        """Until no address is left here. One that is not running drops them when it has been started again."""
        if self._routers == ():
            return
        if self._running is None:
            raise PortError("keepalived is not running and may have left virtual addresses here; it is being started")
        try:
            async with asyncio.timeout(OBEY_MS / 1000):
                while Vrrp.MASTER in self._states.values():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise PortError("keepalived was told to give the virtual addresses up, and still has them") from None

    async def _end(self) -> None:
        """No instance is left: keepalived would refuse to run, so it ends, and takes its addresses with it."""
        self._routers, self._priorities = (), {}
        self._process.config.unlink(missing_ok=True)
        self._forget(())
        if self._running is not None:
            await self._process.stop(self._running)
            try:
                async with asyncio.timeout(END_MS / 1000):
                    await self._died.wait()
            except TimeoutError:
                raise PortError("keepalived does not end, though it was told to") from None

    async def _learn(self) -> dict[str, Dumped]:
        """Ask keepalived, when it runs, for its states; what its notifications told meanwhile is newer."""
        while self._running is None:
            self._news.clear()
            await self._news.wait()
        running = self._running
        async with self._dumping:
            dump = await self._dump(running)
        if self._running is running:
            for name, one in dump.items():
                if self._states.get(name, Vrrp.STOP) is Vrrp.STOP:
                    self._states[name] = one.state
            self._changed()
        return dump

    async def _dump(self, running: Running) -> dict[str, Dumped]:
        """Raises PortError. The question is repeated: keepalived forgets one that comes during a reload."""
        loop = asyncio.get_running_loop()
        ask_at_s, until_s = loop.time(), loop.time() + DUMP_MS / 1000
        self._process.dump.unlink(missing_ok=True)
        while loop.time() < until_s:
            if running is not self._running:
                raise PortError("keepalived has died; it is being started again")
            if loop.time() >= ask_at_s:
                running.send(self._dump_signal)
                ask_at_s += _ASK_AGAIN_MS / 1000
            await asyncio.sleep(_POLL_MS / 1000)
            with contextlib.suppress(OSError, ValueError):  # not there yet, not whole yet
                return dumped(self._process.dump.read_text())
        raise PortError("keepalived does not say what it does; see its messages in the journal")

    # ------------------------------------------------------------------------------------------ its life

    async def _adopt(self, running: Running) -> None:
        self._died.clear()
        self._running = running
        running.on_death(self._on_death)
        self._process.favour(running)
        self._news.set()
        try:
            await self._learn()
        except PortError as error:
            log.warning("%s", error)

    def _on_death(self) -> None:
        """One of its processes died: nobody knows more, so there are no states, which is no vote."""
        if self._running is not None:
            self._running.close()
            self._running = None
        self._fifo.drain()  # its last words are no news any more
        self._states.clear()
        self._died.set()
        self._changed()

    async def _supervise(self) -> None:
        loop = asyncio.get_running_loop()
        wait_ms = RETRY_MS_MIN
        while True:
            if self._running is not None:
                since_s = loop.time()
                await self._died.wait()
                if loop.time() - since_s > STEADY_MS / 1000:
                    wait_ms = RETRY_MS_MIN
                log.warning("keepalived is dead")
            running = self._process.find()
            if running is not None:
                await self._adopt(running)
            elif not self._routers:
                self._work.clear()
                await self._work.wait()
            else:
                await asyncio.sleep(wait_ms / 1000)
                wait_ms = min(2 * wait_ms, RETRY_MS_MAX)
                await self._revive()

    async def _revive(self) -> None:
        """Start it and wait until it is there: a second one would fight the first for the addresses."""
        try:
            await self._process.start()
            async with asyncio.timeout(APPEAR_MS / 1000):
                while self._running is None:
                    await asyncio.sleep(_POLL_MS / 1000)
                    running = self._process.find()
                    if running is not None:
                        await self._adopt(running)
        except PortError as error:
            log.error("%s", error)
        except TimeoutError:
            log.error("keepalived was started and does not run; see its messages in the journal")

    def _on_line(self, line: str) -> None:
        said = heard(line)
        if said is not None and self._states.get(said.name) is not said.state:
            self._states[said.name] = said.state
            self._changed()

    def _changed(self) -> None:
        self._news.set()
        for listener in self._listeners:
            listener()
