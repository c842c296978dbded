"""`python -m tests.mutants`: is every broken version of the list noticed by the simulator?

python -m tests.mutants [NAME…] [--jobs 2]
python -m tests.mutants [NAME…] --search [--seeds 300] [--time SECONDS]   what else would find the survivors?
python -m tests.mutants --replay NAME      its first case on the unchanged tree, with everything that happens

Each is made in a copy of the tree, and runs there. Only a broken rule of the simulator's oracles counts, no crash.
Before, the unchanged tree has to pass the same runs.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.mutants.entry import Case, Edit, Mutant
from tests.mutants.mutants import MUTANTS
from tests.mutants.probe import pack, planned

ROOT = Path(__file__).resolve().parents[2]
_CHECK_S = 40.0  # a hanging check ends so soon after its last case began


@dataclass(slots=True)
class Checked:
    """What became of some cases on one tree."""

    violations: dict[int, str] = field(default_factory=dict)  # by the case's index; "" for a clean one
    trouble: str = ""  # it did not even run

    @property
    def caught(self) -> int | None:
        """The first case that broke a rule. A program that fails by itself (O0) shows nothing of the fault's kind."""
        return next((index for index, text in self.violations.items() if text and not text.startswith("O0")), None)


def main() -> int:
    arguments = _arguments()
    if arguments.replay:
        return replay(arguments.replay)
    chosen = [mutant for mutant in MUTANTS if not arguments.names or mutant.name in arguments.names]
    if not chosen:
        print(f"no such mutant; there are {', '.join(mutant.name for mutant in MUTANTS)}", file=sys.stderr)
        return 2
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        base = Path(folder) / "unchanged"
        copy_tree(base)
        dirty = baseline(base, chosen, arguments.jobs)
        with ThreadPoolExecutor(arguments.jobs) as pool:
            caught = list(pool.map(lambda mutant: examine(base, mutant, arguments), chosen))
    survivors = [mutant.name for mutant, noticed in zip(chosen, caught, strict=True) if not noticed]
    print(f"{len(chosen)} mutants in {time.monotonic() - began_s:.0f} s, {len(survivors)} survive", *survivors)
    return 1 if survivors or dirty else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description="broken versions, each to be noticed")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="processes (default 2)")
    parser.add_argument("--search", action="store_true", help="try drawn seeds on those that their cases do not catch")
    parser.add_argument("--seeds", type=int, default=300, metavar="N", help="how many to try (default 300)")
    parser.add_argument("--time", type=float, default=300, metavar="SECONDS", help="for each search (default 300)")
    parser.add_argument("--replay", metavar="NAME", help="show its first case on the tree as it is")
    return parser.parse_args()


def replay(name: str) -> int:
    [mutant] = [mutant for mutant in MUTANTS if mutant.name == name]
    case = mutant.caught_by[0]
    if isinstance(case, int):
        print(f"python -m tests.simulator {case}")
        return 0
    going = planned(case, note=lambda at_s, text: print(f"{at_s:10.3f}  {text}", flush=True))
    print(going.go().violation or "clean")
    return 0


def copy_tree(target: Path) -> None:
    """What git tracks, as it is in the working tree; symlinks stay symlinks."""
    listed = subprocess.run(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        source, copy = ROOT / name, target / name
        if source.exists() or source.is_symlink():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy, follow_symlinks=False)


def apply(tree: Path, edits: Sequence[Edit]) -> None:
    for edit in edits:
        path = tree / edit.file
        text = path.read_text()
        if text.count(edit.old) != 1:
            raise SystemExit(f"{edit.file}: the text to replace occurs {text.count(edit.old)} times:\n{edit.old}")
        path.write_text(text.replace(edit.old, edit.new))
        for compiled in path.parent.glob(f"__pycache__/{path.stem}.*"):
            compiled.unlink()


