import copy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from support.rpc_api import ROOT, event, method, param, service

from middlewared.auth.identity import Credential
from middlewared.plugin import Call
from middlewared.rpc.registry import Registry, RegistryError
from middlewared.rpc.schemas import SchemaError, read_files

OPTIONS = {
    "type": "object",
    "default": {},
    "properties": {
        "active": {"type": "boolean", "default": True, "description": "D"},
        "deep": {
            "type": ["object", "null"],
            "description": "D",
            "required": ["x"],
            "properties": {"x": {"type": "array", "items": {"type": "string"}, "description": "D"}},
        },
    },
}

DOCUMENT: dict[str, Any] = {
    "services": [
        service("failover", "config"),
        service("hidden", private=True),
        service("api", cli_private=True),
    ],
    "methods": [
        method(
            "failover.control",
            [param("action", {"type": "string", "enum": ["ENABLE"]}), param("options", OPTIONS, required=False)],
            {"type": "boolean"},
            roles=["FAILOVER_WRITE"],
        ),
        method("failover.config", result={"$ref": "common.json#/$defs/config"}, roles=["FAILOVER_READ"]),
        method("failover.list", result={"type": "array", "items": OPTIONS}, filterable=True, auth="login"),
        method("failover.sync", void=True, job=True),
        method("failover.inner", private=True),
        method("hidden.ping", auth="none"),
        method("api.ping", auth="none"),
    ],
    "events": [event("failover.status", roles=["FAILOVER_READ"]), event("failover.inside", private=True)],
}
COMMON = {"$defs": {"config": {"type": "object", "properties": {"id": {"type": "integer", "description": "D"}}}}}
READER = Credential("LOGIN_PASSWORD", "reader", frozenset({"FAILOVER_READ"}))


def build(document: dict[str, Any] = DOCUMENT) -> Registry:
    return Registry({"common.json": COMMON, "failover.json": document})


def test_the_project_s_own_schemas_load() -> None:
    assert "core.ping" in Registry.load().methods


def test_services_by_target() -> None:
    registry = build()
    assert registry.get_services("CLI") == {
        "failover": {
            "type": "config",
            "config": {
                "namespace": "failover",
                "cli_namespace": "system.failover",
                "cli_description": None,
                "private": False,
                "cli_private": False,
                "verbose_name": "failover",
                "datastore": None,
            },
        }
    }
    assert set(registry.get_services("WS")) == {"failover", "api"}


def test_methods_by_target_service_and_permission() -> None:
    registry = build()
    assert set(registry.get_methods(None, "CLI", ROOT)) == {
        f"failover.{n}" for n in ("control", "config", "list", "sync")
    }
    assert "api.ping" in registry.get_methods(None, "WS", ROOT)
    assert set(registry.get_methods("failover", "CLI", READER)) == {"failover.config", "failover.list"}
    assert set(registry.get_methods("api", "WS", None)) == {"api.ping"}
    assert set(registry.get_events(READER)) == {"failover.status"}


def test_every_listed_method_belongs_to_a_listed_service() -> None:
    for registry in (build(), Registry.load()):
        for target in ("CLI", "WS", "REST"):
            services = registry.get_services(target)
            assert all(name.rpartition(".")[0] in services for name in registry.get_methods(None, target, ROOT))


def test_a_method_as_the_cli_wants_it() -> None:
    methods = build().get_methods(None, "CLI", ROOT)
    entry = methods["failover.control"]
    assert entry["accepts"] == [
        {
            "_name_": "action",
            "title": "action",
            "_required_": True,
            "type": "string",
            "enum": ["ENABLE"],
            "description": "D",
        },
        {
            "_name_": "options",
            "title": "options",
            "_required_": False,
            "type": "object",
            "default": {},
            "description": "D",
            "_attrs_order_": ["active", "deep"],
            "properties": {
                "active": {
                    "_name_": "active",
                    "title": "active",
                    "_required_": False,
                    "type": "boolean",
                    "default": True,
                    "description": "D",
                },
                "deep": {
                    "_name_": "deep",
                    "title": "deep",
                    "_required_": False,
                    "description": "D",
                    "type": ["object", "null"],
                    "required": ["x"],
                    "_attrs_order_": ["x"],
                    "properties": {
                        "x": {
                            "_name_": "x",
                            "title": "x",
                            "_required_": True,
                            "description": "D",
                            "type": "array",
                            "items": [{"_name_": "x", "title": "x", "_required_": False, "type": "string"}],
                        }
                    },
                },
            },
        },
    ]
    assert {key: entry[key] for key in ("description", "cli_description", "examples", "filterable", "job")} == {
        "description": "D",
        "cli_description": "S",
        "examples": {},
        "filterable": False,
        "job": False,
    }
    assert entry["returns"] == [{"type": "boolean", "title": "result", "_name_": "result", "_required_": True}]
    assert methods["failover.sync"]["returns"] == []
    assert methods["failover.list"]["filterable_schema"]["_attrs_order_"] == ["active", "deep"]


