"""Power of the lab's machine: a reset is SIGKILL of everything that belongs to this controller."""

import contextlib
import os
import signal
import time
from typing import NoReturn

from middlewared.machine import SimulatedMachine
from middlewared.ports import Power

_ORDERLY_TIMEOUT_MS = 15_000
_CONSOLE_NAME = "console.log"


class SimulatedPower(Power):
    def __init__(self, machine: SimulatedMachine) -> None:
        self._machine = machine

    def reset(self, reason: str) -> NoReturn:
        """Last words to the console, then the whole process group; in one of our own only, never a shell's."""
        folder = self._machine.path.parent
        with contextlib.suppress(OSError), (folder / _CONSOLE_NAME).open("a") as console:
            console.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} middlewared: resetting this controller: {reason}\n")
        if _leads_a_machine(os.getpgrp()):
            os.killpg(os.getpgrp(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
        os._exit(1)  # not reached: SIGKILL cannot be handled

    async def reboot(self, reason: str) -> None:
        await self._machine.call("reboot", timeout_ms=_ORDERLY_TIMEOUT_MS, reason=reason)

    async def shutdown(self, reason: str) -> None:
        await self._machine.call("shutdown", timeout_ms=_ORDERLY_TIMEOUT_MS, reason=reason)


def _leads_a_machine(group: int) -> bool:
    """Whether the group's leader is the lab's machine, which the room boots again.

    In a process namespace of its own the machine is its first process, and the group's number is not visible: 0.
    """
    machines = {b"middlewared.lab.machine", b"middlewared.lab.netns.machine"}
    try:
        with open(f"/proc/{group or 1}/cmdline", "rb") as command:
            return not machines.isdisjoint(command.read().split(b"\0"))
    except OSError:
        return False
