"""Tab: words of namespaces and commands, names of arguments, their values; also those that exist only now."""

from collections.abc import AsyncGenerator, Iterable, Iterator
from typing import NamedTuple

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from middlewared.cli.arguments import Schema, split_line, typed
from middlewared.cli.commands import Command, Namespace
from middlewared.cli.shell import choices
from middlewared.cli.shell.editor.fields import as_text, kinds
from middlewared.cli.shell.lines import WORDS, Interpreter
from middlewared.cli.usage import MODES, UsageError

OPTIONS = ("--json", "--yes", "--dry-run", "--editor", "--print-template", "--help")


class Candidate(NamedTuple):
    """`text` replaces the last `replaces` characters of the line."""

    text: str
    about: str = ""


class ShellCompleter(Completer):
    def __init__(self, interpreter: Interpreter) -> None:
        self._interpreter = interpreter

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        return ()  # the prompt asks the other way, which can look things up

    async def get_completions_async(
        self, document: Document, complete_event: CompleteEvent
    ) -> AsyncGenerator[Completion, None]:
        words, current = split(document.text_before_cursor)
        async for candidate, typed_already in self._candidates(words, current):
            if candidate.text.startswith(typed_already) and candidate.text != typed_already:
                yield Completion(candidate.text, -len(typed_already), display_meta=candidate.about)

    async def _candidates(self, words: list[str], current: str) -> AsyncGenerator[tuple[Candidate, str], None]:
        """(candidate, the part of the line that it would replace)"""
        if words and words[0] == ".mode":
            for mode in MODES:
                yield Candidate(mode), current
            return
        if words == ["call"]:
            for command in self._interpreter.session.tree.descendants():
                if isinstance(command, Command):
                    yield Candidate(command.method, command.summary), current
            return
        if not words:
            for word, about in WORDS.items():
                yield Candidate(word, about), current
        try:
            node, rest = self._interpreter.find([word for word in words if word != "man"])
        except UsageError:
            return
        if isinstance(node, Namespace):
            async for candidate in self._children(node, first=not words):
                yield candidate, current
        elif words[:1] != ["man"]:
            async for candidate, part in self._arguments(node, rest, current):
                yield candidate, part

    async def _children(self, node: Namespace, *, first: bool) -> AsyncGenerator[Candidate, None]:
        seen = dict(sorted(node.children.items()))
        if first:  # the root's words work everywhere
            seen |= {
                name: child
                for name, child in sorted(self._interpreter.session.tree.children.items())
                if name not in seen
            }
        for name, child in seen.items():
            yield Candidate(name, child.summary)

    async def _arguments(
        self, command: Command, rest: list[str], current: str
    ) -> AsyncGenerator[tuple[Candidate, str], None]:
        if current.startswith("-"):
            for option in OPTIONS:
                yield Candidate(option), current
            return
        if command.entry.get("filterable"):
            for candidate in _columns(command, rest):
                yield candidate, current.rpartition(",")[2]
            return
        schemas = typed(command)
        name, equals, value = current.partition("=")
        if equals:
            schema = next((schema for schema in schemas if schema["_name_"] == name), None)
            if schema is not None:
                part = value.rpartition(",")[2] if "array" in kinds(schema) else value
                async for candidate in self._values(schema):
                    yield candidate, part
            return
        places = [word for word in rest if "=" not in word]
        named = {word.partition("=")[0] for word in rest if "=" in word}
        if len(places) < len(schemas) and not named and choices.of(schemas[len(places)]):
            async for candidate in self._values(schemas[len(places)]):  # the first, as it stands: update eth0
                yield candidate, current
        for schema in schemas[len(places) :]:
            if schema["_name_"] not in named:
                yield Candidate(f"{schema['_name_']}=", str(schema.get("description") or "")), current

    async def _values(self, schema: Schema) -> AsyncGenerator[Candidate, None]:
        for text in fixed_values(schema):
            yield Candidate(text)
        wanted = choices.of(schema)
        if wanted is not None:
            for text in await choices.live(self._interpreter.session, wanted):
                yield Candidate(text)


def fixed_values(schema: Schema) -> Iterator[str]:
    """Booleans, enum, default, null, in this order and each once (PROTOCOL 9.5)."""
    items = [item for item in schema.get("items") or [] if isinstance(item, dict)]
    enum = schema.get("enum") or (items[0].get("enum") if items else None) or []
    found = ["true", "false"] if "boolean" in kinds(schema) else []
    found += [as_text(each, schema) if each is not None else "null" for each in enum]
    if "default" in schema and "array" not in kinds(schema):
        found.append(as_text(schema["default"], schema))
    if "null" in kinds(schema):
        found.append("null")
    yield from dict.fromkeys(found)


def split(text: str) -> tuple[list[str], str]:
    """The whole words before the cursor, and the beginning of the one at it."""
    words = split_line(text)
    if not words or (text[-1:].isspace() and split_line(text + "x") != [*words[:-1], words[-1] + text[-1] + "x"]):
        return words, ""
    return words[:-1], words[-1]


def _columns(command: Command, rest: list[str]) -> Iterator[Candidate]:
    names = (command.entry.get("filterable_schema") or {}).get("_attrs_order_") or []
    properties = (command.entry.get("filterable_schema") or {}).get("properties") or {}
    for name in names:
        yield Candidate(name, str((properties.get(name) or {}).get("description") or ""))
    if not any(word.upper() == "WHERE" for word in rest):
        yield Candidate("WHERE", 'only rows for which an expression holds: name == "tank"')