def test_columns_may_be_named() -> None:
    document = copy.deepcopy(DOCUMENT)
    document["methods"][2]["x-columns"] = ["b", "a"]
    entry = build(document).get_methods(None, "CLI", ROOT)["failover.list"]
    assert entry["filterable_schema"]["_attrs_order_"] == ["b", "a"]


def test_openrpc_names_public_methods_and_holds_no_references() -> None:
    for registry in (build(), Registry.load()):
        document = registry.openrpc
        assert document["openrpc"].startswith("1.3")
        names = [entry["name"] for entry in document["methods"]]
        assert len(names) == len(set(names))
        assert not {"failover.inner", "hidden.ping"} & set(names)
        assert "$ref" not in registry.openrpc_text.decode()
        for entry in document["methods"]:
            assert {"name", "params", "result"} <= entry.keys()
            for item in [*entry["params"], entry["result"]]:
                jsonschema.Draft202012Validator.check_schema(item["schema"])


async def test_handlers_and_schemas_must_match_one_to_one() -> None:
    registry = build()

    async def handler(call: Call) -> None: ...

    with pytest.raises(RegistryError, match=r"failover\.unknown"):
        registry.bind("failover.unknown", handler)
    registry.bind("failover.sync", handler)
    with pytest.raises(RegistryError, match=r"failover\.sync: bound twice"):
        registry.bind("failover.sync", handler)
    with pytest.raises(RegistryError, match=r"(?s)api\.ping.*failover\.control.*hidden\.ping"):
        registry.check_complete()


def broken(change: str) -> dict[str, Any]:
    document = copy.deepcopy(DOCUMENT)
    scope = {"d": document, "m": document["methods"][0], "s": document["services"][0], "method": method, "param": param}
    exec(change, scope)
    return document


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("del m['summary']", r"failover.json: failover.control: no summary"),
        ("m['description'] = ' '", r"failover.json: failover.control: no description"),
        ("del m['result']", r"failover.json: failover.control: no result schema"),
        ("m['examples'] = []", r"failover.json: failover.control: no examples"),
        ("m['x-rolls'] = []", r"failover.json: failover.control: unknown member 'x-rolls'"),
        ("m['x-job'] = 'yes'", r"x-job must be true or false"),
        ("m['x-job-lock'] = 'a'", r"only a job may have x-job-lock"),
        ("m['x-auth'] = 'all'", r"x-auth must be"),
        ("m['x-roles'] = 'A'", r"x-roles must be"),
        ("m['x-secret'] = ['other.x']", r"x-secret 'other.x' names no parameter"),
        ("m['x-danger'] = 'boom'", r"x-danger must be an object"),
        ("m['x-danger'] = {'text': ''}", r"x-danger: no text"),
        ("m['x-danger'] = {'text': 'T', 'if': {}}", r"x-danger: unknown member 'if'"),
        ("m['x-danger'] = {'text': 'T', 'when': {'other.x': 1}}", r"x-danger: when 'other.x' names no parameter"),
        ("m['x-danger'] = {'text': 'T', 'rehearsal': 'no.such'}", r"x-danger: no schema describes the rehearsal"),
        ("del m['params'][0]['description']", r"param action: no description"),
        ("m['params'][0]['descripton'] = ''", r"param action: unknown member 'descripton'"),
        ("m['params'].append(param('late', {}))", r"param late: a required parameter follows an optional one"),
        ("del m['params'][0]['schema']", r"param action: needs a name and a schema"),
        ("m['params'][0]['schema']['type'] = 'strin'", r"param action: not a JSON Schema"),
        (
            "del m['params'][1]['schema']['properties']['deep']['properties']['x']['description']",
            "description of deep.x",
        ),
        ("m['result']['schema'] = {'$ref': 'common.json#/$defs/nothing'}", r"\$ref"),
        ("m['result']['schema'] = {'$ref': '#/x'}", r"only common.json"),
        ("m['x-filterable'] = True", r"declares no params"),
        ("d['methods'].append(m)", r"failover.control: declared twice"),
        ("d['methods'].append(method('other.x'))", r"no file declares the service 'other'"),
        ("d['methods'].append({})", r"an entry has no 'name'"),
        ("d['services'].append({**s, 'namespace': 'failover.control'})", r"a service has the same name"),
        ("s['type'] = 'cruds'", r"type must be"),
        ("s['cli_namespace'] = None", r"service failover: no cli_namespace"),
        ("s['privat'] = True", r"unknown member 'privat'"),
        ("d['event'] = []", r"failover.json: unknown member 'event'"),
        ("del d['events'][0]['description']", r"event failover.status: no description"),
    ],
)
def test_mistakes_are_named(change: str, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        build(broken(change))


def test_references_in_a_circle_are_refused() -> None:
    common = {"$defs": {"config": {"properties": {"a": {"$ref": "common.json#/$defs/config", "description": "D"}}}}}
    with pytest.raises(SchemaError, match="refers to itself"):
        Registry({"common.json": common, "failover.json": DOCUMENT})


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    assert issubclass(SchemaError, RegistryError)  # the daemon reports both alike
    with pytest.raises(SchemaError, match="no schema files"):
        read_files(tmp_path)
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(SchemaError, match=r"bad\.json"):
        read_files(tmp_path)
