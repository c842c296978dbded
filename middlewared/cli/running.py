"""From a command and what was typed after it to a call, and from its result to what is shown. Without I/O.

The one-shot program and the shell differ in how they wait for an answer; what they ask and print comes from here.
"""

from typing import Any, NamedTuple

from middlewared.cli.commands import Command

# The administrator's contract shows these results so; everywhere else they stay as on the wire.
WORDS_SHOWN = {"failover.status": {"BACKUP": "SLAVE"}}
SILENT = ("config.update", "crud.create", "crud.update", "crud.delete")
SHOWN_ALTHOUGH_CREATED = ("api_key.create",)  # the key is shown now or never


class Prepared(NamedTuple):
    """A call, ready to be made. `columns`: those of a query that are to be shown; none: all."""

    command: Command
    params: list[Any]
    columns: list[str]


def prepare(command: Command, tokens: list[str]) -> Prepared:
    """Raises UsageError; arguments.Missing when something required is all that is wrong."""
    if command.entry.get("filterable"):
        from middlewared.cli import filters

        return Prepared(command, *filters.parse(tokens))
    from middlewared.cli.arguments import parse

    return Prepared(command, parse(command, tokens), [])


def output(prepared: Prepared, result: Any, mode: str) -> str:
    """What is printed for a result, line ends included; nothing for what the exit code says."""
    command = prepared.command
    if command.entry.get("filterable"):
        from middlewared.cli import filters

        result = filters.select(result, prepared.columns)
    silent = command.kind in SILENT and command.method not in SHOWN_ALTHOUGH_CREATED
    told = command.entry.get("job") and (result is None or result is True)  # its progress has said it all
    if mode != "json" and (silent or told):
        return ""
    if isinstance(result, str):
        result = WORDS_SHOWN.get(command.method, {}).get(result, result)
    from middlewared.cli.output import render

    return render(result, mode, whole=whole(command))


def whole(command: Command) -> bool:
    """A result for humans first: nothing in it is cut."""
    return any(schema.get("x-cli-whole") for schema in command.entry.get("returns") or ())


def json_argument(word: str) -> Any:
    """An argument of `call`: JSON if it is, text otherwise."""
    from middlewared.client import extended_json

    try:
        return extended_json.loads(word)
    except ValueError:
        return word
