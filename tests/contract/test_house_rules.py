"""The rules of the house that ruff and import-linter do not know. A failure names the place and the remedy."""

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 70

# Decisions without a clock, a socket or chance: what they need arrives as an argument.
PURE = [
    "plugins/failover/engine.py",
    "plugins/failover/state.py",
    "plugins/failover/events.py",
    "plugins/failover/actions.py",
    "plugins/failover/reasons.py",
    "plugins/failover/status.py",
    "plugins/failover/election.py",
    "plugins/failover/facts.py",
    "plugins/failover/evidence.py",
    "plugins/failover/passage.py",
    "plugins/failover/wire.py",
    "plugins/fencing/logic.py",
    "plugins/fencing/nvme_pr.py",
    "plugins/fencing/rehearsal.py",
    "plugins/fencing/scsi_pr.py",
    "plugins/interface/config.py",
    "plugins/pool/keys.py",
    "plugins/pool/listing.py",
    "plugins/interface/generations.py",
    "plugins/interface/links.py",
    "plugins/interface/netlink_table.py",
    "plugins/interface/plan.py",
    "plugins/interface/rows.py",
    "plugins/interface/rules.py",
    "plugins/platform/hardware.py",
    "middlewared/auth/scram.py",
    "middlewared/errors.py",
    "middlewared/extjson.py",
    "middlewared/invariants.py",
    "middlewared/lab/links.py",
    "middlewared/lab/reservations.py",
    "middlewared/licence/document.py",
    "middlewared/lab/vrrp.py",
    "middlewared/peer/codec.py",
    "middlewared/peer/extended.py",
    "middlewared/ports.py",
    "middlewared/rpc/introspection.py",
    "middlewared/rpc/query.py",
    "middlewared/rpc/validation.py",
    "middlewared/store/lineage.py",
]
IMPURE = {"asyncio", "time", "random", "secrets", "os", "socket", "subprocess", "threading", "logging"}

# Dotted name -> what to use in its place.
BANNED = {
    "asyncio.get_event_loop": "asyncio.get_running_loop()",
    "datetime.datetime.utcnow": "datetime.now(UTC)",
    "datetime.datetime.utcfromtimestamp": "datetime.fromtimestamp(seconds, UTC)",
    "os.system": "subprocess, with a list of arguments and a time limit",
    "requests": "aiohttp, or middlewared.client",
    "time.sleep": "asyncio.sleep, or better an event to wait for",
}
# Where a banned thing is right after all, and why.
ALLOWED = {
    ("middlewared/lab/commands.py", "time.sleep"): "a command without an event loop, waiting for a lock file",
    ("middlewared/lab/vm/witness.py", "time.sleep"): "an onlooker without an event loop, at a steady pace",
}

# Programs that speak to a human on standard output. Last words on standard error are anybody's right.
MAY_PRINT = (
    "middlewared/cli/",
    "middlewared/lab/",
    "middlewared/doctor/commands.py",
    "middlewared/licensing.py",
    "middlewared/pairing.py",
    "middlewared/__main__.py",
    "scripts/",
)

MARKERS = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"]) + r")\b")
# "noqa" and "type: ignore" name the rule, and say why: two spaces or another "#" before the reason.
WAIVER = re.compile(r"#\s*(?:noqa|type:\s*ignore)(?P<rule>:\s*[A-Z0-9, ]*[A-Z0-9]|\[[a-z-, ]+\])?(?P<reason>.*)$")


def python_files(*, tests: bool = True) -> list[Path]:
    """Ours, each once: middlewared/plugins and middlewared/schemas are links to the real folders."""
    folders = ["middlewared", "plugins", "scripts", *(["tests"] if tests else [])]
    found = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return sorted(path for path in found if not path.relative_to(ROOT).as_posix().startswith("middlewared/plugins/"))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def shown(path: Path, line: int = 0) -> str:
    return path.relative_to(ROOT).as_posix() + (f":{line}" if line else "")


