"""Every transcript is what happens, under the oracles; and together they tell everything that they should."""

import re
from collections.abc import Iterator

import pytest

from middlewared.plugins.failover.reasons import TABLE
from middlewared.plugins.failover.state import Phase
from middlewared.plugins.failover.status import Status
from tests.scenarios.__main__ import difference
from tests.scenarios.runner import Outcome, everything
from tests.scenarios.script import find, names

# Every call that an operator can make about roles, in every status.
CALLS = (
    "failover.force_master",
    "failover.become_passive",
    "failover.control '\"DISABLE\"' '{\"active\": true}'",
    "failover.control '\"DISABLE\"' '{\"active\": false}'",
    "failover.control '\"ENABLE\"' '{\"active\": true}'",
    "failover.control '\"ENABLE\"' '{\"active\": false}'",
    "failover.update",
    "failover.sync_to_peer '{\"reboot\": false}'",
    "failover.sync_to_peer '{\"reboot\": true}'",
    "failover.sync_from_peer",
    "system.reboot",
    "failover.reboot.other_node",
)


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    return {outcome.script.name: outcome for outcome in everything(find([]))}


@pytest.mark.parametrize("name", names())
def test_a_transcript_is_what_happens(outcomes: dict[str, Outcome], name: str) -> None:
    outcome = outcomes[name]
    assert not outcome.trouble, f"{outcome.trouble}\n    python -m tests.scenarios --print {name}"
    assert outcome.fresh, "\n" + difference(outcome)


# ------------------------------------------------------------------------------------------ what they tell


def lines() -> Iterator[str]:
    for script in find([]):
        yield from script.text.splitlines()


@pytest.mark.parametrize("code", [reason.code for reason in TABLE])
def test_each_reason_appears_and_disappears(code: str) -> None:
    """On one controller, within one scenario."""
    told = re.compile(r"\s+\+\S+\s+([ab])  (?:status \w+; )?reasons (.*)$")
    for script in find([]):
        seen: set[str] = set()
        for line in script.text.splitlines():
            said = told.match(line)
            if said is not None and code in said[2].split(", "):
                seen.add(said[1])
            elif said is not None and said[1] in seen:
                return
    raise AssertionError(f"no scenario shows {code} come and go")


@pytest.mark.parametrize("phase", list(Phase))
def test_each_phase_fails_somewhere(phase: Phase) -> None:
    text = "\n".join(lines())
    failed = f"{phase} failed: " in text
    overdue = f"{phase} took too long" in text
    assert failed or overdue, f"no scenario shows {phase} fail"


@pytest.mark.parametrize("code", ["PEER_ALIVE", "TOO_MANY_REFUSED", "ALL_EXCLUDED"])
def test_each_refusal_of_the_disks_appears(code: str) -> None:
    assert any(f"({code})" in line for line in lines())


@pytest.mark.parametrize("status", list(Status))
def test_each_call_is_tried_in_each_status(status: Status) -> None:
    """The status that the controller shows right before the calls."""
    for script in find([]):
        tried: dict[str, str] = {}
        shown: dict[str, str] = {}
        for line in script.text.splitlines():
            here = re.match(r"  ([ab])  ([A-Z]+)", line)
            if here is not None and not tried:
                shown[here[1]] = here[2]
            asked = re.match(r"> try ([ab]) (.*)$", line)
            if asked is not None:
                tried[asked[2]] = asked[1]
        if {shown.get(node) for node in tried.values()} == {status.value}:
            missing = [call for call in CALLS if not any(line.startswith(call) for line in tried)]
            assert missing == []
            return
    raise AssertionError(f"no scenario tries the calls in {status}")


def test_each_scenario_ends_by_showing_both_controllers() -> None:
    endless = [script.name for script in find([]) if not list(script.commands())[-1].startswith(("show", "try"))]
    assert endless == []
