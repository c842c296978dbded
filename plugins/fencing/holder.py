"""Keeping reservations that we hold: show life on them, check them, and say at once when they are lost."""

import asyncio
import functools
import itertools
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from middlewared.plugins.fencing import logic, scsi_pr
from middlewared.plugins.fencing.logic import Finding, Reading
from middlewared.plugins.fencing.pulse import Pulse
from middlewared.plugins.fencing.scsi import Status
from middlewared.plugins.fencing.scsi_pr import generation_of, make_key, next_generation
from middlewared.plugins.fencing.takeover import each, register, take
from middlewared.plugins.fencing.transport import (
    Disk,
    DiskRefused,
    DiskSource,
    Transport,
    TransportError,
    read,
)
from middlewared.settings import FenceSettings

UNPROVEN_MS = float("-inf")
BEAT_SHARE = 0.5  # of a heartbeat: so long a path may lag behind another of its disk before it is left alone
POSSIBLE_KEYS_MAX = 4  # of one path, while the outcome of a command on it is unknown
NEW_PATHS_MAX = 64  # disks with a path that we have not registered yet: so many are looked after in one beat


@dataclass(slots=True)
class _Held:
    disk: Disk
    verified_ms: float  # last proven ours
    waiting_ms: float | None = None  # since when it owes an answer
    shared_ms: float | None = None  # since when another host is registered beside us


