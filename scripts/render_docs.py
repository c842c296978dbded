"""Render docs/: api.md from schemas/, reasons.md from the table of reasons, engine.md from a walk of the engine.

And packaging/: the completion of the command line, and its manual pages, from schemas/.

A contract test checks that they are fresh.
"""

import itertools
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cli_pages
import engine_docs

from middlewared.auth.identity import ROLES
from middlewared.plugins.failover.reasons import TABLE, Concerns
from middlewared.rpc.registry import Registry
from middlewared.rpc.schemas import EventSpec, MethodSpec, ServiceSpec

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PACKAGING = ROOT / "packaging"

HEADER = """\
# API reference

Made from `schemas/` by `make docs`; do not edit. The same schemas validate every call, and are served by a running
daemon as an OpenRPC document: `rpc.discover`, or `GET /openrpc.json`.

A call travels as JSON-RPC 2.0 over a websocket at `/api/current`, with positional parameters. **Roles**: any one of
those named suffices; FULL_ADMIN may call everything, READONLY_ADMIN whatever needs a role that ends in `_READ`.
A **job** answers with its number at once and tells its progress through the event `core.get_jobs`. A **query** method
takes filters and options: `[["name", "=", "x"]]`, `{"select": [...], "order_by": [...], "limit": 10, "get": true}`.
"""


REASONS_HEADER = """\
# Why failover would not work

Made from `plugins/failover/reasons.py` by `make docs`; do not edit. `midctl system failover disabled reasons` lists the
codes that hold now; the list is empty if and only if the other controller would take over were the MASTER to die now.
LOC is the controller that answers, REM the other one. While a failover runs on a controller, its LOC_FAILOVER_ONGOING
stands alone among its own reasons.

| code | seen on | means | do |
| --- | --- | --- | --- |
"""
_SEEN_ON = {Concerns.THIS: "the one concerned", Concerns.OTHER: "the other", Concerns.BOTH: "both"}


def documents() -> dict[Path, str]:
    """All generated documentation: what each file should hold."""
    registry = Registry.load()
    return {
        DOCS / "api.md": render(registry),
        **command_line(registry),
        DOCS / "reasons.md": render_reasons(),
        DOCS / "scenarios.md": render_scenarios(),
        DOCS / "engine.md": engine_docs.render(),
    }


def command_line(registry: Registry) -> dict[Path, str]:
    root = cli_pages.tree(registry)
    found = cli_pages.places(root)
    return {
        PACKAGING / "completion" / "bash" / "midctl": cli_pages.bash(found),
        PACKAGING / "completion" / "zsh" / "_midctl": cli_pages.zsh(found),
        PACKAGING / "completion" / "fish" / "midctl.fish": cli_pages.fish(found),
        **{PACKAGING / "man" / name: text for name, text in cli_pages.pages(root).items()},
    }


SCENARIOS_HEADER = """\
# What happens when

Made from `tests/scenarios` by `make docs`; do not edit. Each transcript is what two controllers really did in the
simulator, to the millisecond: commands after `>`, then what happened on A and B. `make test` plays all of them again.

"""


def render_scenarios() -> str:
    """A line for each transcript: its sentence, linked."""
    rows = []
    for path in sorted((ROOT / "tests" / "scenarios").glob("*.txt")):
        lines = path.read_text().splitlines()
        head = " ".join(
            line.removeprefix("#").strip() for line in itertools.takewhile(lambda x: x.startswith("#"), lines)
        )
        rows.append(f"- [{path.stem}](../tests/scenarios/{path.name}): {head}\n")
    return SCENARIOS_HEADER + "".join(rows)


def render_reasons() -> str:
    rows = [f"| `{row.code}` | {_SEEN_ON[row.concerns]} | {row.description} | {row.remedy} |\n" for row in TABLE]
    return REASONS_HEADER + "".join(rows)


def render(registry: Registry) -> str:
    services = sorted(registry.services.values(), key=lambda service: service.namespace)
    parts = [HEADER, _contents(services)]
    for service in services:
        parts.append(_service(service))
        methods = [method for method in registry.methods.values() if method.namespace == service.namespace]
        parts += [_method(method, service) for method in sorted(methods, key=lambda method: method.name)]
    parts.append("## Events\n")
    parts += [_event(event) for event in sorted(registry.events.values(), key=lambda event: event.name)]
    parts.append("## Roles\n\n| role | allows to |\n| --- | --- |\n")
    parts[-1] += "".join(f"| {role} | {meaning} |\n" for role, meaning in ROLES.items())
    return "\n".join(parts)


