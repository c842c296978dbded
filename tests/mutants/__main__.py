"""`python -m tests.mutants`: is every broken version of the list noticed by the simulator?

python -m tests.mutants [NAME…] [--jobs 2]
python -m tests.mutants [NAME…] --search [--seeds 300]     what else would find the survivors?
python -m tests.mutants NAME --replay [N]                  its Nth case, with everything that happens
python -m tests.mutants [NAME] --plan LINES [--seed 1]     any plan (entry.Plan), on the tree as it is or on a mutant

Each is imported into a process of its own, with its edits (edited.py). Only a broken rule of the simulator's oracles
counts, an expectation of a plan, or a transcript that differs; no crash. The unchanged tree has to pass the same runs.
Time is virtual: a busy machine changes nothing but how long it takes.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence

from tests.mutants.checks import Checked, Work, each, probe_of
from tests.mutants.edited import texts
from tests.mutants.entry import Case, Edit, Mutant, Plan
from tests.mutants.mutants import MUTANTS

_PART = 8  # cases of the unchanged tree, or seeds, that one process runs


def main() -> int:
    arguments = _arguments()
    if os.environ.get("PYTHONHASHSEED") != "0":  # sets of words are walked in the same order in every run
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.mutants", *sys.argv[1:]])
    unknown = set(arguments.names) - {mutant.name for mutant in MUTANTS}
    if unknown:
        print(f"no such mutant: {', '.join(sorted(unknown))}; there are:", *(m.name for m in MUTANTS), file=sys.stderr)
        return 2
    chosen = [mutant for mutant in MUTANTS if not arguments.names or mutant.name in arguments.names]
    if arguments.plan:
        return replay(chosen[0].edits if arguments.names else (), Plan(arguments.plan, arguments.seed))
    if arguments.replay:
        return replay(chosen[0].edits, chosen[0].caught_by[arguments.replay - 1])
    for mutant in chosen:
        texts(mutant.edits)  # one that does not apply ends it here
    began_s = time.monotonic()
    dirty = baseline(chosen, arguments.jobs)
    survivors = examined(chosen, arguments.jobs)
    if arguments.search:
        for mutant in survivors:
            search(mutant, arguments.seeds, arguments.jobs)
    names = [mutant.name for mutant in survivors]
    print(f"{len(chosen)} mutants in {time.monotonic() - began_s:.0f} s, {len(names)} survive", *names)
    return 1 if survivors or dirty else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description="broken versions, each to be noticed")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="processes (default 2)")
    parser.add_argument("--search", action="store_true", help="try drawn seeds on those that their cases do not catch")
    parser.add_argument("--seeds", type=int, default=300, metavar="N", help="how many to try (default 300)")
    parser.add_argument("--replay", type=int, nargs="?", const=1, metavar="N", help="show its Nth case (default 1)")
    parser.add_argument("--plan", metavar="LINES", help="show a plan of your own")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the plan's chance (default 1)")
    return parser.parse_args()


def replay(edits: Sequence[Edit], case: Case) -> int:
    """One case with everything that happens, here and now."""
    probe = probe_of(edits)
    probe.quieten()
    print(case)
    found = probe.violation(case, lambda at_s, text: print(f"{at_s:10.3f}  {text}", flush=True))
    print(found or "clean")
    return 0


def baseline(mutants: Sequence[Mutant], jobs: int) -> int:
    """How many of the cases fail although nothing was changed."""
    began_s = time.monotonic()
    cases = list(dict.fromkeys(case for mutant in mutants for case in mutant.caught_by))
    work = [Work((), tuple(cases[at : at + _PART]), everything=True) for at in range(0, len(cases), _PART)]
    found = [text for checked in each(work, jobs) for text in checked.found]
    for case, text in zip(cases, found, strict=True):
        if text:
            print(f"the unchanged tree breaks a rule: {case}: {text}", flush=True)
    dirty = sum(bool(text) for text in found)
    print(f"{len(cases)} runs of the unchanged tree in {time.monotonic() - began_s:.0f} s: {dirty} broken", flush=True)
    return dirty


def examined(mutants: Sequence[Mutant], jobs: int) -> list[Mutant]:
    """A line for each mutant; those that nothing noticed."""
    survivors: list[Mutant] = []
    work = [Work(mutant.edits, mutant.caught_by) for mutant in mutants]
    for mutant, checked in zip(mutants, each(work, jobs), strict=True):
        print(f"{mutant.name:40} {told(checked, mutant.caught_by)}", flush=True)
        if checked.noticed is None:
            survivors.append(mutant)
    return survivors


def told(checked: Checked, cases: Sequence[Case]) -> str:
    """What became of a mutant."""
    if checked.noticed is None:
        return f"SURVIVES in {checked.took_s:.1f} s {'; '.join(filter(None, checked.found))}".rstrip()
    case, (rule, _, why) = cases[checked.noticed], checked.found[checked.noticed].partition(" ")
    where = f"plan {checked.noticed + 1}" if isinstance(case, Plan) else str(case)
    return f"{rule} by {where} in {checked.took_s:.1f} s: {why.strip()[:90]}"


def search(mutant: Mutant, seeds: int, jobs: int) -> None:
    """Tell the first seed whose own faults break a rule that the unchanged tree keeps."""
    parts = [tuple(range(at, min(at + _PART, seeds + 1))) for at in range(1, seeds + 1, _PART)]
    for part, checked in zip(parts, each([Work(mutant.edits, part) for part in parts], jobs), strict=True):
        if checked.noticed is None:
            continue
        seed = part[checked.noticed]
        [unchanged] = each([Work((), (seed,))], 1)
        if unchanged.noticed is None:
            print(f"{mutant.name:40} seed {seed}: {checked.found[checked.noticed]}", flush=True)
            return
    print(f"{mutant.name:40} no seed up to {seeds}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
