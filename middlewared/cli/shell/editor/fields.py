"""The arguments of a command as a tree of fields that a human fills in. Without a terminal.

A leaf holds text, read as on the command line (`arguments.value`): empty is "not given". Every field knows what is
wrong with it, by its schema and by the server's last answer.
"""

import json
from collections.abc import Iterator
from typing import Any

from middlewared.cli import arguments
from middlewared.cli.arguments import Schema, properties_of
from middlewared.cli.commands import Command
from middlewared.cli.shell.editor.document import Refusal
from middlewared.cli.usage import UsageError

MISSING = object()
CHOICES_SHOWN_MAX = 6  # more are completed instead
_KINDS = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object, as JSON",
    "string": "text",
    "null": "null",
}


class Field:
    """One argument, or one part of it. `path`: names and positions from the parameter down."""

    def __init__(
        self, schema: Schema, path: tuple[str | int, ...], now: Any = MISSING, *, secret: bool = False
    ) -> None:
        self.schema = schema
        self.path = path
        self.now = now
        self.secret = secret
        self.touched = False
        self.refused = ""  # what the server said, until the field is edited
        self.required = bool(schema.get("_required_"))

    @property
    def name(self) -> str:
        last = self.path[-1]
        return f"{last + 1}." if isinstance(last, int) else last

    @property
    def description(self) -> str:
        return str(self.schema.get("description") or "")

    def value(self) -> Any:
        """MISSING when nothing is given. Raises UsageError for a text that cannot be read."""
        raise NotImplementedError

    def walk(self) -> Iterator["Field"]:
        yield self

    def own_problem(self) -> str:
        """What the schema says against this very field; empty when nothing does."""
        try:
            value = self.value()
        except UsageError as error:
            return str(error)
        if value is MISSING:
            return "is required" if self.required else ""
        return complaint(self.schema, value)

    def problem(self) -> str:
        return self.refused or self.own_problem()


class Leaf(Field):
    """A text, a number, a choice; or JSON, for what has no form of its own."""

    def __init__(
        self, schema: Schema, path: tuple[str | int, ...], value: Any, now: Any = MISSING, *, secret: bool = False
    ) -> None:
        super().__init__(schema, path, now, secret=secret)
        self.text = "" if value is MISSING else as_text(value, schema)

    @property
    def options(self) -> list[str]:
        """What can be chosen from, if that is little."""
        options = [as_text(each, self.schema) for each in self.schema.get("enum") or []]
        if not options and kinds(self.schema) <= {"boolean", "null"} and kinds(self.schema):
            options = ["true", "false", *(["null"] if "null" in kinds(self.schema) else [])]
        return options if len(options) <= CHOICES_SHOWN_MAX else []

    def edit(self, text: str) -> None:
        if text != self.text:
            self.text, self.touched, self.refused = text, True, ""

    def value(self) -> Any:
        return MISSING if self.text == "" else arguments.value(self.text, self.schema)

    def hint(self) -> str:
        """Type, limits, default and what holds now, in a few words."""
        words = [" or ".join(sorted(kinds(self.schema) - {"null"})) if not self.options else ""]
        low, high = self.schema.get("minimum"), self.schema.get("maximum")
        if low is not None or high is not None:
            words.append(f"{'' if low is None else low}..{'' if high is None else high}")
        if self.now is not MISSING:
            words.append(f"now {as_text(self.now, self.schema)}")
        elif "default" in self.schema:
            words.append(f"default {as_text(self.schema['default'], self.schema)}")
        return ", ".join(word for word in words if word)


class Group(Field):
    """An object with known members. It is given when one of them is, or when it has to be (`always`)."""

    def __init__(self, schema: Schema, path: tuple[str | int, ...], members: list[Field], *, always: bool) -> None:
        super().__init__(schema, path)
        self.members = members
        self.always = always or self.required

    def walk(self) -> Iterator[Field]:
        yield self
        for member in self.members:
            yield from member.walk()

    def value(self) -> Any:
        given = {member.path[-1]: value for member in self.members if (value := member.value()) is not MISSING}
        return given if given or self.always else MISSING

    def own_problem(self) -> str:
        return ""  # its members say it

    def problem(self) -> str:
        return self.refused


class Rows(Field):
    """A list: one field an item, as many as wanted."""

    def __init__(self, schema: Schema, path: tuple[str | int, ...], value: Any, now: Any, secrets: set[str]) -> None:
        super().__init__(schema, path, now)
        self._secrets = secrets
        self.items: list[Field] = []
        self.given = value is not MISSING
        for item in value if isinstance(value, list) else []:
            self.add(item)

    def walk(self) -> Iterator[Field]:
        yield self
        for item in self.items:
            yield from item.walk()

    def add(self, value: Any = MISSING) -> None:
        self.given = self.touched = True
        schema = {**self.schema["items"][0], "_required_": True}
        self.items.append(build(schema, (*self.path, len(self.items)), value, MISSING, self._secrets, always=True))

    def remove(self, item: Field) -> None:
        values = [each.value() for each in self.items if each is not item]
        self.items, self.refused = [], ""
        for value in values:
            self.add(value)

    def value(self) -> Any:
        values = [item.value() for item in self.items]
        return [value for value in values if value is not MISSING] if self.given else MISSING

    def own_problem(self) -> str:
        try:
            value = self.value()
        except UsageError:
            return ""  # the item says it
        if value is MISSING:
            return "is required" if self.required else ""
        return complaint({key: item for key, item in self.schema.items() if key != "items"}, value)