def _contents(services: list[ServiceSpec]) -> str:
    names = [*(service.namespace for service in services), "Events", "Roles"]
    return " · ".join(f"[{name}](#{name.lower().replace('.', '')})" for name in names) + "\n"


def _service(service: ServiceSpec) -> str:
    about = f"{service.cli_description}. " if service.cli_description else ""
    command_line = "" if service.private or service.cli_private else f"On the command line: `{service.cli_namespace}`."
    return f"## {service.namespace}\n\n{about}{command_line}".rstrip() + "\n"


def _method(method: MethodSpec, service: ServiceSpec) -> str:
    spec = method.spec
    lines = [f"### {method.name}", "", spec["summary"], ""]
    if spec["description"] != spec["summary"]:
        lines += [spec["description"], ""]
    lines += [" · ".join(_traits(method)), ""]
    if danger := spec.get("x-danger"):
        when = " and ".join(f"`{path}` {_compact(value)}" for path, value in danger.get("when", {}).items())
        lines += [f"The command line asks first{f' (with {when})' if when else ''}: {danger['text']}", ""]
    if method.params and not method.filterable:
        lines += ["Parameters:", ""]
        for param in method.params:
            lines += _member(param.name, param.schema, required=param.required, depth=0)
        lines.append("")
    result = spec["result"]
    lines += ["Result:", "", *_member("", result["schema"], required=True, depth=0), ""]
    example = spec["examples"][0]
    call = {"method": method.name, "params": [param["value"] for param in example["params"]]}
    lines += ["```json", _compact(call), _compact({"result": example["result"]["value"]}), "```", ""]
    if spec.get("x-cli-examples") and not (service.private or service.cli_private or method.private):
        lines += ["```text", *spec["x-cli-examples"], "```", ""]
    return "\n".join(lines)


def _traits(method: MethodSpec) -> Iterator[str]:
    if method.auth == "none":
        yield "no login needed"
    elif method.auth == "login":
        yield "any login"
    else:
        yield f"roles: {', '.join(method.roles) or 'FULL_ADMIN'}"
    if method.job:
        yield "job"
    if method.filterable:
        yield "query"
    for flag, words in {"uploadable": "takes an upload", "downloadable": "gives a download"}.items():
        if method.flag(flag):
            yield words
    if method.private:
        yield "not listed"


def _member(name: str, schema: Mapping[str, Any], *, required: bool, depth: int) -> Iterator[str]:
    """One line for a value, and indented ones for what it consists of."""
    words = [_kind(schema), *_bounds(schema)]
    if name and not required:
        words.append("optional")
    if "default" in schema:
        words.append(f"default `{_compact(schema['default'])}`")
    label = f"`{name}` " if name else ""
    text = schema.get("description", "")
    yield f"{'  ' * depth}- {label}({', '.join(words)}){': ' if text else ''}{text}"
    for inner in (schema, schema.get("items", {})):
        for key, value in inner.get("properties", {}).items():
            yield from _member(key, value, required=key in inner.get("required", ()), depth=depth + 1)
    for branch in [*schema.get("anyOf", ()), *schema.get("oneOf", ())]:
        yield from _member("", branch, required=True, depth=depth + 1)


def _kind(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return " | ".join(f"`{_compact(value)}`" for value in schema["enum"])
    if "anyOf" in schema or "oneOf" in schema:
        return "one of"
    kinds = schema.get("type", "anything")
    kind = " or ".join([kinds] if isinstance(kinds, str) else kinds)
    item = schema.get("items", {}).get("type")
    return f"{kind} of {item}" if item and isinstance(item, str) else kind


def _bounds(schema: Mapping[str, Any]) -> Iterator[str]:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None or high is not None:
        yield f"{'' if low is None else low}..{'' if high is None else high}"
    for key, words in {"maxLength": "at most {} characters", "maxItems": "at most {} items"}.items():
        if key in schema:
            yield words.format(schema[key])


def _event(event: EventSpec) -> str:
    access = "any login" if event.auth == "login" else f"roles: {', '.join(event.roles) or 'FULL_ADMIN'}"
    lines = [f"### {event.name} (event)", "", event.description, "", access, "", "Fields:", ""]
    return "\n".join([*lines, *_member("", event.schema, required=True, depth=0), ""])


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def main() -> int:
    DOCS.mkdir(exist_ok=True)
    for path, text in documents().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        print(f"docs: wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
