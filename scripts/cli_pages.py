"""Completion for bash, zsh and fish, and manual pages: made from the same schemas that the running shell asks for."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from middlewared.auth.identity import INTERNAL
from middlewared.cli import hactl, usage
from middlewared.cli.arguments import Schema, properties_of, synopsis, typed
from middlewared.cli.commands import Command, Namespace, build
from middlewared.cli.dangers import described
from middlewared.rpc.registry import Registry

HEADER = "made from schemas/ by `make docs`; do not edit"
OWN = {
    "call": "call a method of the API by its name",
    "subscribe": "print events",
    "watch": "both controllers on the whole screen, live",
    "help": "what there is, and how to use it",
}


class Places(NamedTuple):
    """What may follow: `words` after a namespace, `names` after a command, `values` after `COMMAND NAME=`."""

    words: dict[str, dict[str, str]]
    names: dict[str, dict[str, str]]
    values: dict[tuple[str, str], list[str]]


def tree(registry: Registry) -> Namespace:
    """All public commands, as somebody sees them who may do everything."""
    return build(registry.get_services("CLI"), registry.get_methods(None, "CLI", INTERNAL))


def places(root: Namespace) -> Places:
    found = Places({}, {}, {})
    for node in (root, *root.descendants()):
        if isinstance(node, Namespace):
            words = {name: child.summary for name, child in sorted(node.children.items())}
            found.words[node.path] = words if node.words else {**words, **OWN}
            continue
        found.names[node.path] = {}
        for schema in typed(node):
            found.names[node.path][schema["_name_"]] = schema.get("description") or ""
            kinds = schema.get("type") or []
            values = ["true", "false"] if "boolean" in ([kinds] if isinstance(kinds, str) else kinds) else []
            values += [str(each) for each in schema.get("enum") or [] if each is not None]
            if values:
                found.values[node.path, schema["_name_"]] = values
    return found


def _options() -> list[str]:
    return sorted([*usage.VALUED, *usage.FLAGS, "--json"])


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


# ------------------------------------------------------------------------------------------------- completion


def bash(found: Places) -> str:
    words = _cases((path, " ".join(names)) for path, names in found.words.items())
    names = _cases((path, " ".join(f"{name}=" for name in names)) for path, names in found.names.items() if names)
    values = _cases((f"{path} {name}", " ".join(each)) for (path, name), each in found.values.items())
    return f"""\
# bash completion of midctl; {HEADER}

_midctl_words() {{
    case "$1" in
{words}        *) return 1 ;;
    esac
}}

_midctl_names() {{
    case "$1" in
{names}    esac
}}

_midctl_values() {{
    case "$1" in
{values}    esac
}}

