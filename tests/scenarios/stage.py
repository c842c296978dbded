"""What a scenario's commands can do beyond tests/simulator/commands.py: time, questions, configuration, the start.

Before anything else (each may be left out; then the pair starts, A becomes MASTER, and two seconds pass):

    hardware disks=11           what the simulated hardware is like (tests.simulator.world.Shape)
    settings import_ms_max=500  of both controllers, the [failover] section
    dark                        nothing is switched on: the scenario itself does `boot a`, `boot b`

Then commands of the simulator, and:

    wait 3s | wait 250ms        let time pass; everything that happens is shown, with its time since the last command
    wait until b is MASTER      … at most 30 s, or `within 90s` at the end; also: `b has CODE`, `b lacks CODE`,
                                `b serves`, `healthy` (one MASTER that clients reach, no reasons)
                                What holds right after a command was no news of it: that is an error
    expect CONDITION            one of those, now
    show                        status, what is held, and reasons, on both controllers
    try a METHOD [JSON…]        `call`, in a copy of the world: the answer, and where the pair ends up; the scenario
                                itself goes on as if nobody had asked
    interface a eth0 KEY=VALUE  an administrator's interface.update on A: critical=yes|no group=1|none vip=yes|no
"""

import dataclasses
import json
import os
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING

from middlewared.errors import CallError
from middlewared.lab.places import NODES, PREFIX_LENGTH, VIRTUAL_ADDRESSES
from middlewared.plugins.fencing.logic import HOST_IDS
from middlewared.plugins.fencing.scsi_pr import host_of, is_parked
from middlewared.store.database import Transaction
from tests.simulator.commands import CommandError, resolve
from tests.simulator.world import Shape, World

if TYPE_CHECKING:
    from tests.simulator.controller import Daemon

STEP_MS = 10.0
BOUND_S = 30.0
TRY_S = 25.0  # a whole way down and up, a boot, and standing aside
BEFORE_START = ("hardware", "settings", "dark")


def pairs(words: list[str]) -> dict[str, str]:
    """`key=value` words."""
    if not all("=" in word for word in words):
        raise CommandError(f"expected KEY=VALUE: {' '.join(words)}")
    return dict(word.split("=", 1) for word in words)  # type: ignore[misc]  # each has two parts


def shaped(shape: Shape, words: list[str]) -> Shape:
    kinds = {field.name: type(getattr(shape, field.name)) for field in dataclasses.fields(Shape)}
    return dataclasses.replace(shape, **{key: kinds[key](value) for key, value in pairs(words).items()})


def set_limits(world: World, words: list[str]) -> None:
    limits = {key: int(value) for key, value in pairs(words).items()}
    for controller in world.controllers.values():
        failover = dataclasses.replace(controller.settings.failover, **limits)
        controller.settings = dataclasses.replace(controller.settings, failover=failover)


def seconds(word: str) -> float:
    if word.endswith("ms"):
        return float(word[:-2]) / 1000
    if word.endswith("s"):
        return float(word[:-1])
    raise CommandError(f"{word}: expected 3s or 250ms")


# ------------------------------------------------------------------------------------------ looking


def healthy(world: World) -> bool:
    master = world.master()
    return master is not None and world.serves(master) and all(world.reasons(node) == [] for node in NODES)


def condition(world: World, words: list[str]) -> Callable[[], bool]:
    match words:
        case ["healthy"]:
            return lambda: healthy(world)
        case [("a" | "b") as node, "serves"]:
            return lambda: world.serves(node)
        case [("a" | "b") as node, "is", status]:
            return lambda: status_of(world, node) == status
        case [("a" | "b") as node, "has", code]:
            return lambda: code in (world.reasons(node) or ())
        case [("a" | "b") as node, "lacks", code]:
            return lambda: code not in (world.reasons(node) or ())
    raise CommandError(f"wait until what? {' '.join(words)}")


def status_of(world: World, node: str) -> str:
    """As the API says it, or why it says nothing."""
    controller = world.controllers[node]
    if not controller.powered:
        return "OFF"
    status = world.status(node)
    if status is None:
        return "STARTING"
    return str(status) if world.answers(node) else "SILENT"


def holds(world: World, node: str) -> bool:
    """Most disks are reserved by this controller."""
    keys = [world.shelf.reservations(disk.lun).holder_key or 0 for disk in world.shelf.disks]
    return sum(host_of(key) == HOST_IDS[node.upper()] and not is_parked(key) for key in keys) * 2 > len(keys)


