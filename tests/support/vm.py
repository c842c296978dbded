"""Hands and eyes of tests on the lab of virtual machines."""

import asyncio
import os
import time
from dataclasses import dataclass, replace
from typing import Any

from middlewared.lab.places import NODES
from middlewared.lab.vm import inside
from middlewared.lab.vm.layout import POOL, VM
from middlewared.lab.vm.ledger import gap_ms, read_notes
from support.netns import ClientLab

# What the shelf of this run is, and by how many paths it is reached: `middlewared lab up --shelf … --paths …`.
KIND = replace(VM, shelf=os.environ.get("VM_SHELF", VM.shelf), paths=int(os.environ.get("VM_PATHS", VM.paths)))
_PATHS = "multipathd show paths raw format %t || true"
_SCRUB = f"zpool scrub -w {POOL} && zpool status -p {POOL}"


@dataclass(frozen=True, slots=True)
class Row:
    """What one scenario cost. Phases by name, in ms; both sides where both saw it."""

    scenario: str
    gap_ms: int
    phases: dict[str, int]

    def __str__(self) -> str:
        phases = "  ".join(f"{name} {ms}" for name, ms in self.phases.items()) or "nothing moved"
        return f"{self.scenario:28} {self.gap_ms:>8}  {phases}"


class VmLab(ClientLab):
    """Everything takes longer under emulation."""

    patience_s = 300.0
    ask_s = 10.0
    poll_s = 1.0  # each question is a login, which costs an emulated processor much

    async def inside(self, node: str, *words: str) -> str:
        """Run a program on a controller."""
        return await inside.inside(self.places, node, *words)

    async def write_inside(self, node: str, path: str, text: str) -> None:
        await inside.inside(self.places, node, "tee", path, stdin=text.encode())

    async def imported_on(self) -> set[str]:
        """Where the pool is imported, by the kernels' own word."""
        status = await self.tell("status")
        return {node for node in NODES if status["controllers"][node]["pools"]}

    async def holds_all(self, node: str) -> bool:
        return set(await self.holders()) == {node}

    async def verify(self, master: str) -> None:
        """One MASTER that holds everything, once; nothing acknowledged is lost, and the pool is clean."""
        assert await self.until_healthy() == master
        await self.until_answered_by(master)
        assert await self.imported_on() == {master}
        await self.until(f"{master} holds every disk", lambda: self.holds_all(master))
        scrub = await self.inside(master, "sh", "-c", _SCRUB)
        assert "with 0 errors" in scrub, scrub
        assert "No known data errors" in scrub, scrub
        found = await inside.read_ledger(self.places, master)
        assert found.notes, "the client was never acknowledged anything"
        assert found.problems == []

    async def until_served_by(self, node: str) -> None:
        """Until the client outside is acknowledged a new record by that controller."""
        since_s = time.monotonic()

        async def holds() -> bool:
            notes = await asyncio.to_thread(read_notes, inside.notes(self.places))
            return any(note.node == node and note.at_s > since_s for note in notes[-200:])

        await self.until(f"the ledger is served by {node}", holds)

    async def served_since(self, since_s: float) -> set[str]:
        """Who acknowledged records since."""
        notes = await asyncio.to_thread(read_notes, inside.notes(self.places))
        return {note.node for note in notes if note.at_s > since_s}

    async def until_reasons(self, node: str, wanted: set[str]) -> None:
        async def holds() -> bool:
            return await self.reasons(node) == wanted

        await self.until(f"{node} says {wanted}", holds)

    async def holders(self) -> list[str | None]:
        """Who holds each disk, by the shelf's own word."""
        return [disk["holder"] for disk in (await self.tell("status"))["disks"]]

    async def until_paths(self, node: str, *, failed: int) -> None:
        """Until so many paths of a controller are dead by dm-multipath's own word, and all the others work."""

        async def holds() -> bool:
            # While it waits for a dead path it may not answer, and is asked again.
            states = (await self.inside(node, "sh", "-c", _PATHS)).split()
            return sorted(states) == ["active"] * (KIND.paths * KIND.disks - failed) + ["failed"] * failed

        await self.until(f"{failed} paths of {node} are dead", holds)

    async def process(self, node: str, name: str) -> int | None:
        """The process of one of the controller's units, as the onlooker inside sees it."""
        pid: int | None = (await self.tell("status"))["controllers"][node][name]
        return pid

    async def until_replaced(self, node: str, name: str, before: int | None) -> None:
        async def holds() -> bool:
            return await self.process(node, name) not in (None, before)

        await self.until(f"{name} on {node} is a new process", holds)

    async def start_inside(self, node: str, command: str) -> None:
        """What ends the machine has no answer: not waited for."""
        await self.inside(node, "systemd-run", "--quiet", "--no-block", "sh", "-c", command)

    async def row(self, scenario: str, since_s: float, since_ids: set[str]) -> Row:
        """What has happened since."""
        phases: dict[str, int] = {}
        for passage in reversed(await self.passages()):
            if passage["id"] not in since_ids:
                for phase in passage["phases"]:
                    name = f"{passage['node']}:{phase['phase']}"
                    phases[name] = phases.get(name, 0) + (phase["duration_ms"] or 0)
        return Row(scenario, await self.gap_ms(since_s), phases)

    async def gap_ms(self, since_s: float) -> int:
        """How long nobody served the client since, at most."""
        return gap_ms(await asyncio.to_thread(read_notes, inside.notes(self.places)), since_s)

    async def passages(self) -> list[dict[str, Any]]:
        """Past failovers of both controllers, the newest first."""
        for node in NODES:
            found = await self._ask(node, "failover.history")
            if found is not None:
                return list(found)
        return []
