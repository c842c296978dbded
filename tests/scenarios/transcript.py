"""Writes down what happens in a world, as lines for a reader."""

import dataclasses
import re
from typing import Any

from middlewared.bus import Event as BusEvent
from middlewared.lab.places import NODES
from middlewared.plugins.failover.actions import Action, Answer, CloseTraffic, Participate, Perform, Reset
from middlewared.plugins.failover.events import Event, Tick
from tests.scenarios import words
from tests.simulator.world import World

_ACTIONS = (Answer, CloseTraffic, Participate, Perform, Reset)
_TRANSITION = re.compile(r"(\w): (\w+) -> (\w+) (\w*) \((.*)\)$", re.DOTALL)
_OF_A_NODE = re.compile(r"([ab]): (.*)$", re.DOTALL)
_REPEATS_MIN = 3
_PERIOD_MAX = 4


@dataclasses.dataclass(slots=True)
class Line:
    """What happened on one controller, and what came of it."""

    at_s: float
    node: str
    text: str
    needs_effect: bool = False  # not worth a line by itself
    role: str = ""  # after the arrow
    cause: str = ""
    effects: list[str] = dataclasses.field(default_factory=list)

    def words(self) -> str:
        role = f"{self.role} ({self.cause})" if self.cause else self.role
        after = "; ".join([*([role] if role else []), *self.effects])
        return f"{self.text} => {after}" if after else self.text


class Transcript:
    """Listens to a world; `take` gives the lines since it was last asked."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._lines: list[Line] = []
        self._step: dict[str, Line] = {}  # the engine step under way, by controller
        self._phases: dict[str, dict[int, str]] = {node: {} for node in NODES}
        self._roles: dict[str, str] = {}
        self._alerts: dict[str, str] = {}
        self._reached: dict[str, bool] = dict.fromkeys(NODES, False)
        self._changed = world.network_changed
        world.on_note = self._note
        world.on_engine = self._engine
        world.on_bus = self._bus  # type: ignore[method-assign]  # what the world notes of it is said better here
        world.network_changed = self._network  # type: ignore[method-assign]  # watched, then done

    def take(self, base_s: float) -> list[str]:
        """Lines with their times since `base_s`, repetition folded."""
        self._look()
        lines = [line for line in self._lines if not line.needs_effect or line.role or line.effects]
        self._lines = []
        kept: list[tuple[int, Line]] = []
        for node in ("", *NODES):
            kept += _fold([(number, line) for number, line in enumerate(lines) if line.node == node], base_s)
        kept.sort(key=lambda numbered: numbered[0])
        return [f"{_since(line.at_s, base_s)}  {line.node or '-'}  {line.words()}" for _, line in kept]

    def _add(self, node: str, text: str, *, needs_effect: bool = False) -> Line:
        line = Line(self._world.now_s, node, text, needs_effect)
        self._lines.append(line)
        return line

    def _engine(self, node: str, what: Event | Action) -> None:
        phases = self._phases[node]
        if isinstance(what, _ACTIONS):
            self._step[node].effects.append(words.action(what, phases))
        else:
            text = self._tick(node) if isinstance(what, Tick) else words.event(what, phases)
            self._step[node] = self._add(node, text, needs_effect=isinstance(what, Tick))

    def _tick(self, node: str) -> str:
        """What time is up for."""
        daemon = self._world.controllers[node].daemon
        assert daemon is not None
        assert daemon.failover is not None
        state = daemon.failover.controller.runner.state
        if state.deadline_ms is not None and self._world.loop.now_s * 1000 >= state.deadline_ms:
            return f"{state.phase} took too long"
        return "time is up"

    def _note(self, at_s: float, text: str) -> None:
        if text.startswith("> "):
            return
        moved = _TRANSITION.match(text)
        if moved is not None:
            self._moved(*moved.groups())
            return
        said = _OF_A_NODE.match(text)
        node, rest = said.groups() if said is not None else ("", text)
        self._add(node, rest)

    def _moved(self, node: str, before: str, after: str, phase: str, cause: str) -> None:
        """A transition belongs to the step that led to it; the phase that it begins need not be said twice."""
        line = self._step[node]
        line.role = f"{after} {phase}".strip() if before != after else phase
        line.cause = cause if before != after else ""
        if "resets itself" in line.effects:  # said in full by itself
            line.effects.remove("resets itself")
        if f"do {phase}" in line.effects:
            line.effects.remove(f"do {phase}")

    def _bus(self, node: str, event: BusEvent) -> None:
        fields: dict[str, Any] = dict(event.fields or {})
        match event.collection:
            case "failover.status":
                self._add(node, f"status {fields['status']}")
            case "failover.disabled.reasons":
                self._reasons(node, f"reasons {', '.join(fields['disabled_reasons']) or 'none'}")
            case "alert.list":
                self._alert(node, event.msg, str(event.id), fields)

    def _reasons(self, node: str, text: str) -> None:
        """In one line with the status, if that changed at the same moment."""
        last = self._lines[-1] if self._lines else None
        if (
            last is not None
            and last.node == node
            and last.text.startswith("status ")
            and last.at_s == self._world.now_s
        ):
            last.text += f"; {text}"
        else:
            self._add(node, text)

    def _alert(self, node: str, msg: str, identity: str, fields: dict[str, Any]) -> None:
        """Those of the reasons would only repeat the reasons."""
        identity = f"{node} {identity}"
        if msg == "removed":
            text = self._alerts.pop(identity, "")
            if text:
                self._add(node, f"alert over: {text}")
        elif not fields["key"].startswith("failover.reason."):
            self._alerts[identity] = fields["text"]
            self._add(node, f"alert {fields['level']}: {fields['text']}")

    def _network(self) -> None:
        self._changed()
        self._look()

    def _look(self) -> None:
        """Whom clients of the virtual addresses reach."""
        for node in NODES:
            reached = self._world.serves(node)
            if reached != self._reached[node]:
                self._reached[node] = reached
                self._add(node, "clients reach it" if reached else "clients do not reach it any more")


def _since(at_s: float, base_s: float) -> str:
    return f"+{max(0.0, at_s - base_s):.3f}"


def _fold(lines: list[tuple[int, Line]], base_s: float) -> list[tuple[int, Line]]:
    """One controller's lines; what repeats itself is said once, with a count."""
    texts = [line.words() for _, line in lines]
    kept: list[tuple[int, Line]] = []
    at = 0
    while at < len(lines):
        period, repeats = _repetition(texts, at)
        kept += lines[at : at + period]
        if repeats > 1:
            end = at + period * repeats
            number, line = lines[at + period - 1]
            last = _since(lines[end - 1][1].at_s, base_s)
            kept.append((number, Line(line.at_s, line.node, f"… the same {repeats - 1} more times, until {last}")))
            at = end
        else:
            at += period
    return kept


def _repetition(texts: list[str], at: int) -> tuple[int, int]:
    """(period, how often) of what repeats from here on; (1, 1) when nothing does."""
    for period in range(1, _PERIOD_MAX + 1):
        part = texts[at : at + period]
        repeats = 1
        while texts[at + period * repeats : at + period * (repeats + 1)] == part:
            repeats += 1
        if repeats >= _REPEATS_MIN:
            return period, repeats
    return 1, 1