def imported(module: ast.Module) -> Iterator[tuple[str, str, int]]:
    """(local name, dotted name it stands for, line) of every import."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            for alias in node.names:
                whole = alias.name if alias.asname else alias.name.split(".")[0]
                yield alias.asname or whole, whole, node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}", node.lineno


def dotted(node: ast.AST, names: dict[str, str]) -> str:
    """`t.sleep` after `import time as t` is time.sleep; empty for what is not a plain chain of names."""
    if isinstance(node, ast.Name):
        return names.get(node.id, "")
    if isinstance(node, ast.Attribute):
        owner = dotted(node.value, names)
        return f"{owner}.{node.attr}" if owner else ""
    return ""


def banned_uses(path: Path) -> Iterator[tuple[str, int]]:
    """(banned name, line): of imports, and of uses through whatever alias."""
    names: dict[str, str] = {}
    for local, whole, line in imported(tree(path)):
        names[local] = whole
        root = whole.split(".")[0]
        if root in BANNED or whole in BANNED:
            yield (root if root in BANNED else whole), line
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and (name := dotted(node, names)) in BANNED:
            yield name, node.lineno


def test_files_are_short() -> None:
    long = {
        shown(path): count for path in python_files() if (count := len(path.read_text().splitlines())) > FILE_LINES_MAX
    }
    assert long == {}, f"split them: {FILE_LINES_MAX} lines are enough for one subject"


def test_functions_are_short() -> None:
    long = {
        f"{shown(path, node.lineno)} {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in python_files()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > FUNCTION_LINES_MAX
    }
    assert long == {}, f"give the parts names: a function has at most {FUNCTION_LINES_MAX} lines"


def test_nothing_is_left_for_later() -> None:
    patterns = ["*.md", "Makefile", "Dockerfile", "*.toml", "docs/*.md", "schemas/*.json", ".ci/*", "packaging/**/*.*"]
    files = python_files() + [path for pattern in patterns for path in ROOT.glob(pattern)]
    left = [
        shown(path, number)
        for path in files
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if MARKERS.search(line)
    ]
    assert left == [], "do it, or write an issue"


def test_modules_say_what_they_are_for() -> None:
    silent = [shown(path) for path in python_files(tests=False) if not ast.get_docstring(tree(path))]
    assert silent == [], "begin with a docstring"


def test_packages_are_marked() -> None:
    unmarked = {
        shown(path.parent)
        for path in python_files(tests=False)
        if not path.is_relative_to(ROOT / "scripts") and not (path.parent / "__init__.py").exists()
    }
    assert unmarked == set(), "add __init__.py: setuptools leaves the folder out without it"


def test_imports_are_absolute() -> None:
    relative = [
        shown(path, node.lineno)
        for path in python_files()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert relative == [], "write from middlewared.x import y"


def test_plugins_go_by_one_name() -> None:
    wrong = [
        shown(path, line)
        for path in python_files()
        for _, whole, line in imported(tree(path))
        if whole.split(".")[0] == "plugins"
    ]
    assert wrong == [], "import middlewared.plugins.x"


@pytest.mark.parametrize("path", [path for path in PURE if (ROOT / path).exists()])
def test_pure_modules_stay_pure(path: str) -> None:
    found = sorted({whole.split(".")[0] for _, whole, _ in imported(tree(ROOT / path))} & IMPURE)
    assert found == [], "let the caller pass in what comes from outside"


def test_the_list_of_pure_modules_is_true() -> None:
    assert [path for path in PURE if not (ROOT / path).exists()] == []
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    [linted] = [
        contract["source_modules"] for contract in contracts if contract["name"] == "the failover engine is pure"
    ]
    engine = [f"middlewared.{path[:-3].replace('/', '.')}" for path in PURE if path.startswith("plugins/failover/")]
    assert sorted(linted) == sorted(engine), "import-linter also follows what these import: keep both lists"


def test_only_programs_print() -> None:
    printing = [
        shown(path, node.lineno)
        for path in python_files(tests=False)
        if not shown(path).startswith(MAY_PRINT)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        if not any(keyword.arg == "file" for keyword in node.keywords)
    ]
    assert printing == [], "use logging: a daemon's standard output belongs to nobody"


def test_assert_is_for_tests() -> None:
    asserting = [
        shown(path, node.lineno)
        for path in python_files(tests=False)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Assert)
    ]
    assert asserting == [], "use invariants.invariant: python -O strips assert"


def test_banned_things_are_not_used() -> None:
    found = [
        f"{shown(path, line)}: {name}; use {BANNED[name]}"
        for path in python_files(tests=False)
        for name, line in banned_uses(path)
        if (shown(path), name) not in ALLOWED
    ]
    assert found == []


def test_exceptions_from_the_ban_are_needed() -> None:
    used = {(shown(path), name) for path in python_files(tests=False) for name, _ in banned_uses(path)}
    assert sorted(ALLOWED.keys() - used) == []


def test_names_are_loaded_in_one_place() -> None:
    """import-linter cannot see what importlib brings in."""
    allowed = {"middlewared/loader.py", "middlewared/systemd.py"}
    found = {
        shown(path)
        for path in python_files(tests=False)
        for _, whole, _ in imported(tree(path))
        if whole.split(".")[0] == "importlib"
    }
    assert found - allowed == set(), "import it by an import statement"


def test_waivers_give_a_reason() -> None:
    bare = [
        f"{shown(path, number)}: {line.strip()}"
        for path in python_files()
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if (waiver := WAIVER.search(line)) and not (waiver["rule"] and waiver["reason"].strip(" #"))
    ]
    assert bare == [], "name the rule and say why: # noqa: X123  because ..."
