"""Words of the command line as the parameters of a method (PROTOCOL 10.2).

Positional values first, then NAME=VALUE. The shell has split and unquoted already, so a value is read by what its
parameter may be: a text stays as typed, everything else is JSON, 0x…, a,b or a bare word.
"""

import json
import re
from typing import TYPE_CHECKING, Any

from middlewared.cli.usage import UsageError, suggestion

if TYPE_CHECKING:
    from middlewared.cli.commands import Command

Schema = dict[str, Any]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_BASED = re.compile(r"[-+]?0[xXoO][0-9A-Fa-f]+\Z")
_OPENING, _CLOSING = "{[", "}]"


def parse(command: "Command", tokens: list[str]) -> list[Any]:
    """The `params` of the call. Raises UsageError, which says what the command takes; Missing, if that is all."""
    tokens = [token for token in tokens if token != "--"]  # noqa: S105  a separator, not a secret
    if ">" in tokens:
        raise UsageError('for output to a file put the ">" outside of the quotes: your shell does that')
    accepts: list[Schema] = command.entry.get("accepts") or []
    positional, named = _separate(_join_equals(tokens))
    try:
        if command.kind in ("config.update", "crud.create"):
            if positional:
                raise UsageError(f'"{positional[0]}" stands alone: write NAME=VALUE')
            packed = _packed(named, accepts[0])
            if command.kind == "crud.create":
                _demand(accepts[0], packed)
            return [packed]
        if command.kind == "crud.update":
            return _keyed(positional, named, accepts)
        return _placed(positional, named, accepts)
    except UsageError as error:
        raise type(error)(f"{error}\nusage: {synopsis(command)}") from None


def assemble(accepts: list[Schema], document: dict[str, Any]) -> list[Any]:
    """Values by the name of their parameter as the `params` of a call: each at its place, and what follows the last
    one is not sent. Raises UsageError for a gap that no default fills."""
    names = [schema["_name_"] for schema in accepts]
    for name in document:
        if name not in names:
            raise UsageError(f'unknown argument "{name}"{suggestion(name, names)}')
    params: list[Any] = []
    for schema in accepts[: max((names.index(name) + 1 for name in document), default=0)]:
        if schema["_name_"] in document:
            params.append(document[schema["_name_"]])
        elif "default" in schema:
            params.append(schema["default"])
        else:
            raise Missing(f"{schema['_name_']} is missing before what you gave")
    return params


def given(command: "Command", tokens: list[str]) -> dict[str, Any]:
    """What was typed, by the name of its parameter, however incomplete. Raises UsageError for what cannot be."""
    positional, named = _separate(_join_equals([token for token in tokens if token != "--"]))  # noqa: S105  a separator
    schemas = {schema["_name_"]: schema for schema in typed(command)}
    if len(positional) > len(schemas):
        raise UsageError(f'"{positional[len(schemas)]}" is too much')
    texts = {**dict(zip(schemas, positional, strict=False)), **named}
    for name in texts:
        if name not in schemas:
            raise UsageError(f'unknown argument "{name}"{suggestion(name, list(schemas))}')
    values = {name: value(text, schemas[name]) for name, text in texts.items()}
    accepts: list[Schema] = command.entry.get("accepts") or []
    if command.kind in ("config.update", "crud.create"):
        return {accepts[0]["_name_"]: values}
    if command.kind == "crud.update":
        key = accepts[0]["_name_"]
        chosen = {key: values.pop(key)} if key in values else {}
        return {**chosen, accepts[1]["_name_"]: values}
    return values


class Missing(UsageError):
    """Nothing is wrong, but something required is not there: the shell opens its editor."""


def typed(command: "Command") -> list[Schema]:
    """What may be typed, in order: the parameters, or the properties of the object that is made of them."""
    accepts: list[Schema] = command.entry.get("accepts") or []
    if command.kind in ("config.update", "crud.create") and accepts:
        return properties_of(accepts[0])
    if command.kind == "crud.update" and len(accepts) > 1:
        return [accepts[0], *properties_of(accepts[1])]
    return accepts


def synopsis(command: "Command") -> str:
    """One line: `system failover control action=ENABLE|DISABLE [options={…}]`."""
    if command.entry.get("filterable"):
        return f"{command.path} [COLUMNS | *] [WHERE EXPRESSION]"
    parts = [f"{schema['_name_']}={_placeholder(schema)}" for schema in typed(command)]
    optional = [not schema.get("_required_") for schema in typed(command)]
    return " ".join(
        [command.path, *(f"[{part}]" if omit else part for part, omit in zip(parts, optional, strict=True))]
    )


def split_line(text: str) -> list[str]:
    """Split a whole command at white space outside of quotes, braces and brackets."""
    tokens, current, depth, quote, escaped = [], "", 0, False, False
    for character in text:
        if quote:
            quote = escaped or character != '"'
            escaped = character == "\\" and not escaped
        elif character == '"':
            quote = True
        elif character in _OPENING:
            depth += 1
        elif character in _CLOSING:
            depth -= 1
        elif character.isspace() and depth <= 0:
            if current:
                tokens.append(current)
            current = ""
            continue
        current += character
    return [*tokens, current] if current else tokens


