"""What must hold, whatever the engine believes. Apart from it: they look at disks, kernels, traffic and copies."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.simulator.world import World


class Oracles:
    def __init__(self, world: "World") -> None:
        self._world = world
        self._tenure = 0
        self.violation = ""  # the first rule that was broken, and how

    def fail(self, rule: str, text: str) -> None:
        """Ends the run."""
        if not self.violation:
            self.violation = f"{rule}: {text}"
            self._world.note(f"VIOLATION {self.violation}")
            self._world.loop.stop()

    def crashed(self, text: str) -> None:
        self.fail("O0", f"a program failed: {text}")

    def was_reset(self, node: str) -> None: ...

    def next_tenure(self, node: str) -> int:
        self._tenure += 1
        return self._tenure

    def role_changed(self, node: str, before: Any, after: Any) -> None: ...

    def verdict_changed(self, node: str) -> None: ...

    def traffic(self) -> None: ...
