"""What `midctl help WORDS` prints: a namespace's list, or a command's page. All of it comes from the schemas."""

from typing import Any

from middlewared.cli.arguments import synopsis, typed
from middlewared.cli.commands import Command, Namespace
from middlewared.cli.dangers import described
from middlewared.cli.usage import PROGRAM

WIDTH = 100


def listing(namespace: Namespace) -> str:
    """`name - summary` a line, sorted (PROTOCOL 9.5)."""
    if not namespace.children:
        return "(nothing here that you may call)\n"
    width = max(len(name) for name in namespace.children)
    lines = []
    for name, child in sorted(namespace.children.items()):
        lines.append(f"{name:{width}} - {child.summary}" if child.summary else name)
    return "\n".join(lines) + "\n"


def page(command: Command) -> str:
    """Name, description, usage, arguments, examples, method."""
    entry = command.entry
    parts = [f"{command.path} - {command.summary}" if command.summary else command.path]
    description = (entry.get("description") or "").strip()
    if description and description.rstrip(".") != command.summary.rstrip("."):
        parts += [_folded(paragraph) for paragraph in description.split("\n\n")]
    parts.append(f"usage: {PROGRAM} {synopsis(command)}")
    if arguments := _arguments(typed(command), "  "):
        parts.append("Arguments\n" + "\n".join(arguments))
    if entry.get("filterable"):
        names = (entry.get("filterable_schema") or {}).get("_attrs_order_") or []
        parts.append(_folded(f"Columns: {', '.join(names)}") + "\n" + _FILTERABLE if names else _FILTERABLE)
    if asks := described(command):
        parts.append(_folded(asks))
    if examples := (entry.get("examples") or {}).get("cli"):
        parts.append("Examples\n" + "\n".join(f"  {PROGRAM} {example}" for example in examples))
    follows = ", a job: its progress is printed until it ends" if entry.get("job") else ""
    parts.append(f"API method {command.method}{follows}")
    return "\n\n".join(parts) + "\n"


_FILTERABLE = """\
Name columns with spaces or commas between them. An expression compares fields with values:
  WHERE name == "tank" and (size > 1000 or not name.startswith("t"))
Also: != > >= < <= in, not in, .match(), .startswith(), .endswith(). Quote it for the shell."""


def _folded(paragraph: str) -> str:
    """A paragraph of text in lines of WIDTH; lists and tables stay as they are."""
    import textwrap

    if any(line[:1] in ("-", "*", "|", " ") for line in paragraph.split("\n")):
        return paragraph
    return textwrap.fill(paragraph, WIDTH)


def _arguments(schemas: list[dict[str, Any]], indent: str) -> list[str]:
    import textwrap

    lines = []
    for schema in schemas:
        lines.append(f"{indent}{schema['_name_']}  {_type(schema)}")
        if schema.get("description"):
            inner = indent + "    "
            lines += textwrap.wrap(schema["description"], WIDTH, initial_indent=inner, subsequent_indent=inner)
        properties = schema.get("properties") or {}
        inside = [properties[name] for name in schema.get("_attrs_order_") or properties]
        lines += _arguments(inside, indent + "    ")
    return lines


def _type(schema: dict[str, Any]) -> str:
    from middlewared.cli.output import as_json

    kind = schema.get("type") or "any"
    text = kind if isinstance(kind, str) else " or ".join(kind)
    if schema.get("enum"):
        text += ": " + " | ".join(as_json(each, None) if each is None else str(each) for each in schema["enum"])
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None or high is not None:
        text += f", {'' if low is None else low}..{'' if high is None else high}"
    if schema.get("_required_"):
        return f"{text}, required"
    return f"{text}, default {as_json(schema['default'], None)}" if "default" in schema else text
