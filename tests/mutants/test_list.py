"""The list fits the code: a replacement that does not apply any more proves nothing."""

from pathlib import Path

import pytest

from tests.mutants.entry import Equivalent, Mutant, Plan
from tests.mutants.equivalent import EQUIVALENT
from tests.mutants.mutants import MUTANTS
from tests.simulator import commands

ROOT = Path(__file__).resolve().parents[2]
ALL: tuple[Mutant | Equivalent, ...] = (*MUTANTS, *EQUIVALENT)
MUTANTS_MIN = 30


def test_there_are_enough() -> None:
    assert len(MUTANTS) >= MUTANTS_MIN
    assert all(mutant.caught_by for mutant in MUTANTS)


def test_names_are_unique() -> None:
    names = [entry.name for entry in ALL]
    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("entry", ALL, ids=lambda entry: entry.name)
def test_every_replacement_applies(entry: Mutant | Equivalent) -> None:
    texts: dict[str, str] = {}
    for edit in entry.edits:
        text = texts.setdefault(edit.file, (ROOT / edit.file).read_text())
        assert text.count(edit.old) == 1, f"{edit.file} has {edit.old!r} {text.count(edit.old)} times"
        assert edit.new != edit.old
        texts[edit.file] = text.replace(edit.old, edit.new)
    for file, text in texts.items():
        compile(text, file, "exec")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_plans_can_be_read(mutant: Mutant) -> None:
    for plan in mutant.caught_by:
        if isinstance(plan, Plan):
            for part in plan.lines.split(";"):
                at, line = part.split(None, 1)
                assert float(at) >= 2
                assert line.split()[0] in {*commands._COMMANDS, "expect", "protect", "end"}
