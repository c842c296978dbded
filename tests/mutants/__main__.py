"""`python -m tests.mutants`: is every broken version of the list noticed by the simulator?

python -m tests.mutants [NAME…] [--jobs 2]
python -m tests.mutants [NAME…] --search [--seeds 300]     what else would find the survivors?
python -m tests.mutants --replay NAME [--case N] [--unchanged]     one of its cases, with everything that happens

Each is imported into a process of its own (edited.py), and runs there. Only a broken rule of the simulator's oracles
counts, or a transcript that differs; no crash. The unchanged tree has to pass the same runs.
"""

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from tests.mutants import edited, entry
from tests.mutants.entry import Case, Edit, Mutant
from tests.mutants.mutants import MUTANTS

_PART = 8  # cases of the unchanged tree, or seeds, that one process runs
# What every process imports and nobody edits is imported once, before they fork.
_SHARED = ("apsw", "cryptography.x509", "jsonschema", "websockets.asyncio.client", "websockets.asyncio.server")


@dataclass(frozen=True, slots=True)
class Work:
    """Some cases on the tree with some edits. `everything`: go on after one that broke a rule."""

    edits: tuple[Edit, ...]
    cases: tuple[Case, ...]
    everything: bool = False


@dataclass(frozen=True, slots=True)
class Checked:
    """What the cases found, in order (probe.examine), up to the first that noticed anything."""

    found: tuple[str, ...]
    noticed: int | None  # the case that did
    took_s: float


def check(work: Work) -> Checked:
    """In a process that has imported nothing of the tree yet."""
    began_s = time.monotonic()
    edited.install(work.edits)
    probe: Any = import_module("tests.mutants.probe")
    found = probe.examine(work.cases, everything=work.everything)
    noticed = next((index for index, text in enumerate(found) if probe.noticed(text)), None)
    return Checked(tuple(found), noticed, time.monotonic() - began_s)


def each(work: Sequence[Work], jobs: int) -> Iterator[Checked]:
    """All of it, in order, each in a process of its own."""
    with multiprocessing.get_context("fork").Pool(jobs, maxtasksperchild=1) as pool:
        yield from pool.imap(check, work)


def main() -> int:
    arguments = _arguments()
    if os.environ.get("PYTHONHASHSEED") != "0":  # sets of words have the same order in every run
        os.execve(sys.executable, sys.orig_argv, {**os.environ, "PYTHONHASHSEED": "0"})
    chosen = [mutant for mutant in MUTANTS if not arguments.names or mutant.name in arguments.names]
    if not chosen:
        print(f"no such mutant; there are {', '.join(mutant.name for mutant in MUTANTS)}", file=sys.stderr)
        return 2
    for name in _SHARED:
        import_module(name)
    if arguments.replay:
        return replay(chosen[0], arguments.case, unchanged=arguments.unchanged)
    began_s = time.monotonic()
    dirty = baseline(chosen, arguments.jobs)
    survivors: list[Mutant] = []
    for mutant, checked in zip(chosen, each([Work(m.edits, m.caught_by) for m in chosen], arguments.jobs), strict=True):
        print(f"{mutant.name:32} {told(checked, mutant.caught_by)}", flush=True)
        if checked.noticed is None:
            survivors.append(mutant)
    if arguments.search:
        for mutant in survivors:
            search(mutant, arguments)
    names = [mutant.name for mutant in survivors]
    print(f"{len(chosen)} mutants in {time.monotonic() - began_s:.0f} s, {len(names)} survive", *names)
    return 1 if survivors or dirty else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description="broken versions, each to be noticed")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="processes (default 2)")
    parser.add_argument("--search", action="store_true", help="try drawn seeds on those that their cases do not catch")
    parser.add_argument("--seeds", type=int, default=300, metavar="N", help="how many to try (default 300)")
    parser.add_argument("--replay", action="store_true", help="show one of NAME's cases")
    parser.add_argument("--case", type=int, default=1, metavar="N", help="which one to replay (default: the first)")
    parser.add_argument("--unchanged", action="store_true", help="replay it on the tree as it is")
    return parser.parse_args()


def told(checked: Checked, cases: Sequence[Case]) -> str:
    """What became of a mutant, in a line."""
    if checked.noticed is None:
        return f"SURVIVES in {checked.took_s:.1f} s {next(filter(None, checked.found), '')}"
    case, (rule, _, why) = cases[checked.noticed], checked.found[checked.noticed].partition(" ")
    shown = f"plan {checked.noticed + 1}" if isinstance(case, entry.Plan) else str(case)
    return f"{rule} by {shown} in {checked.took_s:.1f} s: {why.strip()[:90]}"


def replay(mutant: Mutant, number: int, *, unchanged: bool) -> int:
    """One case with everything that happens, here and now."""
    case = mutant.caught_by[number - 1]
    print(f"{mutant.name}: {case}")
    edited.install(() if unchanged else mutant.edits)
    probe: Any = import_module("tests.mutants.probe")
    probe.quieten()
    print(probe.violation(case, lambda at_s, text: print(f"{at_s:10.3f}  {text}", flush=True)) or "clean")
    return 0


def baseline(mutants: Sequence[Mutant], jobs: int) -> list[Case]:
    """The cases that fail although nothing was changed."""
    began_s = time.monotonic()
    cases = list(dict.fromkeys(case for mutant in mutants for case in mutant.caught_by))
    parts = [tuple(cases[at : at + _PART]) for at in range(0, len(cases), _PART)]
    found = [
        text for checked in each([Work((), part, everything=True) for part in parts], jobs) for text in checked.found
    ]
    dirty = [case for case, text in zip(cases, found, strict=True) if text]
    for case, text in zip(cases, found, strict=True):
        if text:
            print(f"the unchanged tree breaks a rule: {case}: {text}", flush=True)
    print(f"{len(cases)} runs of the unchanged tree in {time.monotonic() - began_s:.0f} s: {len(dirty)} broken")
    return dirty


def search(mutant: Mutant, arguments: argparse.Namespace) -> None:
    """Tell the first seed whose own faults break a rule that the unchanged tree keeps."""
    parts = [tuple(range(at, min(at + _PART, arguments.seeds + 1))) for at in range(1, arguments.seeds + 1, _PART)]
    for part, checked in zip(parts, each([Work(mutant.edits, part) for part in parts], arguments.jobs), strict=True):
        if checked.noticed is None:
            continue
        seed = part[checked.noticed]
        [unchanged] = each([Work((), (seed,))], 1)
        if unchanged.noticed is None:
            print(f"{mutant.name:32} seed {seed}: {checked.found[checked.noticed]}", flush=True)
            return
    print(f"{mutant.name:32} no seed up to {arguments.seeds}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
