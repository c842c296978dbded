"""The keeper itself: watches the other controller through the disks, takes them, keeps them, gives them back.

Runs on asyncio's clock alone (no threads, no chance, no other clock), so that the simulator can run it in virtual time.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from middlewared.plugins.fencing import logic
from middlewared.plugins.fencing.holder import Holder
from middlewared.plugins.fencing.logic import BlankWatch, Peer, PeerWatch, Reading
from middlewared.plugins.fencing.memory import Memory
from middlewared.plugins.fencing.pulse import Pulse
from middlewared.plugins.fencing.rehearsal import rehearsal
from middlewared.plugins.fencing.scsi_pr import generation_of, make_key, next_generation
from middlewared.plugins.fencing.takeover import each, read_all, refusal, release_all, take_all
from middlewared.plugins.fencing.transport import Disk, DiskRefused, DiskSource, TransportError, read_keys
from middlewared.ports import FenceCode, FenceRehearsal, FenceResult, FenceState
from middlewared.settings import FenceSettings

log = logging.getLogger(__name__)

ATTEMPTS_MAX = 3  # of acquiring, while the controller keeps standing still
STANDBY_SWEEP = 10  # a standby looks at each disk that is no sentinel once in so many lost_ms

GIVE_WAY = 4  # after both took the disks at once: the one that ranks lower waits for so many alive_ms

_GIVING_WAY = FenceResult(FenceCode.PEER_ALIVE, "both controllers were taking the disks at once: the other goes first")
_STOOD_STILL = FenceResult(FenceCode.UNEXPECTED, "this controller stood still meanwhile, and nothing was taken")


class Guard:
    """One controller's keeper.

    `reset(reason)` resets the controller and does not return in production; `publish(state)` is called when anything
    but the generation changed.
    """

    def __init__(
        self,
        settings: FenceSettings,
        host_id: int,
        source: DiskSource,
        *,
        memory: Memory,
        reset: Callable[[str], None],
        publish: Callable[[FenceState], None],
    ) -> None:
        self._settings = settings
        self._host_id = host_id
        self._source = source
        self._memory = memory
        self._reset = reset
        self._publish = publish
        self._pulse = Pulse(settings.heartbeat_ms, settings.alive_ms, self._lapsed)
        self._holder = Holder(settings, host_id, source, self._pulse, self._lost, self._remember)
        self._watch = PeerWatch(settings.alive_ms)
        self._blank = BlankWatch(settings.lost_ms + settings.alive_ms)
        self._watched_too: set[str] = set()  # beside the sentinels: where the peer's newest key was found
        self._known: set[str] = set()  # disks that should be there
        self._unread: dict[str, str] = {}  # as standby: disks that do not answer
        self._busy: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = 0
        self._give_way_until_ms = 0.0
        self._operation = asyncio.Lock()
        self._proven = asyncio.Event()
        self._proven.set()
        self._dead = ""
        self._error: BaseException | None = None
        self._said: FenceState | None = None
        self._running: asyncio.Task[None] | None = None

    # ------------------------------------------------------------------------------------------ life

    async def start(self) -> None:
        """See the disks, take up what an earlier process of this boot held, and beat."""
        await self._source.start()
        tenure = self._memory.load()
        if tenure is not None and tenure.host_id == self._host_id:
            disks = self._source.disks()
            self._holder.adopt(tenure.floor, [disks.get(serial) or Disk(serial, ()) for serial in tenure.serials])
            self._pulse.beat()
            self._prove()
        self._running = asyncio.create_task(self._run())

    async def wait(self) -> None:
        """Until the keeper ends; raises what ended it."""
        if self._running is not None:
            await self._running

    async def stop(self) -> None:
        """The process ends. Reservations stay where they are (S5)."""
        for task in [*self._tasks, *([self._running] if self._running else [])]:
            task.cancel()
        await asyncio.gather(*self._tasks, *([self._running] if self._running else []), return_exceptions=True)
        await self._holder.stop()
        await self._source.stop()

    async def _run(self) -> None:
        while not self._dead:
            if self._error is not None:
                raise self._error
            self._pulse.beat()
            if self._proven.is_set() and not self._operation.locked():
                self._beat()
            self._say()
            await asyncio.sleep(self._settings.heartbeat_ms / 1000)

    def _beat(self) -> None:
        self._known |= set(self._source.disks())
        if self._holder.active:
            self._holder.tend()
        else:
            self._look()

    # ------------------------------------------------------------------------------------------ lost time, lost disks

    async def ready(self) -> None:
        """Return when what we believe is proven. Everything that answers somebody waits here first."""
        self._pulse.notice()
        await self._proven.wait()

    def _lapsed(self, late_ms: float) -> None:
        log.warning("the controller stood still for %d ms: reading the reservations again", late_ms)
        self._watch.forget()
        self._blank.forget()
        if self._holder.active:
            self._holder.disbelieve()
            self._prove()

    def _prove(self) -> None:
        if self._proven.is_set():
            self._proven.clear()
            self._spawn("", self._do_prove())

    async def _do_prove(self) -> None:
        await self._holder.prove()
        self._proven.set()
        self._say()

    def _lost(self, reason: str) -> None:
        """Fail closed (S3): whoever lost a reservation must not live on as if it had it.

        Nothing is logged before: a log may wait for the very disk that is stuck. The reset itself says why.
        """
        self._dead = reason
        self._say()
        self._reset(reason)

    def _remember(self) -> None:
        self._memory.save(self._host_id, self._holder.floor, self._holder.serials)

    # ------------------------------------------------------------------------------------------ standing by

    def _look(self) -> None:
        """One heartbeat of the standby: read the keys where the other shows life, and now and then the rest."""
        disks = self._source.disks()
        for serial in sorted(self._unread.keys() - disks.keys()):
            del self._unread[serial]
        watched = self._watched(disks)
        others = sorted(disks.keys() - watched)
        sweep_ms = self._settings.lost_ms * STANDBY_SWEEP
        count = logic.checks_a_beat(len(others), self._settings.heartbeat_ms, sweep_ms) if others else 0
        if not self._turn:
            count = len(others)  # all of them once, so that a takeover knows how long they have been as they are
        turn = {others[(self._turn + step) % len(others)] for step in range(count)}
        self._turn += count
        for serial in sorted(watched | turn):
            self._spawn(serial, self._observe(disks[serial], serial in watched))

    def _watched(self, disks: Mapping[str, Disk]) -> set[str]:
        chosen = logic.sentinels(disks, self._unread, self._settings.sentinels)
        return {*chosen, *(self._watched_too & disks.keys())}

    async def _observe(self, disk: Disk, watched: bool) -> None:
        lapses, asked_ms = self._pulse.lapses, self._pulse.now_ms()
        try:
            keys = await read_keys(disk, self._holder.timeout_ms)
        except (TransportError, DiskRefused) as error:
            self._unread[disk.serial] = str(error)
            return
        self._unread.pop(disk.serial, None)
        if self._pulse.notice() != lapses:
            return
        if self._blank.observe(disk.serial, keys, self._pulse.now_ms()) and watched:
            self._turn = 0  # its target has restarted: look at the others
        if watched:
            claims = Reading(0, keys, None).claims(self._host_id)
            self._watch.observe(disk.serial, claims, self._pulse.now_ms(), asked_ms)
            if self._said is None or self._said.peer_moving != self._peer_moving():  # the rest waits for the beat
                self._say()

    def _spawn(self, serial: str, work: Any) -> None:
        if serial in self._busy:
            work.close()
            return
        self._busy.add(serial)
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)

        def done(ended: asyncio.Task[None]) -> None:
            self._tasks.discard(ended)
            self._busy.discard(serial)
            if not ended.cancelled() and ended.exception() is not None:
                self._error = ended.exception()  # a bug: the next beat ends the process with it

        task.add_done_callback(done)

    # ------------------------------------------------------------------------------------------ requests

    async def acquire(self, *, force: bool) -> FenceResult:
        """Take the disks (ports.Fencing.acquire)."""
        await self.ready()
        async with self._operation:
            if self._dead:
                return FenceResult(FenceCode.UNEXPECTED, f"this controller is resetting: {self._dead}")
            if self._holder.active:
                return FenceResult(FenceCode.OK, "the disks are held already")
            for _ in range(ATTEMPTS_MAX):
                result = await self._acquire(force)
                if result.code is not FenceCode.UNEXPECTED:
                    break
        log.warning("acquire%s: %s %s", " by force" if force else "", result.code.name, result.message)
        self._say()
        return result

    async def _acquire(self, force: bool) -> FenceResult:
        """Once. UNEXPECTED: time was lost, nothing is held, and what was read no longer counts."""
        lapses = self._pulse.lapses
        visible = self._source.disks()
        disks = list(visible.values())
        readings, unread = await read_all(disks, self._holder.timeout_ms)
        unread.update({serial: f"{serial}: has vanished" for serial in sorted(self._known - visible.keys())})
        if not force and self._pulse.now_ms() < self._give_way_until_ms:
            return _GIVING_WAY
        alive = None if force else self._peer_forgotten(readings) or await self._peer_alive(visible, readings)
        if alive is not None:
            return alive
        own = (generation_of(key) for reading in readings.values() for key in reading.own(self._host_id))
        floor = next_generation(logic.latest(own, self._holder.generation))
        if self._pulse.notice() != lapses:
            return _STOOD_STILL
        key = make_key(self._host_id, floor)
        taken = await take_all(disks, readings, unread, key, self._holder.timeout_ms)
        if any(rival < self._host_id for rival in taken.rivals):
            self._give_way_until_ms = self._pulse.now_ms() + GIVE_WAY * self._settings.alive_ms
        if taken.result.code is not FenceCode.OK:
            return taken.result
        held = [visible[serial] for serial in sorted(taken.held)]
        if self._pulse.notice() != lapses and not await self._verified(held, key):
            await release_all(held, self._host_id, self._holder.timeout_ms)
            return _STOOD_STILL
        self._known = set(visible)
        self._holder.begin(floor, held, dict(taken.failed))
        self._remember()
        return taken.result

    async def _verified(self, disks: Sequence[Disk], key: int) -> bool:
        """Time was lost while taking: is everything still ours?"""
        lapses = self._pulse.lapses
        readings, unread = await read_all(disks, self._holder.timeout_ms)
        sound = not unread and all(logic.settled(reading, key) for reading in readings.values())
        return sound and self._pulse.notice() == lapses

    def _peer_forgotten(self, readings: Mapping[str, Reading]) -> FenceResult | None:
        """The refusal if disks have just forgotten who held them, and that one may be about to register again (S1)."""
        now_ms = self._pulse.now_ms()
        for serial, reading in readings.items():
            self._blank.observe(serial, reading.keys, now_ms)
        unsettled = [serial for serial in self._blank.unsettled(now_ms) if serial in readings]
        if not unsettled:
            return None
        text = (
            f"{len(unsettled)} disks hold no reservation, as after a restart of their target: who held them goes first"
        )
        return FenceResult(FenceCode.PEER_ALIVE, text)

    async def _peer_alive(self, disks: Mapping[str, Disk], readings: Mapping[str, Reading]) -> FenceResult | None:
        """The refusal if the other controller shows life, or may; None when it is seen not to (S4)."""
        foreign = {serial: reading.claims(self._host_id) for serial, reading in readings.items()}
        if not any(foreign.values()):
            return None
        deadline_ms = self._pulse.now_ms() + 2 * self._settings.alive_ms + 4 * self._settings.heartbeat_ms
        while True:
            watched = [disks[serial] for serial in self._watched(disks)]
            await each(watched, lambda disk: self._observe(disk, True))
            now_ms = self._pulse.now_ms()
            elsewhere = self._watch.unwatched(foreign, now_ms)
            if elsewhere:
                self._watched_too.update(elsewhere)
                continue
            status = self._watch.status(now_ms)
            if status is Peer.MOVING:
                return FenceResult(FenceCode.PEER_ALIVE, "the other controller's key is still moving on the disks")
            if status in (Peer.STILL, Peer.ABSENT):  # absent: it is giving the disks back just now
                return None
            if now_ms > deadline_ms:
                return FenceResult(FenceCode.PEER_ALIVE, "cannot tell whether the other controller's key is moving")
            await asyncio.sleep(self._settings.heartbeat_ms / 1000)

    async def rehearse(self) -> FenceRehearsal:
        """What a takeover would meet (ports.Fencing.rehearse). Only reads, so it waits for nobody and delays nobody."""
        await self.ready()
        visible = self._source.disks()
        readings, unread = await read_all(list(visible.values()), self._holder.timeout_ms)
        unread.update({serial: f"{serial}: has vanished" for serial in sorted(self._known - visible.keys())})
        return rehearsal(readings, unread, self._host_id, held=self._holder.active)

    async def release(self) -> FenceResult:
        """Give everything back, also what was left from an earlier life; verified by reading back."""
        await self.ready()
        async with self._operation:
            if self._dead:
                return FenceResult(FenceCode.UNEXPECTED, f"this controller is resetting: {self._dead}")
            self._memory.forget()  # first: a keeper that restarts halfway must not defend what is given up
            await self._holder.end()
            disks = list(self._source.disks().values())
            failed = await release_all(disks, self._host_id, self._holder.timeout_ms)
            done = FenceResult(FenceCode.OK, f"{len(disks) - len(failed)} of {len(disks)} disks are released")
            result = refusal(failed, len(disks), "released") or done
        log.warning("release: %s %s", result.code.name, result.message)
        self._watch.forget()
        self._say()
        return result

    async def forget(self, serials: Collection[str]) -> set[str]:
        """Count these no longer (ports.Fencing.forget); returns which."""
        async with self._operation:
            await self.ready()
            if self._dead:
                return set()
            known = self._known | set(self._holder.serials)
            gone = self._holder.forget((known & set(serials)) - self._busy - self._source.disks().keys())
            self._known -= gone
        if gone:
            log.warning("no longer counted, as neither controller sees them: %s", ", ".join(sorted(gone)))
        self._say()
        return gone

    # ------------------------------------------------------------------------------------------ what we know

    def state(self) -> FenceState:
        held = self._holder.active
        missing = dict.fromkeys(self._known - self._source.disks().keys(), "has vanished")
        failed = {**(self._holder.failed if held else self._unread), **missing}
        known = self._known | set(self._holder.serials)
        return FenceState(
            running=True,
            held=held,
            peer_moving=self._peer_moving(),
            generation=self._holder.generation,
            disks_total=len(known),
            disks_held=len(set(self._holder.serials) - failed.keys()) if held else 0,
            disks_failed=tuple(sorted(failed)),
            too_many_failed=not known or logic.too_many(len(failed), len(known)),
        )

    def _peer_moving(self) -> bool:
        return not self._holder.active and self._watch.status(self._pulse.now_ms()) is Peer.MOVING

    def trustworthy(self) -> bool:
        """What the hardware watchdog may be told: nothing is held, or what is held was proven not long ago."""
        if self._dead or not self._proven.is_set():
            return False
        oldest_ms = self._pulse.now_ms() - 2 * self._settings.lost_ms
        verified = self._holder.verified_ms().values()
        return not self._holder.active or 2 * sum(at_ms < oldest_ms for at_ms in verified) <= len(verified)

    def run_info(self) -> dict[str, Any]:
        """Everything an administrator may want to see, for `failover.fenced.run_info`."""
        now_ms = self._pulse.now_ms()
        state = self.state()
        verified = self._holder.verified_ms()
        return {
            "host_id": f"{self._host_id:#010x}",
            "held": state.held,
            "generation": state.generation,
            "peer": Peer.ABSENT if state.held else self._watch.status(now_ms),
            "peer_keys": [f"{key:#018x}" for key in sorted(self._watch.keys(now_ms))],
            "lapses": self._pulse.lapses,
            "disks": [
                {
                    "serial": serial,
                    "held": serial in verified,
                    "verified_ms_ago": int(now_ms - verified[serial]) if verified.get(serial, -1) > 0 else None,
                    "failure": (self._holder.failed if state.held else self._unread).get(serial),
                }
                for serial in sorted(self._known | set(verified))
            ],
        }

    def _say(self) -> None:
        """Publish the state if more than the generation changed; never one that still has to be proven."""
        if not self._proven.is_set() and not self._dead:
            return
        state = self.state()
        if self._said is None or _news(state) != _news(self._said):
            self._said = state
            self._publish(state)


def _news(state: FenceState) -> Sequence[object]:
    return (
        state.held,
        state.peer_moving,
        state.disks_total,
        state.disks_held,
        state.disks_failed,
        state.too_many_failed,
    )
