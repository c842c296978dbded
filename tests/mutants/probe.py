"""Runs cases on the tree that this process imports. To be imported after `edited.install`, in a process of its own."""

import difflib
import gc
import json
import os
import select
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import assert_never

import middlewared
from tests.mutants.edited import ROOT
from tests.mutants.entry import Case, Plan, Scenario
from tests.mutants.plans import planned
from tests.scenarios.runner import perform, quieten
from tests.scenarios.script import FOLDER, load
from tests.simulator.run import Run

# Runs end in virtual time. This bounds only what hangs between two instants: far above the slowest on a busy machine.
_HANGS_S = 600.0
_ANSWER_BYTES_MAX = 4000

Note = Callable[[float, str], None]


def examine(cases: Sequence[Case], *, everything: bool) -> list[str]:
    """The rule that each case broke, and how, up to the first that broke one; "" when all was well."""
    if not Path(str(middlewared.__file__)).is_relative_to(ROOT):
        raise RuntimeError(f"middlewared is imported from {middlewared.__file__}, not from {ROOT}")
    quieten()
    gc.freeze()  # nobody need look for garbage in what was imported
    found: list[str] = []
    for case in cases:
        found.append(_apart(case))
        if noticed(found[-1]) and not everything:
            break
    return found


def noticed(found: str) -> bool:
    """A rule was broken; a program that fails by itself (O0), hangs or dies shows nothing of the fault's kind."""
    return found[:1] in ("O", "P", "T") and not found.startswith("O0")


def violation(case: Case, note: Note | None = None) -> str:
    """Run one case here and now."""
    match case:
        case int():
            return Run(case, note=note).go().violation
        case Plan():
            return planned(case, note).go().violation
        case Scenario():
            return _differs(case, note)
        case _:
            assert_never(case)


def _differs(case: Scenario, note: Note | None) -> str:
    outcome = perform(load(FOLDER / f"{case.name}.txt"))
    if note is not None:
        print(outcome.text)
    if outcome.trouble:
        return outcome.trouble if outcome.trouble.startswith("O") else f"T  {outcome.trouble}"
    before, after = outcome.script.text.splitlines(), outcome.text.splitlines()
    lines = [line for line in difflib.ndiff(before, after) if line[0] in "-+"]
    return f"T  {' '.join(lines[0].split())}" if lines else ""


def _apart(case: Case) -> str:
    """In a copy of this process: no case meets what an earlier one left behind, and one that hangs can be ended."""
    sys.stdout.flush()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.setpgid(0, 0)  # with the copies of the world that it makes
        try:
            answer = violation(case)
        except BaseException as error:
            answer = f"it fails: {error!r}"
        os.write(writing, json.dumps(answer[: _ANSWER_BYTES_MAX // 8]).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answered = select.select([pipe], [], [], _HANGS_S)[0]
        if not answered:
            os.killpg(child, signal.SIGKILL)
        text = pipe.read() if answered else b'"it hangs"'
    os.waitpid(child, 0)
    return str(json.loads(text)) if text else "it died"