def show(world: World) -> list[str]:
    """Two lines, one a controller."""
    lines = []
    for node in NODES:
        status, kernel = status_of(world, node), world.controllers[node].kernel
        words = [
            *(["pool imported"] if kernel is not None and kernel.pool.imported else []),
            *(["disks held"] if holds(world, node) else []),
            *(["clients reach it"] if world.serves(node) else []),
        ]
        reasons = world.reasons(node) if status not in ("OFF", "STARTING", "SILENT") else None
        said = "" if reasons is None else f"reasons: {', '.join(reasons) or 'none'}"
        lines.append(f"{node}  {status:<10}{', '.join(words) or '-':<45}{said}".rstrip())
    return lines


# ------------------------------------------------------------------------------------------ asking


def attempt(world: World, words: list[str]) -> list[str]:
    """A call in a copy of the world: what it answered, and how both controllers are afterwards."""
    line = "call " + " ".join(shlex.quote(word) for word in words)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            answer = _attempted(world, line)
        except BaseException as error:
            answer = {"violation": f"the copy of the world broke: {error!r}", "lines": []}
        with os.fdopen(writing, "w") as pipe:
            json.dump(answer, pipe)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = json.loads(pipe.read() or '{"violation": "the copy of the world said nothing", "lines": []}')
    os.waitpid(child, 0)
    if told["violation"]:
        world.oracles.fail("", told["violation"])
    return list(told["lines"])


def _attempted(world: World, line: str) -> dict[str, object]:
    said: list[str] = []
    node, method = shlex.split(line)[1:3]
    prefix, base_s = f"{resolve(world, node)}: {method} ", world.now_s

    def note(at_s: float, text: str) -> None:
        if text.startswith(prefix):
            said.append(f"{text.removeprefix(prefix)} (after {at_s - base_s:.3f} s)")
        elif text[1:].startswith((": resets itself", ": reboot: ")):
            said.append(f"{text} (after {at_s - base_s:.3f} s)")

    world.on_note = note
    world.do(line)
    world.run_ms(TRY_S * 1000)
    return {"violation": world.oracles.violation, "lines": [*said, *show(world)]}


# ------------------------------------------------------------------------------------------ configuration


def interface(world: World, words: list[str]) -> None:
    """An administrator's change of one interface; refused on the standby, as any change."""
    node, name = resolve(world, words[0]), words[1]
    columns: dict[str, object] = {}
    for key, value in pairs(words[2:]).items():
        match key:
            case "critical":
                columns["critical"] = int(value == "yes")
            case "group":
                columns["failover_group"] = None if value == "none" else int(value)
            case "vip":
                number = 0 if name == "eth0" else 1
                address = [f"{VIRTUAL_ADDRESSES[number]}/{PREFIX_LENGTH}"]
                columns["virtual_aliases"] = json.dumps(address if value == "yes" else [])
            case _:
                raise CommandError(f"interface: {key}?")
    daemon = world.controllers[node].daemon
    if daemon is None or daemon.store is None:
        world.note(f"{node}: interface.update -> nobody answers")
        return
    daemon.process.start(_update(daemon, name, columns))


async def _update(daemon: "Daemon", name: str, columns: dict[str, object]) -> None:
    def change(transaction: Transaction) -> None:
        for column, value in columns.items():
            transaction.execute(f"UPDATE interface_config SET {column} = ? WHERE name = ?", (value, name))

    world, node = daemon.controller.world, daemon.controller.node
    try:
        assert daemon.store is not None
        await daemon.store.write(change)
    except CallError as error:
        world.note(f"{node}: interface.update refused: {error}")
    else:
        world.note(f"{node}: interface.update -> done")


def restore_configuration(transaction: Transaction) -> None:
    """As after installation, whatever a scenario made of it."""
    address = json.dumps([f"{VIRTUAL_ADDRESSES[0]}/{PREFIX_LENGTH}"])
    transaction.execute("UPDATE failover_config SET disabled = 0, timeout_s = 0 WHERE id = 1")
    transaction.execute(
        "UPDATE interface_config SET critical = 1, failover_group = 1, virtual_aliases = ? WHERE name = 'eth0'",
        (address,),
    )
    transaction.execute(
        "UPDATE interface_config SET critical = 0, failover_group = NULL, virtual_aliases = '[]' WHERE name = 'eth1'"
    )
