"""Renders docs/engine.md: the states and transitions of the failover engine, found by walking it (engine_walk.py)."""

import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, replace

from engine_properties import KNOWN, PROPERTIES, WAY_DOWN, WAY_UP, Judge, Property
from engine_rows import PHASE_WORDS, ROLE_WORDS, Row, Table
from engine_walk import Walk

from middlewared.invariants import invariant
from middlewared.plugins.failover import engine
from middlewared.plugins.failover.state import Limits, Phase, Role, State

HEADER = """\
# The failover engine

Made from `plugins/failover/engine.py` by `make docs`; do not edit. `scripts/engine_walk.py` walks the engine from its
first state through every event that matters, in every order and with every time that may run out meanwhile; what it
finds stands here.

A controller has a **role**. On its way up (TAKING) and down (YIELDING) it goes through **phases**, one after another:
each is work that the machine does and reports done or failed. A phase has a deadline; to miss it is to fail.
"""
DIAGRAM_HEADER = """\
## Diagram

TAKING and YIELDING are ways; their phases are inside. RESET is the end of this boot: the machine starts again as
BOOTING. Arrows on the edge of a way say in which phase it is left. FENCING_AGAIN is FENCING, waiting. To take longer
than the deadline is to fail. What decides between two arrows, and what is found in BOOTING, is told in the table.
"""
TABLE_HEADER = """\
## What can happen

Whatever is not listed changes nothing but what the engine knows. *Takes part* and *stays out* mean the election of the
virtual addresses; it is said only when it changes. Where an operator waits for the outcome, the answer is in brackets.
The result of earlier work is late, and ignored. The role *falls to* a controller that is elected, if failover is
enabled or it is the designated one; without a pair, to the designated one.
"""
COLUMNS = "| in | what happens | goes to | does |\n| --- | --- | --- | --- |\n"
PHASES_HEADER = """\
## Deadlines, and what a failure leads to

| phase | work | deadline | if it fails or takes longer |
| --- | --- | --- | --- |
"""
LIMITS_HEADER = """\
## Limits

| limit | ms | for |
| --- | ---: | --- |
"""
PROMISES_HEADER = """\
## What always holds

Checked in every step that the walk finds (`scripts/engine_properties.py`).
"""

FAILURE_WORDS: dict[object, str] = {
    engine._take_by_force: "the disks are taken by force: an operator said so",
    engine._fencing_failed: "the other is alive on the disks: wait and ask again; refused: ERROR; no answer: the whole "
    "way down, then ERROR",
    engine._give_up: "the whole way down, then ERROR",
    engine._go_on: "go on with the next phase",
    engine._reset: "reset the machine: it cannot be proved that nothing here writes any more",
}
LIMIT_WORDS = {
    "fence_retry_ms": "until a living peer on the disks is asked for again",
    "force_ms": "until an operator's force ends, where the other goes on taking the disks at the same moment; after "
    "`ask_ms`, if the other is asked first",
    "error_retry_ms": "in ERROR, until the takeover is tried again",
    "stand_aside_ms": "as BACKUP after giving up, or after it was elected in place of a MASTER whose links are back, "
    "until it may be elected again, unless the other leads before",
    "rival_grace_ms": "until a MASTER gives way to another that was elected",
    "isolated_grace_ms": "until a MASTER without links gives way if it cannot ask the other; the administrator's "
    "timeout if that is longer",
}


def render() -> str:
    """The whole document; refuses when a promise is broken."""
    judge = Judge(Walk())
    table = Table()
    for transition in judge.transitions():
        table.add(transition)
    invariant(not judge.broken, "\n".join(f"{name} does not hold:\n{path}" for name, path in judge.broken.items()))
    rows = table.rows()
    return "\n".join([HEADER, _diagram(rows), _table(rows), _phases(), _limits(), _promises(judge.known)])


# ------------------------------------------------------------------------------------------ tables


def _table(rows: list[Row]) -> str:
    parts = [TABLE_HEADER]
    for role in Role:
        lines = [f"### {role}\n\n{ROLE_WORDS[role]}\n\n{COLUMNS}"]
        lines += [
            f"| {row.source_name} | {row.what} | {row.target_name} | {row.does} |\n"
            for row in rows
            if row.source.role is role
        ]
        parts.append("".join(lines))
    return "\n".join(parts)


