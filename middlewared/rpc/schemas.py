"""The files of `schemas/`, read and checked strictly: a typing error there stops the daemon with a sentence.

The format is described in ARCHITECTURE.md: OpenRPC method objects with JSON Schema 2020-12, and `x-` members for what
OpenRPC has no word for. A mistake is reported as `file: method: what is missing`, all of them at once.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jsonschema_rs

from middlewared.rpc import query
from middlewared.rpc.access import Auth
from middlewared.rpc.validation import Param, Schema

COMMON_FILE = "common.json"
_COMMON_PREFIX = f"{COMMON_FILE}#/$defs/"

_FILE_KEYS = {"services", "methods", "events"}
_SERVICE_KEYS = {"namespace", "type", "cli_namespace", "cli_description", "private", "cli_private"}
_METHOD_KEYS = {
    *("name", "summary", "description", "params", "result", "examples", "x-cli-examples", "x-roles", "x-auth"),
    *("x-job", "x-job-lock", "x-job-light", "x-abortable", "x-transient", "x-uploadable", "x-downloadable"),
    *("x-filterable", "x-columns", "x-private", "x-secret", "x-void", "x-audit", "x-danger"),
}
_METHOD_FLAGS = {
    *("x-job", "x-job-light", "x-abortable", "x-transient", "x-uploadable", "x-downloadable", "x-filterable"),
    *("x-private", "x-void", "x-audit"),
}
_DANGER_KEYS = {"text", "when", "rehearsal"}
_PARAM_KEYS = {"name", "required", "description", "schema"}
_EVENT_KEYS = {"name", "description", "schema", "x-roles", "x-auth", "x-private", "x-arguments"}


class RegistryError(Exception):
    """Schemas, or schemas and code, do not fit; one line for each mistake."""


class SchemaError(RegistryError):
    """The schema files are wrong; one line for each mistake."""


@dataclass(frozen=True)
class ServiceSpec:
    namespace: str
    type: str
    cli_namespace: str
    cli_description: str | None
    private: bool
    cli_private: bool


@dataclass(frozen=True)
class EventSpec:
    """An event and who may receive it. `arguments`: what may follow its name after a colon; None: nothing."""

    name: str
    description: str
    schema: Schema
    auth: Auth
    roles: tuple[str, ...]
    private: bool
    arguments: Param | None


@dataclass(frozen=True)
class MethodSpec:
    """A method as its schema describes it; `spec` is the whole object with its references expanded."""

    name: str
    spec: Mapping[str, Any]
    params: tuple[Param, ...]
    auth: Auth
    roles: tuple[str, ...]

    @property
    def namespace(self) -> str:
        return self.name.rpartition(".")[0]

    @cached_property
    def job(self) -> bool:
        return bool(self.spec.get("x-job"))

    @cached_property
    def private(self) -> bool:
        return bool(self.spec.get("x-private"))

    @cached_property
    def filterable(self) -> bool:
        return bool(self.spec.get("x-filterable"))

    @cached_property
    def audited(self) -> bool:
        return bool(self.spec.get("x-audit"))

    @cached_property
    def secrets(self) -> tuple[str, ...]:
        """Dotted paths of arguments that must not be shown."""
        return tuple(self.spec.get("x-secret", ()))

    def flag(self, name: str, default: bool = False) -> bool:
        """An `x-` member: flag("transient") is `x-transient`."""
        return bool(self.spec.get(f"x-{name}", default))


@dataclass(frozen=True)
class Schemas:
    services: dict[str, ServiceSpec]
    methods: dict[str, MethodSpec]
    events: dict[str, EventSpec]


def read_files(directory: Path) -> dict[str, Any]:
    """Every `*.json` of the directory, parsed, by file name."""
    documents: dict[str, Any] = {}
    for path in sorted(directory.glob("*.json")):
        try:
            documents[path.name] = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise SchemaError(f"{path}: {error}") from error
    if not documents:
        raise SchemaError(f"{directory}: no schema files")
    return documents


def build(documents: Mapping[str, Any]) -> Schemas:
    """Check and compile. Raises SchemaError with every mistake of every file."""
    builder = _Builder(documents.get(COMMON_FILE, {}).get("$defs", {}))
    for name, document in documents.items():
        if name != COMMON_FILE:
            builder.add_file(name, document)
    return builder.finish()


class _Builder:
    def __init__(self, common: Mapping[str, Schema]) -> None:
        self._common = common
        self._problems: list[str] = []
        self._checked: dict[str, bool] = {}
        self.services: dict[str, ServiceSpec] = {}
        self.methods: dict[str, MethodSpec] = {}
        self.events: dict[str, EventSpec] = {}
        self._where: dict[str, str] = {}

    def finish(self) -> Schemas:
        for name, method in self.methods.items():
            if method.namespace not in self.services:
                self._problem(self._where[name], f"no file declares the service {method.namespace!r}")
            if name in self.services:
                self._problem(self._where[name], "a service has the same name (PROTOCOL 9.4)")
            danger = method.spec.get("x-danger")
            rehearsal = danger.get("rehearsal") if isinstance(danger, dict) else None
            if rehearsal is not None and rehearsal not in self.methods:
                self._problem(self._where[name], f"x-danger: no schema describes the rehearsal {rehearsal!r}")
        if self._problems:
            raise SchemaError("\n".join(self._problems))
        return Schemas(self.services, self.methods, self.events)

    def add_file(self, file: str, document: Any) -> None:
        if not isinstance(document, dict):
            self._problem(file, "must hold a JSON object")
            return
        self._unknown_keys(file, document, _FILE_KEYS)
        for service in document.get("services", []):
            self._add_service(file, service)
        for method in document.get("methods", []):
            self._add_method(file, method)
        for event in document.get("events", []):
            self._add_event(file, event)

    def _problem(self, where: str, what: str) -> None:
        self._problems.append(f"{where}: {what}")

    def _unknown_keys(self, where: str, given: Mapping[str, Any], known: set[str]) -> None:
        for key in sorted(given.keys() - known):
            self._problem(where, f"unknown member {key!r}")

    def _named(self, file: str, item: Any, key: str, taken: Mapping[str, Any]) -> str:
        name = item.get(key) if isinstance(item, dict) else None
        if not isinstance(name, str) or not name:
            self._problem(file, f"an entry has no {key!r}")
            return ""
        if name in taken:
            self._problem(f"{file}: {name}", "declared twice")
            return ""
        return name

    def _text(self, where: str, item: Mapping[str, Any], key: str) -> str:
        text = item.get(key)
        if not isinstance(text, str) or not text.strip():
            self._problem(where, f"no {key}")
            return ""
        return text

    def _access(self, where: str, item: Mapping[str, Any]) -> tuple[Auth, tuple[str, ...]]:
        auth, roles = item.get("x-auth", "roles"), item.get("x-roles", [])
        if auth not in ("none", "login", "roles"):
            self._problem(where, "x-auth must be none, login or roles")
            auth = "roles"
        if not isinstance(roles, list) or not all(isinstance(role, str) for role in roles):
            self._problem(where, "x-roles must be a list of role names")
            roles = []
        return auth, tuple(roles)

    # ---------------------------------------------------------------------------------------- entries

    def _add_service(self, file: str, item: Any) -> None:
        name = self._named(file, item, "namespace", self.services)
        if not name:
            return
        where = f"{file}: service {name}"
        self._unknown_keys(where, item, _SERVICE_KEYS)
        if item.get("type") not in ("config", "crud", "service"):
            self._problem(where, "type must be config, crud or service")
        self.services[name] = ServiceSpec(
            namespace=name,
            type=item.get("type", "service"),
            cli_namespace=self._text(where, item, "cli_namespace"),
            cli_description=item.get("cli_description"),
            private=bool(item.get("private")),
            cli_private=bool(item.get("cli_private")),
        )

    def _add_method(self, file: str, item: Any) -> None:
        name = self._named(file, item, "name", self.methods)
        if not name:
            return
        where = self._where[name] = f"{file}: {name}"
        self._unknown_keys(where, item, _METHOD_KEYS)
        for flag in _METHOD_FLAGS & item.keys():
            if not isinstance(item[flag], bool):
                self._problem(where, f"{flag} must be true or false")
        self._text(where, item, "summary")
        self._text(where, item, "description")
        if not item.get("examples"):
            self._problem(where, "no examples")
        if not item.get("x-job") and item.keys() & {"x-job-lock", "x-job-light", "x-uploadable", "x-downloadable"}:
            self._problem(where, "only a job may have x-job-lock, x-job-light, x-uploadable or x-downloadable")
        params = self._params(where, item)
        result = item.get("result")
        if not isinstance(result, dict) or "schema" not in result:
            self._problem(where, "no result schema")
            result = {"name": "result", "schema": {}}
        result = {**result, "schema": self._schema(f"{where}: result", result["schema"])}
        auth, roles = self._access(where, item)
        for path in item.get("x-secret", []):
            if path.split(".")[0] not in {param.name for param in params}:
                self._problem(where, f"x-secret {path!r} names no parameter")
        self._danger(where, item, {param.name for param in params})
        spec = {**item, "params": [_param_spec(param) for param in params], "result": result}
        self.methods[name] = MethodSpec(name, spec, params, auth, roles)

    def _danger(self, where: str, item: Mapping[str, Any], params: set[str]) -> None:
        """`x-danger`: what a call does that one should think about; `when`: only with these values."""
        danger = item.get("x-danger")
        if danger is None:
            return
        if not isinstance(danger, dict):
            self._problem(where, "x-danger must be an object")
            return
        here = f"{where}: x-danger"
        self._unknown_keys(here, danger, _DANGER_KEYS)
        self._text(here, danger, "text")
        for path in danger.get("when", {}):
            if path.split(".")[0] not in params:
                self._problem(here, f"when {path!r} names no parameter")

    def _params(self, where: str, item: Mapping[str, Any]) -> tuple[Param, ...]:
        declared = item.get("params", [])
        if item.get("x-filterable"):
            if declared:
                self._problem(where, "a filterable method declares no params; it gets filters and options")
            return Param("filters", False, query.FILTERS_SCHEMA), Param("options", False, query.OPTIONS_SCHEMA)
        params: list[Param] = []
        for position, param in enumerate(declared):
            here = f"{where}: param {param.get('name', position)}"
            self._unknown_keys(here, param, _PARAM_KEYS)
            schema = param.get("schema")
            if not isinstance(schema, dict) or "name" not in param:
                self._problem(here, "needs a name and a schema")
                continue
            if "description" in param:
                schema = {**schema, "description": param["description"]}
            if params and param.get("required") and not params[-1].required:
                self._problem(here, "a required parameter follows an optional one")
            expanded = self._schema(here, schema)
            self._text(here, expanded, "description")
            params.append(Param(param["name"], bool(param.get("required")), expanded))
        return tuple(params)

    def _add_event(self, file: str, item: Any) -> None:
        name = self._named(file, item, "name", self.events)
        if not name:
            return
        where = f"{file}: event {name}"
        self._unknown_keys(where, item, _EVENT_KEYS)
        auth, roles = self._access(where, item)
        arguments = item.get("x-arguments")
        self.events[name] = EventSpec(
            name=name,
            description=self._text(where, item, "description"),
            schema=self._schema(where, item.get("schema", {})),
            auth=auth,
            roles=roles,
            private=bool(item.get("x-private")),
            arguments=None if arguments is None else Param("arguments", True, self._schema(where, arguments)),
        )

    # ---------------------------------------------------------------------------------------- schemas

    def _schema(self, where: str, schema: Any) -> Schema:
        """The schema without references, checked against the standard and for descriptions."""
        expanded = self._expand(where, schema, ())
        if not isinstance(expanded, dict):
            self._problem(where, "a schema must be an object")
            return {}
        try:
            jsonschema_rs.validator_for(expanded)
        except (jsonschema_rs.ValidationError, ValueError) as error:
            self._problem(where, f"not a JSON Schema: {str(error).splitlines()[0]}")
        for path in _undescribed(expanded, ""):
            self._problem(where, f"no description of {path}")
        return expanded

    def _expand(self, where: str, value: Any, seen: tuple[str, ...]) -> Any:
        if isinstance(value, list):
            return [self._expand(where, item, seen) for item in value]
        if not isinstance(value, dict):
            return value
        reference = value.get("$ref")
        if not isinstance(reference, str):
            return {key: self._expand(where, item, seen) for key, item in value.items()}
        name = reference.removeprefix(_COMMON_PREFIX)
        if name in seen or not reference.startswith(_COMMON_PREFIX) or name not in self._common:
            why = "refers to itself" if name in seen else f"only {_COMMON_PREFIX}NAME may be referred to"
            self._problem(where, f"$ref {reference!r}: {why}")
            return {}
        target = self._expand(where, self._common[name], (*seen, name))
        beside = {key: item for key, item in value.items() if key != "$ref"}
        return {**target, **self._expand(where, beside, seen)}


def _param_spec(param: Param) -> dict[str, Any]:
    description = param.schema.get("description", "")
    return {"name": param.name, "required": param.required, "description": description, "schema": param.schema}


def _undescribed(schema: Any, path: str) -> Iterator[str]:
    if not isinstance(schema, dict):
        return
    for name, inner in schema.get("properties", {}).items():
        here = f"{path}.{name}".lstrip(".")
        if not isinstance(inner, dict) or not inner.get("description"):
            yield here
        yield from _undescribed(inner, here)
    for key in ("items", "additionalProperties"):
        yield from _undescribed(schema.get(key), path)
    for key in ("anyOf", "oneOf", "allOf"):
        for inner in schema.get(key, []):
            yield from _undescribed(inner, path)
