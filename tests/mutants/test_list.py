"""The list fits the code: a replacement that does not apply any more proves nothing."""

import pytest

from tests.mutants import edited
from tests.mutants.entry import Equivalent, Mutant, Plan, Scenario
from tests.mutants.equivalent import EQUIVALENT
from tests.mutants.mutants import MUTANTS
from tests.mutants.plans import OWN_WORDS, lines
from tests.scenarios.script import names
from tests.simulator import commands

ALL: tuple[Mutant | Equivalent, ...] = (*MUTANTS, *EQUIVALENT)
MUTANTS_MIN = 45
# The heart of DESIGN, section 2; whatever else changes, these are noticed.
NEVER_LEFT_OUT = {
    "release-before-verify",
    "verify-skipped",
    "fencing-skipped",
    "standby-registers-in-advance",
    "late-result-accepted",
    "preempt-without-abort",
    "bare-preempt-without-reset",
    "living-peer-robbed",
    "lost-time-not-noticed",
    "released-disks-are-open",
    "acknowledged-alone",
    "overwritten-without-a-copy",
}


def test_there_are_enough() -> None:
    assert len(MUTANTS) >= MUTANTS_MIN
    assert all(mutant.caught_by for mutant in MUTANTS)
    assert {mutant.name for mutant in MUTANTS} >= NEVER_LEFT_OUT


def test_names_are_unique() -> None:
    found = [entry.name for entry in ALL]
    assert sorted(set(found)) == sorted(found)


@pytest.mark.parametrize("entry", ALL, ids=lambda entry: entry.name)
def test_every_replacement_applies(entry: Mutant | Equivalent) -> None:
    for path, text in edited.texts(entry.edits).items():
        compile(text, path, "exec")


def test_a_replacement_that_does_not_apply_is_refused() -> None:
    [edit, *_] = MUTANTS[0].edits
    with pytest.raises(ValueError, match="occurs 0 times"):
        edited.texts((edit, edit))


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_cases_can_be_played(mutant: Mutant) -> None:
    for case in mutant.caught_by:
        if isinstance(case, Plan):
            for at_ms, line in lines(case):
                assert at_ms >= 2000
                assert line.split()[0] in {*commands._COMMANDS, *OWN_WORDS}
        elif isinstance(case, Scenario):
            assert case.name in names()
