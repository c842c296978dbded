"""A service manager for tests: `python fake_systemd.py STATE UNITS`, on the bus that DBUS_SYSTEM_BUS_ADDRESS names.

A process of its own, as systemd is. UNITS is a JSON object: name -> how the unit behaves (see `Behaviour`). Faithful in
what our drivers rely on, org.freedesktop.systemd1(5): signals only after Subscribe, which each connection may ask for
once, an answer before what the job changes, JobRemoved after the unit's own change, equal jobs merged, other ones
replaced, names of errors.
"""

import asyncio
import json
import sys
from dataclasses import dataclass, field
from typing import Any

from sdbus import (
    DbusInterfaceCommonAsync,
    SdBus,
    dbus_method_async,
    dbus_property_async,
    dbus_signal_async,
    encode_object_path,
    get_current_message,
    sd_bus_open_system,
)
from sdbus.dbus_exceptions import DbusFailedError

NAME = "org.freedesktop.systemd1"
PATH = "/org/freedesktop/systemd1"
UNIT = "org.freedesktop.systemd1.Unit"


class NoSuchUnit(DbusFailedError):
    dbus_error_name = "org.freedesktop.systemd1.NoSuchUnit"


class UnitMasked(DbusFailedError):
    dbus_error_name = "org.freedesktop.systemd1.UnitMasked"


class AlreadySubscribed(DbusFailedError):
    dbus_error_name = "org.freedesktop.systemd1.AlreadySubscribed"


@dataclass
class Behaviour:
    load: str = "loaded"
    active: str = "inactive"
    result: str = "done"  # of jobs that start or stop it
    after_start: str = "active"
    after_stop: str = "inactive"
    hangs: bool = False  # jobs wait until it is False again, or another job replaces them
    early: bool = False  # JobRemoved overtakes the answer
    alias_of: str = ""
    calls: list[str] = field(default_factory=list)


class Unit(DbusInterfaceCommonAsync, interface_name=UNIT):  # type: ignore[call-arg]  # sdbus' metaclass takes it
    def __init__(self, manager: "Manager", name: str, behaviour: Behaviour) -> None:
        super().__init__()
        self.manager, self.name, self.behaviour = manager, name, behaviour
        self.path = encode_object_path(f"{PATH}/unit", name)
        self.job_number, self.job_verb = 0, ""
        self.working: asyncio.Task[None] | None = None

    @dbus_property_async("s")
    def load_state(self) -> str:
        return self.behaviour.load

    @dbus_property_async("s")
    def active_state(self) -> str:
        return self.behaviour.active

    @dbus_property_async("(uo)")
    def job(self) -> tuple[int, str]:
        return self.job_number, f"{PATH}/job/{self.job_number}" if self.job_number else "/"

    def show(self, active: str) -> None:
        self.behaviour.active = active
        if self.manager.subscribed:
            values = {"ActiveState": ("s", active), "Job": ("(uo)", (self.job_number, "/"))}
            self.properties_changed.emit((UNIT, values, []))

    def begin(self, verb: str) -> str:
        if self.job_verb == verb:
            return f"{PATH}/job/{self.job_number}"
        if self.working is not None:
            self.working.cancel()
            self.end("canceled")
        self.manager.last_job += 1
        self.job_number, self.job_verb = self.manager.last_job, verb
        if self.behaviour.early:
            self.end(self.behaviour.result, self.behaviour.after_start)
            return f"{PATH}/job/{self.manager.last_job}"
        self.working = asyncio.create_task(self.work(verb))
        return f"{PATH}/job/{self.job_number}"

    async def work(self, verb: str) -> None:
        await asyncio.sleep(0.01)  # the answer goes first
        behaviour = self.behaviour
        self.show("activating" if verb == "StartUnit" else "deactivating")
        while behaviour.hangs:
            await asyncio.sleep(0.01)
        self.working = None
        failed = "failed" if verb == "StartUnit" else behaviour.active
        fine = behaviour.after_start if verb == "StartUnit" else behaviour.after_stop
        self.end(behaviour.result, fine if behaviour.result == "done" else failed)

    def end(self, result: str, active: str = "inactive") -> None:
        number, self.job_number, self.job_verb = self.job_number, 0, ""
        self.show(active)
        if self.manager.subscribed:
            self.manager.job_removed.emit((number, f"{PATH}/job/{number}", self.name, result))