_midctl() {{
    local line=${{COMP_LINE:0:COMP_POINT}} path='' word words current candidates
    read -ra words <<<"$line"
    if [[ $line == *[[:space:]] ]]; then
        current=''
    else
        current=${{words[-1]}}
        unset 'words[-1]'
    fi
    for word in "${{words[@]:1}}"; do
        [[ $word == -* || $word == *=* ]] || path="${{path:+$path }}$word"
    done
    COMPREPLY=()
    if [[ $current == --* ]]; then
        candidates='{" ".join(_options())}'
    elif candidates=$(_midctl_words "$path"); then
        :
    elif [[ $current == *=* ]]; then
        candidates=$(_midctl_values "$path ${{current%%=*}}")
        current=${{current#*=}}
    else
        candidates=$(_midctl_names "$path")
        compopt -o nospace 2>/dev/null
    fi
    mapfile -t COMPREPLY < <(compgen -W "$candidates" -- "$current")
}}

complete -F _midctl midctl
"""


def _cases(rows: Iterator[tuple[str, str]]) -> str:
    return "".join(f"        {_quoted(path)}) echo {_quoted(text)} ;;\n" for path, text in rows)


def zsh(found: Places) -> str:
    def described(rows: dict[str, str], end: str = "") -> str:
        return " ".join(
            _quoted(f"{name}{end}" + (f":{_short(about)}" if about else "")) for name, about in rows.items()
        )

    words = "".join(
        f"        {_quoted(path)}) candidates=({described(names)}) ;;\n" for path, names in found.words.items()
    )
    names = "".join(
        f"        {_quoted(path)}) candidates=({described(names)}) ;;\n" for path, names in found.names.items() if names
    )
    values = "".join(
        f"        {_quoted(f'{path} {name}')}) candidates=({' '.join(map(_quoted, each))}) ;;\n"
        for (path, name), each in found.values.items()
    )
    return f"""\
#compdef midctl
# zsh completion of midctl; {HEADER}

_midctl() {{
    local word where=''
    local -a candidates
    for word in "${{(@)words[2,CURRENT-1]}}"; do
        [[ $word == -* || $word == *=* ]] || where="${{where:+$where }}$word"
    done
    if [[ $PREFIX == --* ]]; then
        compadd -- {" ".join(_options())}
        return
    fi
    case "$where" in
{words}    esac
    if (( $#candidates )); then
        _describe command candidates
        return
    fi
    if [[ $PREFIX == *=* ]]; then
        case "$where ${{PREFIX%%=*}}" in
{values}        esac
        compset -P '*='
        compadd -a candidates
        return
    fi
    case "$where" in
{names}    esac
    _describe argument candidates -S '='
}}

_midctl "$@"
"""


def fish(found: Places) -> str:
    def lines(rows: dict[str, str], end: str = "") -> str:
        return " ".join(_fish(f"{name}{end}" + (f"\t{_short(about)}" if about else "")) for name, about in rows.items())

    cases = "".join(
        f"        case {_fish(path)}\n            printf '%s\\n' {lines(names)}\n"
        for path, names in found.words.items()
    )
    for path, names in found.names.items():
        cases += f"        case {_fish(path)}\n            switch $current\n"
        for (owner, name), each in found.values.items():
            if owner == path:
                rows = " ".join(_fish(f"{name}={value}") for value in each)
                cases += f"                case {_fish(name + '=*')}\n                    printf '%s\\n' {rows}\n"
        rows = lines(names, "=")
        printed = f"                    printf '%s\\n' {rows}\n" if rows else "                    true\n"
        cases += f"                case '*'\n{printed}            end\n"
    return f"""\
# fish completion of midctl; {HEADER}

function __midctl_candidates
    set -l current (commandline -ct)
    set -l where
    for word in (commandline -opc)[2..-1]
        string match -qr -- '^-|=' $word; or set -a where $word
    end
    if string match -q -- '--*' $current
        printf '%s\\n' {" ".join(_options())}
        return
    end
    switch "$where"
{cases}    end
end

complete -c midctl -f -a '(__midctl_candidates)'
"""


def _fish(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _short(text: str) -> str:
    """The first sentence, on one line."""
    line = " ".join(text.split())
    return re.split(r"(?<=[.;:])\s", line, maxsplit=1)[0].rstrip(".;:").replace(":", " -")


# ------------------------------------------------------------------------------------------------- manual pages


def pages(root: Namespace) -> dict[str, str]:
    """By file name: one page for each of the two programs, and one for each namespace that has commands."""
    homes = [node for node in root.descendants() if isinstance(node, Namespace)]
    homes = [home for home in homes if any(isinstance(child, Command) for child in home.children.values())]
    others = [f"midctl-{home.path.replace(' ', '-')}" for home in homes]
    program = [
        _title("midctl", "the command line of a pair of storage controllers"),
        ".SH SYNOPSIS\n.B midctl\n[options] [COMMAND...]\n",
        ".SH DESCRIPTION\n.nf\n" + _roff(usage.LONG) + ".fi\n",
        ".SH SEE ALSO\n" + ",\n".join(f"\\fB{_roff(name).strip()}\\fP(1)" for name in ["hactl", *others]) + "\n",
    ]
    found = {"midctl.1": "".join(program), "hactl.1": _small_page()}
    for home, name in zip(homes, others, strict=True):
        found[f"{name}.1"] = _namespace_page(home, name)
    return found


def _small_page() -> str:
    return "".join(
        [
            _title("hactl", "whether a pair of storage controllers is healthy, in four lines"),
            ".SH SYNOPSIS\n.B hactl\n[status|enable|disable] [\\-q]\n",
            ".SH DESCRIPTION\nIt speaks to the daemon of this machine, over its unix socket.\n",
            ".PP\n.nf\n" + _roff(hactl.HELP) + ".fi\n",
            ".SH SEE ALSO\n.BR midctl (1)\n",
        ]
    )


def _title(name: str, about: str) -> str:
    return f'.\\" {HEADER}\n.TH {name.upper()} 1 "" middlewared\n.SH NAME\n{_roff(name).strip()} \\- {_roff(about)}'


def _namespace_page(home: Namespace, name: str) -> str:
    commands = [child for _, child in sorted(home.children.items()) if isinstance(child, Command)]
    parts = [_title(name, home.summary or f"commands of {home.path}"), ".SH COMMANDS\n"]
    for command in commands:
        parts.append(f".SS {_roff(command.path)}.B midctl {_roff(synopsis(command))}.PP\n")
        parts.append(_roff(command.entry["description"]))
        if asks := described(command):
            parts.append(f".PP\n{_roff(asks)}")
        parts += _argument_lines(typed(command))
        for example in (command.entry.get("examples") or {}).get("cli") or []:
            parts.append(f".PP\nExample:\n.B midctl {_roff(example)}")
    parts.append(".SH SEE ALSO\n.BR midctl (1)\n")
    return "".join(parts)


def _argument_lines(schemas: list[Schema]) -> Iterator[str]:
    for schema in schemas:
        about = _roff(schema.get("description") or "") or "\\&\n"
        yield f".TP\n.I {_roff(schema['_name_'])}{about}"
        inner = properties_of(schema)
        if inner:
            yield ".RS\n"
            yield from _argument_lines(inner)
            yield ".RE\n"


def _roff(text: str) -> str:
    """Text as lines of roff: nothing in it is a request or an escape."""
    lines = []
    for line in text.strip("\n").splitlines():
        escaped = line.replace("\\", "\\e").replace("-", "\\-")
        if not escaped.strip():
            escaped = ".PP" if lines and lines[-1] != ".PP" else ""
        elif escaped[0] in ".'":
            escaped = "\\&" + escaped
        if escaped:
            lines.append(escaped)
    return "\n".join(lines) + "\n" if lines else ""
