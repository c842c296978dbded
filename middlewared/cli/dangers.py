"""Dangerous commands: what will happen, said before it does. Which ones they are stands in the schemas (`x-danger`)."""

import textwrap
from typing import Any, NamedTuple

from middlewared.cli.commands import Command
from middlewared.cli.output import as_json
from middlewared.cli.usage import UsageError

WIDTH = 100
QUESTION = "Go on? Type yes: "
GIVEN_UP = "Nothing was done."


class Danger(NamedTuple):
    """`rehearsal`: a method that shows how it would go and changes nothing; its answer has `checks` and `failures`."""

    text: str
    rehearsal: str | None


def of(command: Command, params: list[Any]) -> Danger | None:
    """Whether this call, with these parameters, is one to think about."""
    danger = command.entry.get("danger")
    if not danger:
        return None
    names = [schema["_name_"] for schema in command.entry.get("accepts") or []]
    given = dict(zip(names, params, strict=False))
    if any(_at(given, path) != expected for path, expected in danger.get("when", {}).items()):
        return None
    return Danger(danger["text"], danger.get("rehearsal"))


def described(command: Command) -> str:
    """For manuals: what the question before this command says, and when it is asked; empty for harmless ones."""
    danger = command.entry.get("danger")
    if not danger:
        return ""
    values = [f"{path}={as_json(value, None)}" for path, value in danger.get("when", {}).items()]
    only = f" (with {' and '.join(values)})".replace('"', "") if values else ""
    rehearsal = " --dry-run rehearses it." if danger.get("rehearsal") else ""
    return f"Asks first{only}: {danger['text']}{rehearsal}"


def warning(command: Command, danger: Danger, rehearsed: dict[str, Any] | None) -> str:
    """The lines before the question. `rehearsed`: what the rehearsal answered; None where there is none."""
    lines = textwrap.wrap(f"{command.path}: {danger.text}", WIDTH)
    if rehearsed is not None:
        lines.append(f"Rehearsed just now: {verdict(rehearsed)}")
    return "\n".join(lines) + "\n"


def verdict(rehearsed: dict[str, Any]) -> str:
    """One line for the outcome, and one for each check that failed."""
    failed = [check for check in rehearsed.get("checks", ()) if not check["ok"]]
    if rehearsed.get("would_work"):
        return f"controller {rehearsed['node']} could take over ({len(rehearsed['checks'])} checks)."
    lines = [f"controller {rehearsed.get('node')} could NOT take over."]
    for check in failed:
        remedy = f" {check['remedy']}" if check.get("remedy") else ""
        lines += textwrap.wrap(
            f"{check['name']} {check['subject']}: {check['detail']}.{remedy}",
            WIDTH,
            initial_indent="  - ",
            subsequent_indent="    ",
        )
    return "\n".join(lines)


def rehearsal_of(command: Command) -> str:
    """The method for --dry-run. Raises UsageError for a command that cannot be rehearsed."""
    rehearsal = (command.entry.get("danger") or {}).get("rehearsal")
    if rehearsal is None:
        raise UsageError(f"{command.path} cannot be rehearsed: leave --dry-run out, or do not run it")
    return str(rehearsal)


def _at(value: Any, path: str) -> Any:
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