def check(tree: Path, cases: Sequence[Case], *, everything: bool = False, limit_s: float = _CHECK_S) -> Checked:
    """Run cases on a tree, up to the first that breaks a rule."""
    checked = Checked()
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONHASHSEED": "0"}
    request = json.dumps({"cases": [pack(case) for case in cases], "all": everything, "limit_s": limit_s})
    command = [sys.executable, "-W", "ignore", "-m", "tests.mutants.probe"]
    try:
        ended = subprocess.run(
            command,
            cwd=tree,
            env=environment,
            input=request,
            capture_output=True,
            text=True,
            timeout=limit_s + _CHECK_S,
        )
        output, errors = ended.stdout, ended.stderr
    except subprocess.TimeoutExpired as expired:
        output, errors = (expired.stdout or b"").decode(), "it hangs"
    lines: list[dict[str, Any]] = [json.loads(line) for line in output.splitlines()]
    if not lines:
        checked.trouble = errors.strip().splitlines()[-1] if errors.strip() else "it says nothing"
        return checked
    strange = [name for name in lines[0]["files"] if not Path(name).is_relative_to(tree)]
    if strange:
        raise SystemExit(f"modules come from elsewhere than the copy {tree}: {strange}")
    checked.violations = {line["case"]: line["violation"] for line in lines[1:]}
    if checked.caught is None and (crashes := [text for text in checked.violations.values() if text]):
        checked.trouble = crashes[0]
    elif not everything and checked.caught is None and len(checked.violations) < len(cases) and errors == "it hangs":
        checked.trouble = errors
    return checked


def baseline(base: Path, mutants: Sequence[Mutant], jobs: int) -> list[Case]:
    """The cases that fail although nothing was changed."""
    cases = list(dict.fromkeys(case for mutant in mutants for case in mutant.caught_by))
    began_s = time.monotonic()
    first = check(base, cases[:1], everything=True)  # alone: it compiles the modules
    parts = [cases[1:][turn::jobs] for turn in range(jobs)]
    with ThreadPoolExecutor(jobs) as pool:
        results = list(pool.map(lambda part: check(base, part, everything=True, limit_s=900), parts))
    dirty: list[Case] = []
    for part, checked in zip([cases[:1], *parts], [first, *results], strict=True):
        if len(checked.violations) < len(part):
            raise SystemExit(f"the unchanged tree does not run: {checked.trouble}")
        for index, text in checked.violations.items():
            if text:
                dirty.append(part[index])
                print(f"the unchanged tree breaks a rule: {part[index]}: {text}", flush=True)
    print(f"{len(cases)} runs of the unchanged tree in {time.monotonic() - began_s:.0f} s: {len(dirty)} broken")
    return dirty


def examine(base: Path, mutant: Mutant, arguments: argparse.Namespace) -> bool:
    """Make the mutant, and say what catches it."""
    began_s = time.monotonic()
    tree = base.parent / mutant.name
    shutil.copytree(base, tree, symlinks=True)
    try:
        apply(tree, mutant.edits)
        cases: list[Case] = list(mutant.caught_by)
        checked = check(tree, cases)
        if checked.caught is None and arguments.search:
            print(f"{mutant.name:32} {checked.trouble or 'survives its cases'}: searching", flush=True)
            cases, checked = search(base, tree, arguments)
        took_s = time.monotonic() - began_s
        if checked.caught is None:
            print(f"{mutant.name:32} SURVIVES {checked.trouble} ({took_s:.1f} s)", flush=True)
            return False
        what = checked.violations[checked.caught]
        where = cases[checked.caught]
        shown = f"seed {where}" if isinstance(where, int) else f"plan {checked.caught + 1}"
        print(f"{mutant.name:32} {what.split()[0]} by {shown} in {took_s:.1f} s: {what[3:][:90]}", flush=True)
        return True
    finally:
        shutil.rmtree(tree)


def search(base: Path, tree: Path, arguments: argparse.Namespace) -> tuple[list[Case], Checked]:
    """Seeds with the faults that they draw, until one breaks a rule that the unchanged tree keeps."""
    until_s = time.monotonic() + arguments.time
    first, checked = 1, Checked()
    while first <= arguments.seeds and time.monotonic() < until_s:
        cases: list[Case] = list(range(first, arguments.seeds + 1))
        checked = check(tree, cases, limit_s=until_s - time.monotonic())
        if checked.caught is None:
            return cases, checked
        seed = cases[checked.caught]
        if check(base, [seed]).caught is None:
            return cases, checked
        first = first + checked.caught + 1
    return [], Checked(trouble=checked.trouble)


if __name__ == "__main__":
    sys.exit(main())
