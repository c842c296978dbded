"""What can be done to the world, one line each: the vocabulary of fault plans and of tests/scenarios.

WHO is a, b, master or standby (as it is at that moment); LINK heartbeat, lan-a, lan2-a, disks-a, … -b;
WIRE is heartbeat, eth0 or eth1; DISK is the number of a slot, from 0.

    kill WHO | boot WHO | freeze WHO | thaw WHO | reboot WHO    power and life of a whole controller
    kill-daemon WHO | freeze-daemon WHO | thaw-daemon WHO       of middlewared alone
    kill-keeper WHO | freeze-keeper WHO | thaw-keeper WHO       of fenced alone
    cut LINK | heal LINK                                        a cable, with its carrier
    lose WIRE WHO | carry WIRE WHO                              one direction: what WHO sends is lost, the carrier stays
    slow WIRE MS | shuffle WIRE | order WIRE                    delay; datagrams overtake one another, or not
    pull-disk DISK | push-disk DISK | fail-disk DISK | repair-disk DISK | hang-disk DISK | free-disk DISK
    refuse-disk DISK | accept-disk DISK                         it refuses every reservation command
    replace-disk DISK                                           a blank disk with another serial takes its place
    slow-disks WHO MS | restart-shelf                           a restarted target has forgotten all reservations
    set WHO PROPERTY VALUE                                      as `middlewared lab set`
    pools none|default
    clock WHO SECONDS                                           its wall clock jumps
    write WHO | call WHO METHOD [JSON…]                         an operator's change or call; the answer goes to the log
    heal-all                                                    everything works again, and is switched on
"""

import json
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from middlewared.auth.identity import Credential
from middlewared.errors import CallError, ValidationErrors
from middlewared.lab import properties
from middlewared.lab.places import LAN_LINKS, LINKS, NODES, LabError
from middlewared.lab.pool import REDUNDANCY
from tests.simulator.network import HEARTBEAT

if TYPE_CHECKING:
    from tests.simulator.controller import Controller, Daemon
    from tests.simulator.world import World

WIRES = (HEARTBEAT, "eth0", "eth1")


class CommandError(Exception):
    """No such command; the message says what there is."""


def run(world: "World", line: str) -> None:
    """Do what a line says, now. What it leads to happens as time goes on. Raises CommandError."""
    words = shlex.split(line)
    if not words or words[0] not in _COMMANDS:
        raise CommandError(f"no such command: {line!r}")
    try:
        _COMMANDS[words[0]](world, *words[1:])
    except (TypeError, ValueError, KeyError, IndexError, LabError) as error:
        raise CommandError(f"{line!r}: {error}") from error


def resolve(world: "World", who: str) -> str:
    """The controller that a word means now: a settled MASTER, or whoever was last."""
    if who in NODES:
        return who
    if who not in ("master", "standby"):
        raise ValueError(f"{who} is none of a, b, master, standby")
    master = world.last_master
    return master if who == "master" else ("b" if master == "a" else "a")


def _on(act: "Callable[[Controller], None]") -> "Callable[..., None]":
    return lambda world, who: act(world.controllers[resolve(world, who)])


def _kill(world: "World", who: str) -> None:
    node = resolve(world, who)
    world.unplugged.add(node)
    world.controllers[node].power_off()


def _boot(world: "World", who: str) -> None:
    node = resolve(world, who)
    world.unplugged.discard(node)
    world.controllers[node].power_on()


def _stop_process(name: str) -> "Callable[..., None]":
    def act(controller: "Controller") -> None:
        process = controller.process(name)
        if process is not None and name not in controller.stopped:
            controller.stopped[name] = process
            process.freeze()

    return _on(act)


def _continue_process(name: str) -> "Callable[..., None]":
    def act(controller: "Controller") -> None:
        process = controller.stopped.pop(name, None)
        if process is not None:
            process.thaw()

    return _on(act)


def _cut(world: "World", link: str) -> None:
    if link not in LINKS:
        raise ValueError(f"no link {link}")
    world.link(link, up=False)


def _heal(world: "World", link: str) -> None:
    if link not in LINKS:
        raise ValueError(f"no link {link}")
    world.link(link, up=True)


def _lose(world: "World", wire: str, who: str) -> None:
    world.network.lossy.add((WIRES[WIRES.index(wire)], resolve(world, who)))


def _carry(world: "World", wire: str, who: str) -> None:
    world.network.lossy.discard((wire, resolve(world, who)))
    world.network.healed()


def _slow(world: "World", wire: str, delay_ms: str) -> None:
    world.network.slow_ms[WIRES[WIRES.index(wire)]] = float(delay_ms)


def _shuffle(world: "World", wire: str) -> None:
    world.network.shuffled.add(WIRES[WIRES.index(wire)])


def _disk(name: str, *, add: bool) -> "Callable[..., None]":
    def act(world: "World", slot: str) -> None:
        disks: set[int] = getattr(world.fabric, name)
        lun = world.fabric.slots[int(slot)]
        (disks.add if add else disks.discard)(lun)
        world.fabric.changed()

    return act


