"""The API described by itself: for the stock CLI (PROTOCOL 9.3, 9.4) and as an OpenRPC document. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from middlewared.rpc.schemas import EventSpec, MethodSpec, ServiceSpec
from middlewared.rpc.validation import Schema

OPENRPC_VERSION = "1.3.2"


def service_entry(service: ServiceSpec) -> dict[str, Any]:
    return {
        "type": service.type,
        "config": {
            "namespace": service.namespace,
            "cli_namespace": service.cli_namespace,
            "cli_description": service.cli_description,
            "private": service.private,
            "cli_private": service.cli_private,
            "verbose_name": service.namespace,
            "datastore": None,
        },
    }


def _kinds(schema: Schema) -> list[str]:
    kinds = schema.get("type", [])
    return [kinds] if isinstance(kinds, str) else list(kinds)


def cli_schema(schema: Schema, name: str, required: bool) -> dict[str, Any]:
    """A schema with the private members that the CLI's editor cannot do without, at any depth."""
    item: dict[str, Any] = {**schema, "_name_": name, "title": schema.get("title", name), "_required_": required}
    if "object" in _kinds(schema):
        properties = schema.get("properties", {})
        needed = schema.get("required", [])
        item["properties"] = {key: cli_schema(inner, key, key in needed) for key, inner in properties.items()}
        item["_attrs_order_"] = list(properties)
    if "array" in _kinds(schema):
        inner = schema.get("items")
        item["items"] = [cli_schema(inner, name, False)] if isinstance(inner, dict) else []
    for key in ("anyOf", "oneOf"):
        if key in schema:
            item[key] = [cli_schema(branch, name, required) for branch in schema[key]]
    return item


def _row_schema(method: MethodSpec) -> Schema:
    """The columns of a query method: what it names in `x-columns`, else the properties of the rows it returns."""
    columns = method.spec.get("x-columns")
    if columns is not None:
        return {"type": "object", "properties": {name: {} for name in columns}}
    result = method.spec["result"]["schema"]
    candidates = [result, *result.get("anyOf", []), *result.get("oneOf", [])]
    rows = [candidate["items"] for candidate in candidates if isinstance(candidate.get("items"), dict)]
    return {"type": "object", "properties": rows[0].get("properties", {}) if rows else {}}


def method_entry(method: MethodSpec) -> dict[str, Any]:
    """One value of `core.get_methods`. `danger` and `secrets` are for our own shell; others overlook them."""
    spec = method.spec
    accepts = (
        [] if method.filterable else [cli_schema(param.schema, param.name, param.required) for param in method.params]
    )
    cli_examples = spec.get("x-cli-examples", [])
    return {
        "description": spec["description"],
        "cli_description": spec["summary"],
        "examples": {"cli": cli_examples} if cli_examples else {},
        "no_auth_required": method.auth == "none",
        "no_authz_required": method.auth == "login",
        "cli_private": method.private,
        "filterable": method.filterable,
        "filterable_schema": cli_schema(_row_schema(method), "row", False) if method.filterable else None,
        "pass_application": False,
        "job": method.job,
        "downloadable": method.flag("downloadable"),
        "uploadable": method.flag("uploadable"),
        "check_pipes": method.flag("downloadable"),
        "roles": list(method.roles),
        "accepts": accepts,
        "danger": spec.get("x-danger"),
        "secrets": list(method.secrets),
        "returns": [] if method.flag("void") else [cli_schema(spec["result"]["schema"], "result", True)],
    }


def event_entry(event: EventSpec) -> dict[str, Any]:
    return {
        "description": event.description,
        "private": event.private,
        "roles": list(event.roles),
        "schema": event.schema,
    }


def openrpc(methods: Iterable[MethodSpec], title: str, version: str) -> dict[str, Any]:
    """An OpenRPC document of the public methods (https://spec.open-rpc.org)."""
    return {
        "openrpc": OPENRPC_VERSION,
        "info": {"title": title, "version": version},
        "methods": [_openrpc_method(method.spec) for method in methods if not method.private],
    }


def _openrpc_method(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {**spec, "paramStructure": "by-position"}
