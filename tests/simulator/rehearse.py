"""O5, the verdict is true: fork the world, kill the MASTER in the copy, and see whether the standby takes over."""

import json
import os
from typing import TYPE_CHECKING

from tests.simulator import commands

if TYPE_CHECKING:
    from tests.simulator.world import World

PROPAGATION_MS = 2500.0  # until every reason that a fault gives is on both controllers
IMPORT_HANGS_MS = 3000.0  # labels, records and the first write, each with a disk that does not answer
TAKEOVER_MS = 3000.0  # import time comes on top


def promised(world: "World") -> str:
    """Which controllers say that failover would work, for long enough that it has to be true; "" if none."""
    if world.now_s - world.touched_s < PROPAGATION_MS / 1000:
        return ""
    if world.master() is None:
        return ""
    return "".join(node for node in world.controllers if world.reasons(node) == [] and world.answers(node))


def death_of_the_master(world: "World", *, aloud: bool = False) -> str:
    """What a dead MASTER would lead to, tried in a copy of this process: "" or what went wrong."""
    master = world.master()
    assert master is not None
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            if not aloud:
                world.on_note = lambda at_s, text: None
            world.note(f"--- a copy of the world, in which {master} dies")
            answer = die(world, master)
        except BaseException as error:
            answer = f"the copy of the world broke: {error!r}"
        os.write(writing, json.dumps(answer).encode()[:4000])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return str(json.loads(text)) if text else "the copy of the world said nothing"


def die(world: "World", master: str) -> str:
    """Kill the MASTER here and now; "" when the other one serves within the bound."""
    standby = "b" if master == "a" else "a"
    waiting = world.controllers[standby].properties
    # What nobody can know before it is tried is no lie: an import that will fail, a disk that refuses a registration.
    for name in ("import_fails", "import_hangs", "service_hangs"):
        commands.run(world, f"set {standby} {name} no")
    world.fabric.refusing.clear()
    hanging_ms = IMPORT_HANGS_MS if world.fabric.hung else 0  # so few that a takeover tolerates them
    bound_ms = TAKEOVER_MS + waiting["import_ms"] + hanging_ms
    commands.run(world, f"kill {master}")
    if not world.run_until(lambda: world.serves(standby) and world.role(standby) == "MASTER", bound_ms):
        if world.oracles.violation:
            return world.oracles.violation
        return (
            f"{master} died, and {standby} is {world.role(standby)} after {bound_ms:.0f} ms: "
            f"{world.reasons(standby)} {world.why(standby)}"
        )
    return ""