def _replace_disk(world: "World", slot: str) -> None:
    """Unless so many are blank already that the pool would be lost: then the old one comes back."""
    if world.blank_disks() >= REDUNDANCY:
        run(world, f"push-disk {slot}")
        return
    world.oracles.disk_removed(world.fabric.slots[int(slot)])
    world.fabric.replace(int(slot))


def _restart_shelf(world: "World") -> None:
    world.shelf.restart()
    world.oracles.target_restarted()


def _slow_disks(world: "World", who: str, delay_ms: str) -> None:
    world.fabric.slow_ms[resolve(world, who)] = float(delay_ms)


def _set(world: "World", who: str, name: str, value: str) -> None:
    controller = world.controllers[resolve(world, who)]
    controller.properties = controller.properties | {name: properties.read(name, value)}
    controller.tell_properties()


def _pools(world: "World", wanted: str) -> None:
    world.pools = wanted
    for controller in world.controllers.values():
        controller.tell_pools()


def _clock(world: "World", who: str, seconds: str) -> None:
    world.controllers[resolve(world, who)].wall_offset_s += float(seconds)


def _call(world: "World", who: str, method: str, *words: str) -> None:
    node = resolve(world, who)
    arguments = [json.loads(word) for word in words]
    daemon = world.controllers[node].daemon
    if daemon is None or not world.controllers[node].powered:
        world.note(f"{node}: {method} -> nobody answers")
        return
    daemon.process.start(_answer(world, daemon, method, arguments))


_OPERATOR = Credential("UNIX_SOCKET", "root", frozenset({"FULL_ADMIN"}))


async def _answer(world: "World", daemon: "Daemon", method: str, arguments: list[Any]) -> None:
    try:
        result = await daemon.call(method, *arguments, credential=_OPERATOR)
    except (CallError, ValidationErrors) as error:
        world.note(f"{daemon.controller.node}: {method} refused: {error}")
    else:
        world.note(f"{daemon.controller.node}: {method} -> {json.dumps(result, default=str)}")


def _write(world: "World", who: str) -> None:
    world.writer.write(resolve(world, who))


def heal_all(world: "World") -> None:
    """Everything that a fault can break works again, and both controllers are switched on."""
    world.unplugged.clear()
    for controller in world.controllers.values():
        for process in controller.stopped.values():
            process.thaw()
        controller.stopped.clear()
        controller.thaw()
        changed = {"version", "reboot_reasons", "licensed"}  # what an upgrade or an administrator did stays
        kept = {name: value for name, value in controller.properties.items() if name in changed}
        controller.properties = controller.properties | properties.defaults() | kept | {"licensed": True}
    fabric, network = world.fabric, world.network
    for broken in (fabric.hung, fabric.pulled, fabric.refusing, fabric.slow_ms, network.slow_ms, network.shuffled):
        broken.clear()
    network.lossy.clear()
    for disk in world.shelf.disks:
        world.shelf.repair(disk.lun)
    for link in LINKS:
        world.link(link, up=True)
    world.pools = "default"
    for controller in world.controllers.values():
        controller.properties["version"] = properties.defaults()["version"]
        controller.properties["reboot_reasons"] = []
        controller.tell_properties()
        controller.tell_pools()
        controller.power_on()
    fabric.changed()
    network.healed()


_COMMANDS: "dict[str, Callable[..., None]]" = {
    "kill": _kill,
    "boot": _boot,
    "freeze": _on(lambda controller: controller.freeze()),
    "thaw": _on(lambda controller: controller.thaw()),
    "reboot": _on(lambda controller: controller.order("reboot", "an operator said so")),
    "kill-daemon": _on(lambda controller: controller.kill("daemon")),
    "kill-keeper": _on(lambda controller: controller.kill("keeper")),
    "freeze-daemon": _stop_process("daemon"),
    "thaw-daemon": _continue_process("daemon"),
    "freeze-keeper": _stop_process("keeper"),
    "thaw-keeper": _continue_process("keeper"),
    "cut": _cut,
    "heal": _heal,
    "lose": _lose,
    "carry": _carry,
    "slow": _slow,
    "shuffle": _shuffle,
    "order": lambda world, wire: world.network.shuffled.discard(wire),
    "pull-disk": _disk("pulled", add=True),
    "push-disk": _disk("pulled", add=False),
    "hang-disk": _disk("hung", add=True),
    "free-disk": _disk("hung", add=False),
    "refuse-disk": _disk("refusing", add=True),
    "accept-disk": _disk("refusing", add=False),
    "fail-disk": lambda world, slot: world.shelf.fail(world.fabric.slots[int(slot)]),
    "repair-disk": lambda world, slot: world.shelf.repair(world.fabric.slots[int(slot)]),
    "replace-disk": _replace_disk,
    "slow-disks": _slow_disks,
    "restart-shelf": _restart_shelf,
    "set": _set,
    "pools": _pools,
    "clock": _clock,
    "write": _write,
    "call": _call,
    "heal-all": heal_all,
}
assert set(LAN_LINKS) < set(LINKS)
