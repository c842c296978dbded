"""Promises that every schema keeps: it is complete, its examples are true, and code and schema agree."""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from middlewared import loader
from middlewared.auth.identity import READONLY_ADMIN, ROLES, Credential
from middlewared.rpc import query, schemas
from middlewared.rpc.registry import SCHEMA_DIR, Registry
from middlewared.rpc.schemas import EventSpec, MethodSpec
from middlewared.rpc.validation import check_arguments

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = schemas.read_files(SCHEMA_DIR)
REGISTRY = Registry(DOCUMENTS)
METHODS = list(REGISTRY.methods.values())
EVENTS = list(REGISTRY.events.values())

# What stock clients call on their own (PROTOCOL 5.1 and 9.2) and what the administrator's command set needs.
EXPECTED = {
    "core": (
        "ping set_options subscribe unsubscribe get_jobs get_methods get_services job_wait job_abort download bulk"
    ),
    "auth": (
        "login login_ex login_ex_continue login_with_api_key login_with_token mechanism_choices me logout "
        "generate_token"
    ),
    "user": "has_local_administrator_set_up",
    "system": "info version hostname ready boot_id reboot shutdown",
    "system.advanced": "config",
    "system.general": "config get_ui_urls",
    "interface": "query create update delete get_instance commit checkin rollback checkin_waiting has_pending_changes",
    "pool": "query",
    "disk": "query",
    "service": "query control",
    "alert": "list dismiss",
    "audit": "query",
    "rpc": "discover",
    "failover": (
        "config update control disabled_reasons force_master get_ips hardware in_progress licensed node status "
        "status_refresh sync_from_peer sync_to_peer become_passive upgrade_pending upgrade_finish call_remote"
    ),
    "failover.disabled": "reasons",
    "failover.reboot": "info",
}


def name_of(spec: MethodSpec | EventSpec) -> str:
    return spec.name