def _phases() -> str:
    lines = [PHASES_HEADER]
    for phase in (*WAY_UP, *WAY_DOWN):
        limit = _limit_of(phase)
        answer = FAILURE_WORDS[engine._FAILED[phase]]
        lines.append(f"| {phase} | {PHASE_WORDS[phase]} | {_deadline_ms(phase)} ms (`{limit}`) | {answer} |\n")
    return "".join(lines)


def _deadline_ms(phase: Phase, limits: Limits | None = None) -> int:
    state, _ = engine._enter(State(limits=limits or Limits()), phase, 0)
    invariant(state.deadline_ms is not None, f"{phase} has no deadline")
    return state.deadline_ms or 0


def _limit_of(phase: Phase) -> str:
    """The limit that moves the deadline of the phase."""
    longer = {item.name: replace(Limits(), **{item.name: 10**9}) for item in fields(Limits)}
    moving = [name for name, limits in longer.items() if _deadline_ms(phase, limits) != _deadline_ms(phase)]
    invariant(len(moving) == 1, f"{phase} has limits {moving}")
    return moving[0]


def _limits() -> str:
    phases: dict[str, list[str]] = {}
    for phase in (*WAY_UP, *WAY_DOWN):
        phases.setdefault(_limit_of(phase), []).append(phase)
    notes = dict(re.findall(r"^ +(\w+): int = [\d_]+  # (.*)$", inspect.getsource(Limits), re.MULTILINE))
    lines = [LIMITS_HEADER]
    for item in fields(Limits):
        words = ", ".join(phases[item.name]) if item.name in phases else LIMIT_WORDS[item.name]
        note = f" ({notes[item.name]})" if item.name in phases and item.name in notes else ""
        lines.append(f"| `{item.name}` | {getattr(Limits(), item.name)} | {words}{note} |\n")
    return "".join(lines)


def _promises(known: set[Property]) -> str:
    lines = [f"- {_first_line(promise)}{_exception(promise, known)}\n" for promise in PROPERTIES]
    return PROMISES_HEADER + "\n" + "".join(lines)


def _first_line(promise: Callable[..., object]) -> str:
    return (promise.__doc__ or "").split("\n")[0]


def _exception(promise: Property, known: set[Property]) -> str:
    return f" *Known breach:* {KNOWN[promise][1]}." if promise in known else ""


# ------------------------------------------------------------------------------------------ the diagram


@dataclass(slots=True)
class Edges:
    """Arrows between two boxes, their labels gathered."""

    labels: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def add(self, source: str, target: str, label: str) -> None:
        labels = self.labels.setdefault((source, target), [])
        if label not in labels:
            labels.append(label)

    def lines(self, indent: str) -> Iterable[str]:
        for (source, target), labels in self.labels.items():
            yield f"{indent}{source} --> {target}: {'<br>'.join(map(_plain, labels))}"


def _diagram(rows: list[Row]) -> str:
    between, inside = Edges(), {Role.TAKING: Edges(), Role.YIELDING: Edges()}
    for row in rows:
        source, target = row.source, row.target
        if target is None:
            between.add(source.role, "RESET", f"{source.phase}, fails" if row.failing else row.short)
        elif source.role is not target.role:
            if source.role is not Role.BOOTING:
                between.add(source.role, target.role, f"{source.phase}, {row.short}" if source.phase else row.short)
            else:
                between.add(source.role, target.role, "")
            if target.phase is not None:
                inside[target.role].add("[*]", target.box, "")
        elif source.box != target.box and source.phase is not None and target.phase is not None:
            inside[source.role].add(source.box, target.box, row.short)
    lines = ["stateDiagram-v2", "    [*] --> BOOTING", *between.lines("    "), "    RESET --> [*]"]
    for role, edges in inside.items():
        lines += [f"    state {role} {{", *edges.lines("        "), "    }"]
    text = "\n".join(line.removesuffix(": ") for line in lines)
    return f"{DIAGRAM_HEADER}\n```mermaid\n{text}\n```\n"


def _plain(label: str) -> str:
    """Words that the diagram's grammar does not take for its own."""
    return re.sub(r"[`{}]", "", re.sub("[:;]", ",", label))