class Manager(DbusInterfaceCommonAsync, interface_name="org.freedesktop.systemd1.Manager"):  # type: ignore[call-arg]  # as above
    def __init__(self, bus: SdBus, state: str, behaviours: dict[str, Any]) -> None:
        super().__init__()
        self.bus, self.state, self.last_job = bus, state, 0
        self.subscribers: set[str | None] = set()
        self.units: dict[str, Unit] = {}
        self.aliases: dict[str, str] = {}
        for name, values in behaviours.items():
            self.unit(name).behaviour = Behaviour(**values)
            self.aliases[name] = values.get("alias_of", "")

    @property
    def subscribed(self) -> bool:
        return bool(self.subscribers)

    def unit(self, name: str) -> Unit:
        name = self.aliases.get(name) or name
        if name not in self.units:
            unit = self.units[name] = Unit(self, name, Behaviour(load="not-found"))
            unit.export_to_dbus(unit.path, self.bus)
        return self.units[name]

    def switch(self, name: str, verb: str, mode: str) -> str:
        unit = self.unit(name)
        unit.behaviour.calls.append(f"{verb} {mode}")
        if unit.behaviour.load == "not-found":
            raise NoSuchUnit(f"Unit {name} not {'found' if verb == 'StartUnit' else 'loaded'}.")
        if unit.behaviour.load == "masked" and verb == "StartUnit":
            raise UnitMasked(f"Unit {name} is masked.")
        return unit.begin(verb)

    @dbus_method_async()
    async def subscribe(self) -> None:
        """Once a connection, as the real one has it."""
        sender = get_current_message().sender
        if sender in self.subscribers:
            raise AlreadySubscribed("Client is already subscribed.")
        self.subscribers.add(sender)

    @dbus_method_async("s", "o")
    async def load_unit(self, name: str) -> str:
        return self.unit(name).path

    @dbus_method_async("ss", "o")
    async def start_unit(self, name: str, mode: str) -> str:
        return self.switch(name, "StartUnit", mode)

    @dbus_method_async("ss", "o")
    async def stop_unit(self, name: str, mode: str) -> str:
        return self.switch(name, "StopUnit", mode)

    @dbus_signal_async("uoss")
    def job_removed(self) -> tuple[int, str, str, str]:
        raise NotImplementedError

    @dbus_signal_async("b")
    def reloading(self) -> bool:
        raise NotImplementedError

    @dbus_signal_async("tttttt")
    def startup_finished(self) -> tuple[int, int, int, int, int, int]:
        raise NotImplementedError

    @dbus_property_async("s")
    def version(self) -> str:
        return "252.39-1~deb12u2"

    @dbus_property_async("s")
    def system_state(self) -> str:
        return self.state


class Control(DbusInterfaceCommonAsync, interface_name="test.Control"):  # type: ignore[call-arg]  # as above
    """What the tests do to it."""

    def __init__(self, manager: Manager) -> None:
        super().__init__()
        self.manager = manager

    @dbus_method_async("ss")
    async def behave(self, unit: str, changes: str) -> None:
        """Change a unit's behaviour; `active` is shown at once, as when a process ends by itself."""
        target = self.manager.unit(unit)
        for key, value in json.loads(changes).items():
            setattr(target.behaviour, key, value)
            if key == "active":
                target.show(value)

    @dbus_method_async("s", "as")
    async def calls(self, unit: str) -> list[str]:
        return self.manager.unit(unit).behaviour.calls

    @dbus_method_async()
    async def reload(self) -> None:
        self.manager.reloading.emit(True)
        self.manager.reloading.emit(False)

    @dbus_method_async("s")
    async def finish(self, state: str) -> None:
        self.manager.state = state
        self.manager.startup_finished.emit((0, 0, 0, 0, 0, 1))


async def main(state: str, units: dict[str, Any]) -> None:
    bus = sd_bus_open_system()
    manager = Manager(bus, state, units)
    manager.export_to_dbus(PATH, bus)
    control = Control(manager)
    control.export_to_dbus("/test", bus)
    await bus.request_name_async(NAME, 0)
    print("ready", flush=True)
    while bus.get_fd() >= 0:  # raises when the bus ends, and so do we
        await asyncio.sleep(0.05)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], json.loads(sys.argv[2])))
