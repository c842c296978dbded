"""Which of a seed's faults suffice to break the same rule: delta debugging, by halves and then one by one."""

from collections.abc import Sequence

from tests.simulator.faults import Fault
from tests.simulator.run import Run, run_seed


def shrink(seed: int) -> list[Fault]:
    """A list of faults from which none can be left out. Raises ValueError when the seed is clean."""
    faults = list(Run(seed).plan.faults)
    rule = _rule(seed, faults)
    if not rule:
        raise ValueError(f"seed {seed} breaks no rule")
    size = max(1, len(faults) // 2)
    while True:
        at = 0
        while at < len(faults):
            fewer = faults[:at] + faults[at + size :]
            if _rule(seed, fewer) == rule:
                faults = fewer
            else:
                at += size
        if size == 1:
            return faults
        size = max(1, size // 2)


def _rule(seed: int, faults: Sequence[Fault]) -> str:
    return run_seed(seed, faults).violation[:2]