def value(text: str, schema: Schema) -> Any:
    """One value, by the type that its parameter has."""
    types = _types(schema)
    if text == "null" and (not types or "null" in types):
        return None
    if types and types <= {"string", "null"}:
        return _json(text) if _quoted(text) else text
    parts = _split_commas(text)
    if parts != [text] or ("array" in types and text[:1] != "["):
        items = (schema.get("items") or [{}])[0]
        return [value(part, items) for part in parts]
    if _quoted(text) or (text and text[0] in _OPENING):
        return _json(text)
    if _BASED.match(text):
        return int(text, 0)
    try:
        return json.loads(text, parse_constant=str)
    except ValueError:
        return text


def _quoted(text: str) -> bool:
    return len(text) > 1 and text[0] == text[-1] == '"'


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UsageError(
            f"{text} is not JSON ({error}): quote it for the shell, for instance 'options={{\"active\": true}}'"
        ) from None


def _types(schema: Schema) -> set[str]:
    kind = schema.get("type") or []
    return {kind} if isinstance(kind, str) else set(kind)


def _split_commas(text: str) -> list[str]:
    """`a,b` as its parts, commas inside of quotes, braces and brackets apart; a last comma makes a list of one."""
    spaced, depth, quote = "", 0, False
    for character in text:
        quote ^= character == '"'
        depth += (character in _OPENING) - (character in _CLOSING)
        spaced += "\0" if character == "," and not quote and depth == 0 else character
    parts = spaced.split("\0")
    return parts[:-1] if len(parts) > 1 and not parts[-1] else parts


def _join_equals(tokens: list[str]) -> list[str]:
    """`name = value` as one token, wherever the shell has split it."""
    joined: list[str] = []
    for token in tokens:
        waiting = bool(joined) and joined[-1].endswith("=") and _NAME.match(joined[-1][:-1])
        starts_name = _NAME.match(token.partition("=")[0]) and "=" in token
        if (waiting and not starts_name) or (joined and token.startswith("=") and _NAME.match(joined[-1])):
            joined[-1] += token
        else:
            joined.append(token)
    return joined


def _separate(tokens: list[str]) -> tuple[list[str], dict[str, str]]:
    positional: list[str] = []
    named: dict[str, str] = {}
    for token in tokens:
        name, equals, text = token.partition("=")
        if not equals or not _NAME.match(name):
            if named:
                raise UsageError(f'"{token}" stands after a NAME=VALUE: write NAME={token}')
            positional.append(token)
        elif name in named:
            raise UsageError(f"{name} is given twice")
        else:
            named[name] = text
    return positional, named


def properties_of(schema: Schema) -> list[Schema]:
    """The properties of an object, in their order."""
    properties = schema.get("properties") or {}
    return [properties[name] for name in schema.get("_attrs_order_") or properties]


def _packed(named: dict[str, str], schema: Schema) -> dict[str, Any]:
    """NAME=VALUE pairs as one object."""
    properties: dict[str, Schema] = schema.get("properties") or {}
    for name in named:
        if name not in properties and schema.get("additionalProperties") is False:
            raise UsageError(f'unknown argument "{name}"{suggestion(name, list(properties))}')
    return {name: value(text, properties.get(name, {})) for name, text in named.items()}


def _keyed(positional: list[str], named: dict[str, str], accepts: list[Schema]) -> list[Any]:
    """crud.update: which one, then what to change."""
    key = accepts[0]["_name_"]
    if len(positional) > 1:
        raise UsageError(f'"{positional[1]}" stands alone: write NAME=VALUE')
    if not positional and key not in named:
        raise Missing(f"{key} is missing: which one?")
    chosen = positional[0] if positional else named.pop(key)
    return [value(chosen, accepts[0]), _packed(named, accepts[1])]


def _placed(positional: list[str], named: dict[str, str], accepts: list[Schema]) -> list[Any]:
    """Everything else: each at its place; trailing parameters that were not given are not sent."""
    names = [schema["_name_"] for schema in accepts]
    if len(positional) > len(accepts):
        most = f"{len(accepts)} value{'s' if len(accepts) > 1 else ''}" if accepts else "no values"
        raise UsageError(f'"{positional[len(accepts)]}" is too much: the command takes {most}')
    texts = dict(zip(names, positional, strict=False))
    for name, text in named.items():
        if name not in names:
            raise UsageError(f'unknown argument "{name}"{_nested(name, accepts) or suggestion(name, names)}')
        if name in texts:
            raise UsageError(f"{name} is given twice")
        texts[name] = text
    for schema in accepts:
        if schema.get("_required_") and schema["_name_"] not in texts:
            raise Missing(f"{schema['_name_']} is missing")
    schemas = dict(zip(names, accepts, strict=True))
    return assemble(accepts, {name: value(text, schemas[name]) for name, text in texts.items()})


def _demand(schema: Schema, values: dict[str, Any]) -> None:
    missing = [
        each["_name_"] for each in properties_of(schema) if each.get("_required_") and each["_name_"] not in values
    ]
    if missing:
        raise Missing(f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing")


def _nested(name: str, accepts: list[Schema]) -> str:
    """A property of an object parameter was taken for a parameter."""
    for schema in accepts:
        if name in (schema.get("properties") or {}):
            return f": it belongs into {schema['_name_']}, '{schema['_name_']}={{\"{name}\": …}}'"
    return ""


def _placeholder(schema: Schema) -> str:
    if schema.get("enum"):
        return "|".join("null" if each is None else str(each) for each in schema["enum"])
    types = _types(schema) - {"null"}
    if types == {"object"}:
        return "{…}"
    if types == {"boolean"}:
        return "true|false"
    if types == {"array"}:
        return "A,B…"
    return "/".join(sorted(types)).upper() or "VALUE"
