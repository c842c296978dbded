"""The power supplies: each controller is one process group, started, frozen and killed as a whole."""

import asyncio
import enum
import os
import signal
from collections.abc import Callable
from contextlib import suppress

from middlewared.invariants import invariant
from middlewared.lab.places import LabError, Places
from middlewared.lab.process import die_with_parent, reap_group

_GONE_TIMEOUT_S = 5.0
_GONE_POLL_S = 0.005


class Power(enum.StrEnum):
    OFF = "off"
    ON = "on"
    FROZEN = "frozen"


class PowerSupply:
    """One controller's. `on_death(supply)` is called once when its machine has ended, for whatever cause."""

    def __init__(
        self, node: str, places: Places, machine: list[str], on_death: Callable[["PowerSupply"], None]
    ) -> None:
        """`machine`: the command line that boots it."""
        self.node = node
        self._machine = machine
        self.state = Power.OFF
        self.boots = 0
        self.wanted_off = False  # the end of this boot was asked for
        self._places = places
        self._on_death = on_death
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None
        self._console_bytes = 0

    async def on(self) -> None:
        """Boot. Raises OSError."""
        invariant(self.state is Power.OFF, "a controller is booted once")
        self.state, self.wanted_off = Power.ON, False
        self.boots += 1
        self._console_bytes = self._console_size()
        command = [*self._machine, "--directory", str(self._places.directory)]
        command += ["--node", self.node, "--room", str(os.getpid())]
        with (self._places.node(self.node) / "machine.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        self._watch = asyncio.create_task(self._wait(self._process))

    def strike(self) -> None:
        """Power loss: SIGKILL of everything at once. Raises LabError when it is off."""
        process = self._running()
        self.wanted_off = True
        self._signal(process, signal.SIGKILL)

    async def off(self) -> None:
        """Power loss; returns when nothing is left."""
        if self.state is not Power.OFF:
            self.strike()
        if self._watch is not None:
            await asyncio.shield(self._watch)

    def pause(self) -> None:
        """Freeze: SIGSTOP of everything. Raises LabError when it does not run."""
        process = self._running()
        if self.state is Power.FROZEN:
            raise LabError(f"controller {self.node.upper()} is frozen already: lab resume {self.node}")
        self.state = Power.FROZEN
        self._signal(process, signal.SIGSTOP)

    def resume(self) -> None:
        self.check_frozen()
        self.state = Power.ON
        self._signal(self._running(), signal.SIGCONT)

    def check_frozen(self) -> None:
        """Raises LabError when there is nothing to resume."""
        self._running()
        if self.state is not Power.FROZEN:
            raise LabError(f"controller {self.node.upper()} is not frozen")

    def last_words(self) -> str:
        """The last line that the machine wrote to its console in this boot; empty if there is none."""
        with suppress(OSError), self._places.console(self.node).open("rb") as console:
            console.seek(self._console_bytes)
            lines = console.read().decode(errors="replace").strip().splitlines()
            return lines[-1].partition(" ")[2] if lines else ""  # every line begins with its time
        return ""

    def _running(self) -> asyncio.subprocess.Process:
        if self._process is None or self.state is Power.OFF:
            raise LabError(f"controller {self.node.upper()} is off: lab boot {self.node}")
        return self._process

    def _signal(self, process: asyncio.subprocess.Process, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)

    async def _wait(self, process: asyncio.subprocess.Process) -> None:
        await process.wait()
        self._signal(process, signal.SIGKILL)  # where only the machine itself died, the rest goes with it
        with suppress(TimeoutError):
            async with asyncio.timeout(_GONE_TIMEOUT_S):
                while not reap_group(process.pid):
                    await asyncio.sleep(_GONE_POLL_S)
        self.state, self._process = Power.OFF, None
        self._on_death(self)

    def _console_size(self) -> int:
        with suppress(OSError):
            return self._places.console(self.node).stat().st_size
        return 0
