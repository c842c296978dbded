"""Services as units of systemd, over D-Bus: org.freedesktop.systemd1(5).

States are what systemd last said, never asked for when needed. A job's end is its JobRemoved signal; "done" alone is
not believed: the unit's state afterwards has to agree, since an export follows a stop.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sdbus.sd_bus_internals import SdBusSlot

from middlewared.dbus import PROPERTIES, SYSTEMD, SYSTEMD_MANAGER, SYSTEMD_PATH, BusError, SystemBus, connected
from middlewared.ports import Finding, Listener, PortError, Services

log = logging.getLogger(__name__)

UNITS_MAX = 256
_JOB_MS_MAX = 600_000  # the caller sets the real deadline; this one bounds what it forgot
_UNIT = "org.freedesktop.systemd1.Unit"
_NO_SUCH_UNIT = "org.freedesktop.systemd1.NoSuchUnit"
_AT_REST = ("inactive", "failed")  # of ActiveState; in every other one processes of the unit may hold a pool busy
_FOUND = ("loaded", "merged")  # of LoadState; others cannot be started: not-found, masked, bad-setting, error
_ENDS = {
    "canceled": "was cancelled by another request",
    "timeout": "took longer than the unit allows",
    "failed": "failed",
    "dependency": "failed: a unit that it needs did not start",
    "skipped": "was skipped: it does not apply to the unit's present state",
}  # results of a job, as JobRemoved tells them; the rest are told by their own word
_MISSING = "install the package that brings it, or correct the unit's name (service.update)"


@dataclass(slots=True, eq=False)
class _Unit:
    """A unit and what systemd last said of it; empty: nothing yet."""

    name: str
    path: str = ""
    load_state: str = ""
    active_state: str = ""
    job: int = 0  # its number; 0: none waits or runs
    changes: int = 0  # signals so far: an answer that was asked for before a signal is older than it
    slot: SdBusSlot | None = None

    @property
    def running(self) -> bool:
        return self.active_state not in _AT_REST or self.job != 0

    @property
    def there(self) -> bool:
        return self.running or self.load_state in _FOUND


class SystemdServices(Services):
    """Lives as long as `bus`, which whoever picks the drivers starts and stops; the services outlive both (S5)."""

    def __init__(self, bus: SystemBus, units: Mapping[str, str] | None = None) -> None:
        self._bus = bus
        self._units: dict[str, _Unit] = {}
        self._switching: Counter[str] = Counter()  # by service: requests under way
        self._jobs: dict[str, list[asyncio.Future[str]]] = {}  # who waits, by the job's path: systemd merges equal ones
        self._early: dict[str, str] = {}  # results of jobs whose path we do not know yet
        self._asking = 0
        self._listeners: list[Listener] = []
        self._learning: set[asyncio.Task[None]] = set()
        self._slots: list[SdBusSlot] = []
        self._connected = False
        self.configure(units or {})
        bus.on_connect(self._on_connect)
        bus.on_lost(self._on_lost)

    # ------------------------------------------------------------------------------------------ the port

    def configure(self, units: Mapping[str, str]) -> None:
        """Raises PortError when there are too many."""
        if len(units) > UNITS_MAX:
            raise PortError(f"{len(units)} services are too many: {UNITS_MAX} can be watched")
        before = self._units
        self._units = {
            name: before[name] if name in before and before[name].name == unit else _Unit(unit)
            for name, unit in units.items()
        }
        for unit in self._units.values():
            if self._connected and not unit.path:
                self._learn(unit)
        self._tell()

    def states(self) -> Mapping[str, bool]:
        return {
            name: unit.running or self._switching[name] > 0
            for name, unit in self._units.items()
            if unit.there or self._switching[name] > 0
        }

    async def start(self, name: str) -> None:
        unit = await self._switch(name, "StartUnit", "starting")
        if unit.active_state not in ("active", "reloading"):
            raise PortError(
                f"{unit.name} is {unit.active_state} after it started: its process ended, or a condition of the unit"
                f" does not hold; see `systemctl status {unit.name}`"
            )

    async def stop(self, name: str) -> None:
        try:
            unit = await self._switch(name, "StopUnit", "stopping")
        except BusError as error:
            if error.name == _NO_SUCH_UNIT:  # not even loaded: nothing of it runs
                return
            raise
        if unit.running:
            raise PortError(
                f"{unit.name} is {unit.active_state} after it stopped: something started it again;"
                f" see `journalctl -u {unit.name}`"
            )

    def on_change(self, listener: Listener) -> None:
        self._listeners.append(listener)

    async def examine(self) -> Sequence[Finding]:
        """Each unit: whether this host has it. Works before the bus is started."""
        found = []
        try:
            async with connected() as bus:
                for name, unit in self._units.items():
                    path = await _load(bus, unit.name)
                    state = str(await bus.get(SYSTEMD, path, _UNIT, "LoadState"))
                    there = state in _FOUND
                    remedy = "" if there else f"{_MISSING}, or disable the service"
                    found.append(Finding(f"service {name}", there, f"{unit.name}: {state}", remedy))
        except PortError as error:
            found.append(Finding("services", False, str(error), "see the finding about systemd"))
        return found

    # ------------------------------------------------------------------------------------------ jobs

    async def _switch(self, name: str, verb: str, doing: str) -> _Unit:
        """Let systemd do a job, wait for its end, and read the unit. Raises PortError."""
        if name not in self._units:
            raise PortError(f"there is no service {name!r}; service.create makes one of a unit of systemd")
        unit = self._units[name]
        self._switching[name] += 1
        self._tell()
        try:
            result = await self._job(unit.name, verb, doing)
            await self._read(unit)
        except BaseException:  # the job may go on without us
            unit.active_state = ""
            if self._connected:
                self._learn(unit)
            raise
        finally:
            self._switching[name] -= 1
            self._tell()
        if result != "done":
            raise PortError(
                f"{doing} {unit.name} {_ENDS.get(result, f'ended as {result!r}')}; see `journalctl -u {unit.name}`"
            )
        return unit

    async def _job(self, unit: str, verb: str, doing: str) -> str:
        """The result of a job, in systemd's word. "replace": a start that is under way gives way to a stop."""
        ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._asking += 1
        try:
            (job,) = await self._bus.call(SYSTEMD, SYSTEMD_PATH, SYSTEMD_MANAGER, verb, "ss", unit, "replace")
            self._jobs.setdefault(job, []).append(ended)
            if job in self._early:  # the signal may overtake the answer
                ended.set_result(self._early[job])
        except BusError as error:
            remedy = _MISSING if error.name == _NO_SUCH_UNIT else f"see `journalctl -u {unit}`"
            raise BusError(error.name, f"{doing} {unit} was refused: {error}; {remedy}") from error
        finally:
            self._asking -= 1
            if not self._asking:
                self._early.clear()
        try:
            async with asyncio.timeout(_JOB_MS_MAX / 1000):
                return await ended
        except TimeoutError:
            raise PortError(f"{doing} {unit} did not end within {_JOB_MS_MAX} ms; see `systemctl list-jobs`") from None
        finally:
            self._jobs[job].remove(ended)
            if not self._jobs[job]:
                del self._jobs[job]

    def _job_removed(self, arguments: tuple[Any, ...]) -> None:
        _, job, _, result = arguments
        if self._asking:
            self._early[job] = result
        for ended in self._jobs.get(job, []):
            if not ended.done():
                ended.set_result(result)

    # ------------------------------------------------------------------------------------------ states

    async def _on_connect(self) -> None:
        manager = (SYSTEMD, SYSTEMD_PATH, SYSTEMD_MANAGER)
        self._slots = [
            await self._bus.watch(*manager, "JobRemoved", self._job_removed),
            await self._bus.watch(*manager, "Reloading", self._reloading),
        ]
        await self._bus.subscribe()
        self._connected = True
        await asyncio.gather(*(self._look(unit) for unit in self._units.values()))
        self._tell()

    def _on_lost(self) -> None:
        """Nothing is known any more; whoever waits for a job's end hears so."""
        self._connected = False
        self._slots.clear()
        for task in self._learning:
            task.cancel()
        self._units = {name: _Unit(unit.name) for name, unit in self._units.items()}
        for ended in [ended for waiting in self._jobs.values() for ended in waiting]:
            if not ended.done():
                ended.set_exception(PortError("the connection to systemd was lost; see `systemctl status dbus`"))
        self._tell()

    def _reloading(self, arguments: tuple[Any, ...]) -> None:
        """systemd read its files again (False: and is done): units may have come, gone, or moved."""
        if not arguments[0]:
            for unit in self._units.values():
                unit.path = ""
                self._learn(unit)

    def _learn(self, unit: _Unit) -> None:
        task = asyncio.get_running_loop().create_task(self._look(unit))
        self._learning.add(task)
        task.add_done_callback(self._learning.discard)

    async def _look(self, unit: _Unit) -> None:
        """Read a unit. One that cannot be read stays unknown, which counts as running."""
        try:
            await self._read(unit)
        except PortError as error:
            log.error("the state of %s is not known, and counts as running: %s", unit.name, error)

    async def _read(self, unit: _Unit) -> None:
        """Watch it first, if nobody does yet: what changes after an answer is told by a signal. Raises PortError."""

        def changed(arguments: tuple[Any, ...]) -> None:
            interface, values, _ = arguments
            if interface == _UNIT:
                unit.changes += 1
                self._take(unit, {name: value for name, (_, value) in values.items()})

        if not unit.path:
            path = await _load(self._bus, unit.name)
            unit.slot = await self._bus.watch(SYSTEMD, path, PROPERTIES, "PropertiesChanged", changed)
            unit.path = path
        for name in ("LoadState", "Job", "ActiveState"):
            before = unit.changes
            value = await self._bus.get(SYSTEMD, unit.path, _UNIT, name)
            if unit.changes == before:
                self._take(unit, {name: value})

    def _take(self, unit: _Unit, values: Mapping[str, Any]) -> None:
        was = (unit.load_state, unit.active_state, unit.job)
        unit.load_state = values.get("LoadState", unit.load_state)
        unit.active_state = values.get("ActiveState", unit.active_state)
        unit.job = values["Job"][0] if "Job" in values else unit.job
        if (unit.load_state, unit.active_state, unit.job) != was:
            self._tell()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()


async def _load(bus: SystemBus, unit: str) -> str:
    """The object path of a unit; one whose file does not exist has a path too."""
    (path,) = await bus.call(SYSTEMD, SYSTEMD_PATH, SYSTEMD_MANAGER, "LoadUnit", "s", unit)
    return str(path)