class Form:
    """All fields of a command. `values` and `now`: by parameter."""

    def __init__(self, command: Command, values: dict[str, Any], now: dict[str, Any]) -> None:
        self.fields: list[Field] = []
        secrets = set(command.entry.get("secrets") or ())
        accepts = command.entry.get("accepts") or []
        packed = {"config.update": 0, "crud.create": 0, "crud.update": 1}.get(command.kind)
        for number, schema in enumerate(accepts):
            name = schema["_name_"]
            value, held = values.get(name, MISSING), now.get(name, MISSING)
            self.fields.append(build(schema, (name,), value, held, secrets, always=number == packed))
        self.packed = None if packed is None or packed >= len(self.fields) else self.fields[packed]
        self.general = ""  # what the server said of no field

    def walk(self) -> Iterator[Field]:
        for field in self.fields:
            yield from field.walk()

    def document(self) -> dict[str, Any]:
        """What is given, by parameter. Raises UsageError for a text that cannot be read."""
        found = {str(field.path[0]): field.value() for field in self.fields}
        return {name: value for name, value in found.items() if value is not MISSING}

    def wrong(self) -> list[Field]:
        """What keeps the form from being sent. A group that is left out needs none of its members."""
        return [field for field in self._needed(self.fields) if field.own_problem()]

    def refuse(self, refusal: Refusal) -> None:
        """Put each of the server's complaints beside its field: the one whose path ends as the attribute does."""
        rest = []
        for attribute, text in refusal:
            words = (attribute or "").split(".")
            ends = [words[start:] for start in range(len(words))]
            fields = [field for end in ends for field in self.walk() if _ends(field.path, end)]
            if attribute and fields:
                fields[0].refused = text
            else:
                rest.append(f"{attribute}: {text}" if attribute else text)
        self.general = "\n".join(rest)

    def _needed(self, fields: list[Field]) -> Iterator[Field]:
        for field in fields:
            yield field
            if isinstance(field, Group):
                try:
                    given = field.value() is not MISSING
                except UsageError:
                    given = True
                if given:
                    yield from self._needed(field.members)
            elif isinstance(field, Rows):
                yield from self._needed(field.items)


def build(
    schema: Schema, path: tuple[str | int, ...], value: Any, now: Any, secrets: set[str], *, always: bool = False
) -> Field:
    """The field, or the tree of fields, for a schema."""
    if kinds(schema) - {"null"} == {"object"} and schema.get("properties") and (value is MISSING or _is_dict(value)):
        inner, held = (value if _is_dict(value) else {}), (now if _is_dict(now) else {})
        members = [
            build(
                member,
                (*path, member["_name_"]),
                inner.get(member["_name_"], MISSING),
                held.get(member["_name_"], MISSING),
                secrets,
            )
            for member in properties_of(schema)
        ]
        return Group(schema, path, members, always=always)
    if kinds(schema) - {"null"} == {"array"} and schema.get("items") and (value is MISSING or isinstance(value, list)):
        return Rows(schema, path, value, now, secrets)
    secret = ".".join(str(part) for part in path if isinstance(part, str)) in secrets
    return Leaf(schema, path, value, now, secret=secret)


def complaint(schema: Schema, value: Any) -> str:
    """What the schema has against a value, in a few words; empty when nothing."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    error = best_match(Draft202012Validator(_plain(schema)).iter_errors(value))
    if error is None:
        return ""
    if error.validator == "type" and not error.path:
        wanted = [error.validator_value] if isinstance(error.validator_value, str) else error.validator_value
        return f"needs {' or '.join(_KINDS.get(kind, kind) for kind in wanted)}"
    return str(error.message)


def as_text(value: Any, schema: Schema) -> str:
    """A value as one would type it."""
    if isinstance(value, str) and (value == "" or (value == "null" and "null" in kinds(schema))):
        return json.dumps(value)
    if isinstance(value, str):
        return value if kinds(schema) <= {"string", "null"} else json.dumps(value, ensure_ascii=False)
    return json.dumps(value, ensure_ascii=False, default=str)


def kinds(schema: Schema) -> set[str]:
    found = schema.get("type") or []
    return {found} if isinstance(found, str) else set(found)


def _plain(schema: Any) -> Any:
    """The schema as the standard has it: core.get_methods wraps `items` in a list, for older command lines."""
    if isinstance(schema, list):
        return [_plain(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: _plain(item) for key, item in schema.items() if key not in ("items", "default", "enum")}
    if "enum" in schema:
        plain["enum"] = schema["enum"]
    items = schema.get("items")
    if items:
        plain["items"] = _plain(items[0] if isinstance(items, list) else items)
    return plain


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)


def _ends(path: tuple[str | int, ...], words: list[str]) -> bool:
    mine = [str(part) for part in path]
    return len(words) <= len(mine) and mine[len(mine) - len(words) :] == words