class Holder:
    """The disks held in one tenure, from `begin` to `end`.

    `lost(reason)` is called once, when a disk turned out to be another's or nothing can be proven any more;
    `remember()` when other disks are held than before.
    """

    def __init__(
        self,
        settings: FenceSettings,
        host_id: int,
        source: DiskSource,
        pulse: Pulse,
        lost: Callable[[str], None],
        remember: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._host_id = host_id
        self._source = source
        self._pulse = pulse
        self._lost = lost
        self._remember = remember
        self._held: dict[str, _Held] = {}
        self._registered: dict[Transport, tuple[int, ...]] = {}  # keys that a path may have, likeliest first
        self._confirmed: set[Transport] = set()  # paths that are known to be registered
        self._beating: dict[Transport, asyncio.Task[bool]] = {}  # of disks with several paths: commands under way
        self._retry_ms: dict[str, float] = {}  # disks that we failed to join
        self._busy: set[str] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._turn = 0
        self._swept_ms = 0.0
        self._error: BaseException | None = None
        self.active = False
        self.floor = 0  # generation of the takeover: older keys are from an earlier life
        self.generation = 0
        self.failed: dict[str, str] = {}  # reasons by serial

    @property
    def serials(self) -> tuple[str, ...]:
        return tuple(self._held)

    @property
    def timeout_ms(self) -> int:
        return self._settings.lost_ms // 2

    def verified_ms(self) -> dict[str, float]:
        """When each held disk was last proven ours."""
        return {serial: held.verified_ms for serial, held in self._held.items()}

    # ------------------------------------------------------------------------------------------ tenure

    def begin(self, floor: int, disks: Iterable[Disk], failed: dict[str, str]) -> None:
        """These disks are ours from now on, with the key of generation `floor`."""
        now_ms = self._pulse.now_ms()
        self.active, self.floor, self.generation = True, floor, floor
        self._held = {disk.serial: _Held(disk, now_ms) for disk in disks}
        self._registered = {
            path: (make_key(self._host_id, floor),) for held in self._held.values() for path in held.disk.paths
        }
        self._confirmed = {held.disk.paths[0] for held in self._held.values() if len(held.disk.paths) == 1}
        self.failed = dict(failed)
        self._retry_ms = dict.fromkeys(failed, now_ms + self._settings.lost_ms)

    def adopt(self, floor: int, disks: Iterable[Disk]) -> None:
        """Go on with what an earlier process took; nothing is believed before `prove`."""
        self.begin(floor, disks, {})
        self._confirmed.clear()  # where this process is the initiator, its sessions are new to the target
        self.disbelieve()

    def forget(self, serials: Collection[str]) -> set[str]:
        """Hold and count these no longer; returns which. One with a command under way stays: its answer comes late.

        Should one come back, it is a new disk: whoever has it is looked for before it is taken (`_join`).
        """
        gone = set(serials) - self._busy - {path.serial for path in self._beating}
        held = [self._held.pop(serial) for serial in gone & self._held.keys()]
        for serial in gone:
            self.failed.pop(serial, None)
            self._retry_ms.pop(serial, None)
        for path in (path for one in held for path in one.disk.paths):
            self._registered.pop(path, None)
            self._confirmed.discard(path)
        if held:
            self._remember()
        return gone

    async def end(self) -> None:
        """Stop tending, and wait for what is under way: a late command must not register us again."""
        self.active = False
        while self._tasks:  # one may have begun another
            await asyncio.gather(*self._tasks, return_exceptions=True)
        self._held.clear()
        self._registered.clear()
        self._confirmed.clear()
        self.failed.clear()

    async def stop(self) -> None:
        """The process ends: the reservations stay."""
        self.active = False
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # ------------------------------------------------------------------------------------------ proof after lost time

    def disbelieve(self) -> None:
        for held in self._held.values():
            held.verified_ms = UNPROVEN_MS

    async def prove(self) -> None:
        """Read all disks until at least half of them are proven ours, for at most lost_ms; else they are lost."""
        deadline_ms = self._pulse.now_ms() + self._settings.lost_ms
        while self.active:
            lapses = self._pulse.lapses
            self._refresh()
            readings, failed = await each(
                [held.disk for held in self._held.values()], lambda disk: read(disk, self.timeout_ms)
            )
            if self._pulse.notice() != lapses:
                continue
            for serial, reading in readings.items():
                finding = logic.judge(reading, self._host_id, self.floor)
                if finding in (Finding.TAKEN, Finding.GONE, Finding.FORGOTTEN):
                    self._fail(f"disk {serial}: {finding.value}, found after time was lost")
                    return
                self._note(self._held[serial], reading)
            self.failed.update(failed)
            unproven = [serial for serial, at_ms in self.verified_ms().items() if at_ms == UNPROVEN_MS]
            if len(unproven) * 2 <= len(self._held):
                return
            if self._pulse.now_ms() >= deadline_ms:
                self._fail("the reservations could not be read after time was lost")
                return
            await asyncio.sleep(self._settings.heartbeat_ms / 1000)

    # ------------------------------------------------------------------------------------------ beats

    def tend(self) -> None:
        """One heartbeat: show life on the sentinels, check some disks, take those that are new. Does not wait."""
        if self._error is not None:
            raise self._error
        settings, now_ms = self._settings, self._pulse.now_ms()
        waiting = {serial: held.waiting_ms for serial, held in self._held.items()}
        unseen = logic.blind(waiting, now_ms, settings.lost_ms)
        if unseen:
            self._fail(f"{len(unseen)} of {len(self._held)} disks could not be reached for {settings.lost_ms} ms")
            return
        visible = self._refresh()
        here = [serial for serial in self._held if serial in visible]
        self.generation = next_generation(self.generation)
        beats = set(logic.sentinels(here, self.failed, settings.sentinels))
        if beats & self._busy:
            self._sweep()  # a sentinel took longer than a beat
        checks = self._next(sorted(here), logic.checks_a_beat(len(self._held), settings.heartbeat_ms, settings.lost_ms))
        new = itertools.islice(
            (serial for serial in here if not self._all_confirmed(self._held[serial])), NEW_PATHS_MAX
        )
        for serial in sorted(beats | checks | set(new)):
            self._spawn(serial, self._tend(self._held[serial], serial in beats, serial in checks))
        for serial, disk in visible.items():
            if serial not in self._held and self._retry_ms.get(serial, 0) <= now_ms:
                self._spawn(serial, self._join(disk))

    def _refresh(self) -> Mapping[str, Disk]:
        """The visible disks; those that we hold may have come back by another path."""
        visible, now_ms = self._source.disks(), self._pulse.now_ms()
        for serial, held in self._held.items():
            held.disk, before = visible.get(serial, held.disk), held.disk
            for gone in () if held.disk is before else set(before.paths) - set(held.disk.paths):
                self._registered.pop(gone, None)
                self._confirmed.discard(gone)
            if serial not in visible and held.waiting_ms is None:
                held.waiting_ms = now_ms
        return visible

    def _all_confirmed(self, held: _Held) -> bool:
        return self._confirmed.issuperset(held.disk.paths)

    def _next(self, serials: list[str], count: int) -> set[str]:
        """The next ones in turn."""
        chosen = set(itertools.islice(itertools.cycle(serials), self._turn, self._turn + count)) if serials else set()
        self._turn = (self._turn + count) % max(1, len(serials))
        return chosen

    def _spawn(self, serial: str, work: Coroutine[Any, Any, None]) -> None:
        """One piece of work a disk at a time; a hanging disk skips its beats."""
        if serial in self._busy:
            work.close()
            return
        self._busy.add(serial)
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._done(serial, done))

    def _done(self, serial: str, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._busy.discard(serial)
        if not task.cancelled() and task.exception() is not None:
            self._error = task.exception()  # a bug: the next beat ends the process with it

    async def _tend(self, held: _Held, beat: bool, check: bool) -> None:
        lapses, serial = self._pulse.lapses, held.disk.serial
        if held.waiting_ms is None:
            held.waiting_ms = self._pulse.now_ms()
        try:
            sound = (not beat and self._all_confirmed(held)) or await self._beat(held, lapses, shown=beat)
            reading = await self._examine(held, lapses) if check or not sound else None
            if reading is not None and not sound:
                await self._admit(held, reading, lapses, shown=beat)
            self.failed.pop(serial, None)
        except (TransportError, DiskRefused) as error:
            self.failed[serial] = str(error)
            self._sweep()

    async def _beat(self, held: _Held, lapses: int, *, shown: bool) -> bool:
        """Show life: our key with a new generation, on every path. False: a path is not registered as we thought.

        Never REGISTER AND IGNORE EXISTING KEY here: after being preempted that would let us back in to write.
        `shown`: on this disk we do so at every heartbeat. Each registration says anew whether it shall outlive the
        power (APTPL), and what does is written to the disk's own memory: not twenty times a second for years.
        """
        new, paths = make_key(self._host_id, self.generation), held.disk.paths
        aptpl = held.disk.persists and not shown
        if len(paths) == 1:  # the common case, without tasks
            registered = await self._beat_path(paths[0], new, aptpl)
        else:
            registered = await self._beat_paths(paths, new, aptpl)
        if not registered:
            return False
        if self._pulse.notice() == lapses:
            held.verified_ms, held.waiting_ms = self._pulse.now_ms(), None
        return True

    async def _beat_paths(self, paths: Sequence[Transport], new: int, aptpl: bool) -> bool:
        """Whether those that answered are registered; raises TransportError when none does.

        A path that hangs is not waited for where another has shown life, or our key would stand still and we be taken
        for dead. It gets no other command until that one has ended, as long as the kernel or a time-out may need.
        """
        loop = asyncio.get_running_loop()
        pending = set()
        for path in paths:
            if path not in self._beating:
                task = self._beating[path] = loop.create_task(self._beat_path(path, new, aptpl))
                self._tasks.add(task)
                task.add_done_callback(functools.partial(self._beaten, path))
                pending.add(task)
        answers: list[bool] = []
        lost = TransportError(f"{paths[0].serial}: every path hangs")
        ends_s = loop.time() + self._settings.heartbeat_ms * BEAT_SHARE / 1000
        while pending:
            left_s = max(0.0, ends_s - loop.time()) if any(answers) else None
            done, pending = await asyncio.wait(pending, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                break
            for task in done:
                try:
                    answers.append(task.result())
                except TransportError as error:
                    lost = error
        if not answers:
            raise lost
        return all(answers)

    def _beaten(self, path: Transport, task: asyncio.Task[bool]) -> None:
        self._tasks.discard(task)
        del self._beating[path]
        if not task.cancelled() and not isinstance(task.exception(), TransportError | None):
            self._error = task.exception()

    async def _beat_path(self, path: Transport, new: int, aptpl: bool) -> bool:
        known = self._registered.get(path, ())
        for old in known:
            try:
                reply = await register(path, scsi_pr.register, old, new, aptpl=aptpl, timeout_ms=self.timeout_ms)
            except TransportError:
                self._registered[path] = (*known, new)[-POSSIBLE_KEYS_MAX:]
                raise
            if reply.status == Status.GOOD:
                self._registered[path] = (new,)
                self._confirmed.add(path)
                return True
        self._confirmed.discard(path)
        return False

    def _sweep(self) -> None:
        """A disk failed or is slow: ask all of them now, so that a dead cable is soon told from a dead disk."""
        now_ms = self._pulse.now_ms()
        if not self.active or now_ms - self._swept_ms < self._settings.lost_ms / 4:
            return
        self._swept_ms = now_ms
        for serial, held in self._held.items():
            self._spawn(serial, self._tend(held, beat=False, check=True))

    # ------------------------------------------------------------------------------------------ findings

    async def _examine(self, held: _Held, lapses: int) -> Reading | None:
        """Read one disk that we hold, and do what must be done; the reading if that was nothing."""
        asked_ms = self._pulse.now_ms()
        reading = await read(held.disk, self.timeout_ms)
        if not self.active or self._pulse.notice() != lapses:
            return None  # read before time was lost: proves nothing now
        finding = logic.judge(reading, self._host_id, self.floor)
        match finding:
            case Finding.OURS:
                self._note(held, reading)
                held.shared_ms = None
                return reading
            case Finding.SHARED:
                await self._tolerate(held, reading, lapses)
            case Finding.UNRESERVED:
                await self._retake(held, reading, lapses)
            case Finding.FORGOTTEN:
                self._sweep()  # so have the target's other disks
                if self._pulse.now_ms() - asked_ms < self.timeout_ms:  # later another may have come (logic.BlankWatch)
                    await self._retake(held, reading, lapses)
            case Finding.TAKEN | Finding.GONE:
                self._fail(f"disk {held.disk.serial}: {finding.value}")
        return None

    async def _admit(self, held: _Held, reading: Reading, lapses: int, *, shown: bool) -> None:
        """The disk is ours and nobody else's, but a path is not registered, and what we write by it is refused.

        It has one of the keys that were just read; or it is a nexus of its own (a cable that was plugged in, a session
        made anew), and is registered like those that we took the disk with. An entry of ours that no path has any more
        is evicted by that.
        """
        if not await self._beat(held, lapses, shown=shown) and self.active and self._pulse.notice() == lapses:
            await self._retake(held, reading, lapses)

    def _note(self, held: _Held, reading: Reading) -> None:
        """Proven ours. A path may have any of the keys that we have on the disk; likeliest what we believed before."""
        held.verified_ms, held.waiting_ms = self._pulse.now_ms(), None
        own = reading.own(self._host_id)
        first = reading.reservation.key if reading.reservation is not None else own[0]
        for path in held.disk.paths:
            before = [key for key in self._registered.get(path, ()) if key in own]
            self._registered[path] = tuple(dict.fromkeys((*before, first, *sorted(set(own)))))[:POSSIBLE_KEYS_MAX]
        self.generation = logic.latest((generation_of(key) for key in own), self.generation)

    async def _tolerate(self, held: _Held, reading: Reading, lapses: int) -> None:
        """Another host has registered: it is about to take over, and shall; or it died doing so, and is evicted."""
        now_ms = self._pulse.now_ms()
        self._note(held, reading)
        if held.shared_ms is None:
            held.shared_ms = now_ms
        elif now_ms - held.shared_ms >= self._settings.lost_ms:
            held.shared_ms = None
            await self._retake(held, reading, lapses)

    async def _retake(self, held: _Held, before: Reading, lapses: int) -> None:
        self._note(held, await self._take(held.disk, before, lapses))

    async def _take(self, disk: Disk, before: Reading, lapses: int, *, purge: bool = False) -> Reading:
        """Reserve one disk. If time was lost meanwhile, what we did was perhaps done to another host: fail closed."""
        key = make_key(self._host_id, self.generation)
        reading = await take(disk, before, key, self.timeout_ms, purge=purge)
        if self._pulse.notice() != lapses:
            self._fail(f"disk {disk.serial}: time was lost while it was being reserved")
        return reading

    async def _join(self, disk: Disk) -> None:
        """A disk that is not ours yet: it came while we hold the others, or failed when we took them."""
        serial, lapses = disk.serial, self._pulse.lapses
        try:
            before = await read(disk, self.timeout_ms)
            if before.strangers(self._host_id):
                await self._still_ours()
            if not self.active or self._pulse.notice() != lapses:
                return
            reading = await self._take(disk, before, lapses, purge=serial in self.failed)
            held = self._held[serial] = _Held(disk, self._pulse.now_ms())
            self._note(held, reading)
            self.failed.pop(serial, None)
            self._retry_ms.pop(serial, None)
            self._remember()
        except (TransportError, DiskRefused) as error:
            self.failed[serial] = str(error)
            self._retry_ms[serial] = self._pulse.now_ms() + self._settings.lost_ms

    async def _still_ours(self) -> None:
        """Before another host is evicted from a new disk: has it perhaps just taken the others from us?"""
        lapses = self._pulse.lapses
        here = [serial for serial in self._held if serial not in self.failed]
        for serial in here[: self._settings.sentinels]:
            await self._examine(self._held[serial], lapses)

    def _fail(self, reason: str) -> None:
        if self.active:
            self.active = False
            self._lost(reason)
