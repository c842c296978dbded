"""The arguments of a command as YAML (PROTOCOL 11): a key for each parameter, its type and meaning above it.

What may be left out is commented out. A value that is already known stands uncommented, and what the server said
against it stands above it as `# ERROR: …`. The document is YAML 1.2: `no` and `on` are words.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from middlewared.cli.arguments import Schema, assemble, properties_of
from middlewared.cli.commands import Command
from middlewared.cli.usage import UsageError

_BARE = re.compile(r"[A-Za-z_/][A-Za-z0-9_./@-]*\Z")
_MISSING = object()

Refusal = list[tuple[str | None, str]]


def template(command: Command, values: dict[str, Any] | None = None, refusal: Refusal | None = None) -> str:
    """The document. `refusal`: what the server had against it, by dotted attribute."""
    accepts = command.entry.get("accepts") or []
    general = [text for attribute, text in refusal or [] if attribute is None]
    lines = [f"# ERROR: {line}" for text in general for line in text.splitlines()]
    for schema in accepts:
        value = (values or {}).get(schema["_name_"], _MISSING)
        lines += _item(schema, value, (), refusal or [], commented=False)
    return "\n".join(lines) + "\n" if lines else "# This command takes no arguments.\n"


def parse(command: Command, text: str) -> list[Any]:
    """The `params` of the call. Raises UsageError, with the line, for what is no such document."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        found = YAML(typ="safe", pure=True).load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark is not None else ""
        raise UsageError(f"{where}this is not YAML: {error.problem or error.context}") from None
    except YAMLError as error:
        raise UsageError(f"this is not YAML: {error}") from None
    if found is None:
        return []
    if not isinstance(found, dict):
        raise UsageError("write one NAME: VALUE a line, as in the template (--print-template)")
    accepts = command.entry.get("accepts") or []
    schemas = {schema["_name_"]: schema for schema in accepts}
    return assemble(accepts, {str(name): _typed(value, schemas.get(str(name), {})) for name, value in found.items()})


def _typed(value: Any, schema: Schema) -> Any:
    """An object without members is {}, not null; a date is the text that it was, since JSON has none."""
    kinds = _kinds(schema)
    if value is None and "object" in kinds and "null" not in kinds:
        return {}
    if isinstance(value, dict):
        properties = schema.get("properties") or {}
        return {str(name): _typed(member, properties.get(name, {})) for name, member in value.items()}
    if isinstance(value, list):
        inner = (schema.get("items") or [{}])[0]
        return [_typed(member, inner) for member in value]
    return value.isoformat() if hasattr(value, "isoformat") else value


def _item(schema: Schema, value: Any, path: tuple[str, ...], refusal: Refusal, *, commented: bool) -> Iterator[str]:
    """`commented`: the object around it is commented out, and so is everything inside."""
    name, here = schema["_name_"], (*path, schema["_name_"])
    indent = "  " * len(path)
    for text in errors_of(here, refusal):
        yield f"{indent}# ERROR: {text}"
    yield f"{indent}# {_about(schema)}"
    given = value is not _MISSING
    if schema.get("properties") and (not given or isinstance(value, dict)):
        off = commented or (bool(path) and not given)
        yield f"{indent}{'# ' if off else ''}{name}:"
        for number, member in enumerate(properties_of(schema)):
            if number:
                yield ""
            inner = value.get(member["_name_"], _MISSING) if given and isinstance(value, dict) else _MISSING
            yield from _item(member, inner, here, refusal, commented=off)
    elif given:
        yield from _written(name, value, indent)
    elif "array" in _kinds(schema):
        yield f"{indent}# {name}:"
        for inner in schema.get("items") or []:
            yield f"{indent}#   - {_example(inner)}".rstrip()
    else:
        default = f" {_scalar(schema['default'])}" if "default" in schema else ""
        off = commented or not schema.get("_required_")
        yield f"{indent}{'# ' if off else ''}{name}:{default}"
    if not path:
        yield ""


def _written(name: str, value: Any, indent: str) -> Iterator[str]:
    if isinstance(value, list) and value:
        yield f"{indent}{name}:"
        for item in value:
            yield f"{indent}  - {_scalar(item)}"
    else:
        yield f"{indent}{name}: {_scalar(value)}"


def errors_of(path: tuple[str, ...], refusal: Refusal) -> list[str]:
    """What was said about this place. The first word of an attribute is the server's own: `failover_update.timeout`."""
    mine = []
    for attribute, text in refusal:
        words = (attribute or "").split(".")
        if words in (list(path), list(path[1:])) or (len(words) > 1 and words[1:] in (list(path), list(path[1:]))):
            mine.append(text)
    return mine


def _about(schema: Schema) -> str:
    kinds = " | ".join(kind.capitalize() for kind in _kinds(schema)) or "Parameter"
    words = [schema.get("description") or ""]
    if schema.get("enum"):
        words.append(f"One of {', '.join(_scalar(each) for each in schema['enum'])}.")
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None or high is not None:
        words.append(f"{'' if low is None else low}..{'' if high is None else high}.")
    text = " ".join(word for word in words if word)
    return f"{kinds}: {text}" if text else kinds


def _kinds(schema: Schema) -> list[str]:
    kinds = schema.get("type") or []
    return [kinds] if isinstance(kinds, str) else list(kinds)


def _example(schema: Schema) -> str:
    if schema.get("properties"):
        members = ", ".join(f"{member['_name_']}: {_example(member)}" for member in properties_of(schema))
        return f"{{{members}}}"
    if schema.get("enum"):
        return _scalar(schema["enum"][0])
    return {"integer": "0", "number": "0", "boolean": "false", "array": "[]", "object": "{}"}.get(
        next(iter(_kinds(schema)), ""), '""'
    )


def _scalar(value: Any) -> str:
    """On one line: a bare word where YAML reads it as text, JSON otherwise."""
    if isinstance(value, str) and _BARE.match(value) and value not in ("true", "false", "null"):
        return value
    return json.dumps(value, ensure_ascii=False)