def properties(schema: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every property in a schema, however deep, with its dotted path."""
    if isinstance(schema, list):
        for item in schema:
            yield from properties(item, path)
    if not isinstance(schema, dict):
        return
    for name, inner in schema.get("properties", {}).items():
        yield f"{path}.{name}", inner
        yield from properties(inner, f"{path}.{name}")
    for key in ("items", "additionalProperties", "anyOf", "oneOf", "allOf"):
        yield from properties(schema.get(key), path)


def test_nothing_that_clients_rely_on_is_missing() -> None:
    expected = {f"{namespace}.{verb}" for namespace, verbs in EXPECTED.items() for verb in verbs.split()}
    assert sorted(expected - REGISTRY.methods.keys()) == []


@pytest.mark.parametrize("method", METHODS, ids=name_of)
def test_method_is_described(method: MethodSpec) -> None:
    spec = method.spec
    assert spec["summary"].endswith("."), "the summary is one sentence"
    assert len(spec["summary"]) <= 80, "`ls` shows the summary in one line"
    assert spec["description"].strip()
    for param in method.params:
        assert param.schema.get("description"), param.name
        assert [path for path, inner in properties(param.schema, param.name) if not inner.get("description")] == []
    result = spec["result"]["schema"]
    assert [path for path, inner in properties(result, "result") if not inner.get("description")] == []


@pytest.mark.parametrize("method", METHODS, ids=name_of)
def test_examples_are_true(method: MethodSpec) -> None:
    names = [param.name for param in method.params]
    for example in method.spec["examples"]:
        given = [param["name"] for param in example["params"]]
        assert given == names[: len(given)], "parameters are positional: in order, without gaps"
        arguments = [param["value"] for param in example["params"]]
        check_arguments(method.params, arguments)
        jsonschema.validate(example["result"]["value"], method.spec["result"]["schema"])


@pytest.mark.parametrize("method", METHODS, ids=name_of)
def test_cli_examples_are_this_command(method: MethodSpec) -> None:
    service = REGISTRY.services[method.namespace]
    command = f"{service.cli_namespace} {method.name.rpartition('.')[2]}".replace(
        ".", " ", service.cli_namespace.count(".")
    )
    for example in method.spec.get("x-cli-examples", []):
        assert f"{example} ".startswith(f"{command} "), f"{example!r} is not the command {command!r}"


@pytest.mark.parametrize("spec", [*METHODS, *EVENTS], ids=name_of)
def test_roles_exist(spec: MethodSpec | EventSpec) -> None:
    assert [role for role in spec.roles if role not in ROLES] == []
    if spec.auth != "roles":
        assert spec.roles == (), "roles count only where x-auth is roles"


@pytest.mark.parametrize("method", [method for method in METHODS if method.audited], ids=name_of)
def test_who_may_only_read_cannot_change(method: MethodSpec) -> None:
    reader = Credential("LOGIN_PASSWORD", "reader", frozenset({READONLY_ADMIN}))
    assert method.auth != "roles" or not reader.may(method.roles)


@pytest.mark.parametrize("event", EVENTS, ids=name_of)
def test_event_is_described(event: EventSpec) -> None:
    assert event.description.endswith(".")
    assert event.schema, "an event says what its fields are"
    assert [path for path, inner in properties(event.schema, "fields") if not inner.get("description")] == []


def test_names_are_unique() -> None:
    """Over all files: the registry refuses doubles, but across files only the first would be seen in a review."""
    names = [method["name"] for document in DOCUMENTS.values() for method in document.get("methods", [])]
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_a_file_holds_the_methods_of_the_services_it_declares() -> None:
    strays = [
        f"{file}: {method['name']}"
        for file, document in DOCUMENTS.items()
        for method in document.get("methods", [])
        if method["name"].rpartition(".")[0] not in [service["namespace"] for service in document["services"]]
    ]
    assert strays == []


def test_no_command_has_the_name_of_a_namespace_beside_it() -> None:
    """The first child of a name wins on the command line, so the other could never be reached (PROTOCOL 9.4)."""
    words: set[str] = set()
    for service in REGISTRY.services.values():
        parts = service.cli_namespace.split(".")
        words |= {".".join(parts[:count]) for count in range(1, len(parts) + 1)}
    commands = {
        f"{REGISTRY.services[method.namespace].cli_namespace}.{method.name.rpartition('.')[2]}" for method in METHODS
    }
    assert sorted(commands & words) == []


@pytest.mark.parametrize("method", METHODS, ids=name_of)
def test_packed_arguments_are_one_object(method: MethodSpec) -> None:
    """The CLI packs all arguments of a config's update, a crud's create and update into one object (PROTOCOL 10.2)."""
    kind, verb = REGISTRY.services[method.namespace].type, method.name.rpartition(".")[2]
    position = {("config", "update"): 0, ("crud", "create"): 0, ("crud", "update"): 1}.get((kind, verb))
    if position is not None:
        schema = method.params[position].schema
        assert schema["type"] == "object"
        assert schema["properties"]


# --------------------------------------------------------------------------------------- schema and code


def handlers() -> Iterator[tuple[str, Any]]:
    for kind in loader._plugin_classes():
        for _, function in inspect.getmembers(kind, inspect.isfunction):
            if hasattr(function, "__api_method__"):
                yield function.__api_method__, function


def test_every_method_has_one_handler_and_every_handler_a_schema() -> None:
    found = [name for name, _ in handlers()]
    assert sorted({name for name in found if found.count(name) > 1}) == [], "bound twice"
    assert sorted(REGISTRY.methods.keys() - set(found)) == [], "schema without handler"
    assert sorted(set(found) - REGISTRY.methods.keys()) == [], "handler without schema"


def test_handlers_take_what_the_schema_declares() -> None:
    wrong = []
    for name, function in handlers():
        taken = list(inspect.signature(function).parameters)[2:]  # after self and call
        declared = [param.name for param in REGISTRY.methods[name].params] if name in REGISTRY.methods else taken
        if len(taken) != len(declared):
            wrong.append(f"{name}: takes {taken}, the schema declares {declared}")
    assert wrong == []


def test_every_event_that_is_emitted_is_declared() -> None:
    """Events are made with a literal name, or with a constant of the module; both are found here."""
    emitted: dict[str, str] = {}
    for path in [*ROOT.glob("middlewared/*.py"), *ROOT.glob("middlewared/*/*.py"), *ROOT.glob("plugins/*/*.py")]:
        tree = ast.parse(path.read_text())
        constants = {
            target.id: node.value.value
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Event" and node.args:
                first = node.args[0]
                name = first.value if isinstance(first, ast.Constant) else constants.get(getattr(first, "id", ""))
                if isinstance(name, str):
                    emitted[name] = str(path.relative_to(ROOT))
    assert emitted, "the search itself must find something"
    assert {name: path for name, path in emitted.items() if name not in REGISTRY.events} == {}


def test_query_methods_publish_columns() -> None:
    """Completion in SELECT and WHERE needs the names of the columns (PROTOCOL 9.4)."""
    entries = {method.name: REGISTRY._entry(method) for method in METHODS if method.filterable}
    assert [name for name, entry in entries.items() if not entry["filterable_schema"]["_attrs_order_"]] == []
    assert {param.name for method in METHODS if method.filterable for param in method.params} == {"filters", "options"}
    assert query.OPTIONS_SCHEMA["properties"]["limit"]["maximum"] == 10_000


def test_where_choices_come_from_exists() -> None:
    """`x-choices` names a method that can be called without arguments, and a column of what it returns."""

    def found(schema: Any, where: str) -> Iterator[tuple[str, dict[str, str]]]:
        if isinstance(schema, dict):
            if "x-choices" in schema:
                yield where, schema["x-choices"]
            for key, inner in schema.items():
                yield from found(inner, f"{where}.{key}")
        elif isinstance(schema, list):
            for inner in schema:
                yield from found(inner, where)

    wrong = []
    for method in METHODS:
        for where, choices in found([param.schema for param in method.params], method.name):
            source = REGISTRY.methods.get(choices["method"])
            if source is None or any(param.required for param in source.params):
                wrong.append(f"{where}: {choices['method']} cannot be asked")
                continue
            result = str(source.spec["result"]["schema"])
            if "column" in choices and f"'{choices['column']}'" not in result:
                wrong.append(f"{where}: {choices['method']} has no column {choices['column']}")
    assert wrong == []


def test_dangerous_commands_are_marked() -> None:
    """The commands that move the role, switch a controller off or failover off: the shell asks before them."""
    marked = {method.name for method in METHODS if method.spec.get("x-danger")}
    assert marked >= {
        "failover.force_master",
        "failover.become_passive",
        "failover.control",
        "failover.update",
        "failover.sync_to_peer",
        "failover.upgrade_finish",
        "system.reboot",
        "system.shutdown",
    }
