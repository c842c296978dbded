"""`python -m tests.simulator`: many seeds, or one of them with a readable log.

python -m tests.simulator --seeds 1000 [--from 1] [--time SECONDS] [--jobs 2]
python -m tests.simulator 4711            replay one seed: its rates, its faults, and everything that happened
python -m tests.simulator 4711 --shrink   find the few faults that suffice
python -m tests.simulator 4711 --shrink --save "what the bug was"      keep them in tests/simulator/past
python -m tests.simulator tests/simulator/past/4711.txt                replay one of those
python -m tests.simulator --check         past failures, a fixed set of seeds, and seeds of this commit
python -m tests.simulator --quiet HOURS   a pair that nothing happens to: how fast is the simulator?
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path

from tests.simulator import past
from tests.simulator.run import Result, Run, begin_worker, quiet_pair, quieten, run_case, run_past
from tests.simulator.shrink import shrink

_REPORT_S = 30.0
_FIXED = 100
_NEW = 20


def main() -> int:
    arguments = _arguments()
    if os.environ.get("PYTHONHASHSEED") != "0":  # sets of words are walked in the same order in every run
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.simulator", *sys.argv[1:]])
    quieten()
    if arguments.quiet is not None:
        real_s, lived_s = quiet_pair(arguments.quiet)
        rate = arguments.quiet / (real_s / 60)
        print(f"{arguments.quiet:g} quiet hours in {real_s:.1f} s: {rate:.0f} simulated hours a minute")
        print(
            f"(of each hour, {lived_s / arguments.quiet:.0f} s were lived, at {lived_s / real_s:.0f} times real time)"
        )
        return 0
    if arguments.seed is not None:
        if not arguments.seed.isdecimal():
            return again(Path(arguments.seed))
        return replay(int(arguments.seed), shrinking=arguments.shrink, story=arguments.save)
    first, count = arguments.first, arguments.seeds
    seeds = checked() if arguments.check else range(first, first + count if count else sys.maxsize)
    return many(seeds, arguments.time, arguments.jobs)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulator", description="two controllers in virtual time")
    parser.add_argument("seed", nargs="?", help="replay this one, or the file of a past failure, with its log")
    parser.add_argument(
        "--check", action="store_true", help="what `make test` runs: past failures, fixed and new seeds"
    )
    parser.add_argument("--shrink", action="store_true", help="find the few faults of the seed that suffice")
    parser.add_argument("--save", metavar="STORY", help="keep the run among the past failures, and what the bug was")
    parser.add_argument("--seeds", type=int, default=100, metavar="N", help="how many (default 100; 0: no end)")
    parser.add_argument("--from", type=int, default=1, dest="first", metavar="SEED", help="the first one (default 1)")
    parser.add_argument("--time", type=float, default=None, metavar="SECONDS", help="begin none after so long")
    parser.add_argument("--quiet", type=float, default=None, metavar="HOURS", help="only: a pair without any fault")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes")
    return parser.parse_args()


def aloud(at_s: float, text: str) -> None:
    print(f"{at_s:10.3f}  {text}", flush=True)


def again(file: Path) -> int:
    """A past failure, aloud."""
    case = past.load(file)
    print(f"{case.story}\nseed {case.seed}: {case.shape}", *case.plan.faults, sep="\n    ")
    result = run_past(case, aloud)
    print(result.violation or "clean")
    return 1 if result.violation else 0


def replay(seed: int, *, shrinking: bool, story: str | None = None) -> int:
    """One seed, aloud; or its shrunk list of faults first."""
    faults = shrink(seed) if shrinking else None
    run = Run(seed, faults=faults, note=aloud)
    if story:
        print(past.save(past.Past(story, seed, run.world.shape, run.plan)))
    print(f"seed {seed}: {run.world.shape}\n{run.plan.describe()}")
    for fault in run.plan.faults:
        print(f"    {fault}")
    result = run.go()
    print(f"{result.violation or 'clean'}: {result.simulated_s:.1f} s in {result.real_s:.2f} s", flush=True)
    return 1 if result.violation else 0


def checked() -> list[int | Path]:
    """Past failures, a fixed set, and seeds that no commit before this one has tried."""
    told = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout[:6]
    new = 1_000_000 + int(told or "0", 16) * _NEW
    return [*past.everything(), *range(1, _FIXED + 1), *range(new, new + _NEW)]


def many(cases: Iterable[int | Path], limit_s: float | None, jobs: int) -> int:
    """A line for each that breaks a rule, and what it all came to."""
    began_s = said_s = time.monotonic()
    totals = dict.fromkeys(("simulated_s", "rehearsals", "role_changes", "resets", "writes"), 0.0)
    done = 0
    broken: list[int | Path] = []
    todo = iter(cases)
    names: dict[Future[Result], int | Path] = {}
    with ProcessPoolExecutor(jobs, initializer=begin_worker, max_tasks_per_child=200) as pool:
        waiting: set[Future[Result]] = set()
        while True:
            late = limit_s is not None and time.monotonic() - began_s > limit_s
            while len(waiting) < 2 * jobs and not late and (case := next(todo, None)) is not None:
                future = pool.submit(run_case, case)
                waiting.add(future)
                names[future] = case
            if not waiting:
                break
            ended, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in ended:
                result, case = future.result(), names.pop(future)
                done += 1
                for name in totals:
                    totals[name] += getattr(result, name)
                if result.violation:
                    broken.append(case)
                    print(f"{case}: {result.violation}", flush=True)
            if time.monotonic() - said_s > _REPORT_S:
                said_s = time.monotonic()
                print(f"… {done} seeds, {len(broken)} broken, {said_s - began_s:.0f} s", flush=True)
    real_s = time.monotonic() - began_s
    print(
        f"{done} seeds, {totals.pop('simulated_s') / 3600:.1f} simulated hours in {real_s:.0f} s: {len(broken)} broken"
    )
    print(", ".join(f"{count:.0f} {name.replace('_', ' ')}" for name, count in totals.items()))
    for case in broken[:20]:
        print(f"    python -m tests.simulator {case}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
