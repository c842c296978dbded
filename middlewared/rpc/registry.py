"""What the API consists of: services, methods with their handlers, events. Built once, when the daemon starts."""

from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import middlewared
from middlewared.auth.identity import Credential
from middlewared.rpc import access, extjson, introspection, schemas
from middlewared.rpc.schemas import EventSpec, MethodSpec, RegistryError, ServiceSpec

SCHEMA_DIR = Path(middlewared.__file__).parent / "schemas"

Handler = Callable[..., Awaitable[Any]]


__all__ = ["Registry", "RegistryError"]


class Registry:
    """The schemas, and the handlers bound to them."""

    def __init__(self, documents: Mapping[str, Any]) -> None:
        """`documents`: parsed schema files by file name. Raises schemas.SchemaError."""
        built = schemas.build(documents)
        self.services: dict[str, ServiceSpec] = built.services
        self.methods: dict[str, MethodSpec] = built.methods
        self.events: dict[str, EventSpec] = built.events
        self.handlers: dict[str, Handler] = {}
        self._entries: dict[str, dict[str, Any]] = {}

    @classmethod
    def load(cls, directory: Path = SCHEMA_DIR) -> "Registry":
        return cls(schemas.read_files(directory))

    def bind(self, name: str, handler: Handler) -> None:
        """Give the method `name` its handler. Raises RegistryError for one that no schema describes, or twice."""
        if name not in self.methods:
            raise RegistryError(f"{name}: no schema describes this method; add it to schemas/")
        if name in self.handlers:
            raise RegistryError(f"{name}: bound twice")
        self.handlers[name] = handler

    def check_complete(self) -> None:
        """Raise RegistryError naming every method that has a schema but no handler."""
        missing = sorted(self.methods.keys() - self.handlers.keys())
        if missing:
            raise RegistryError("\n".join(f"{name}: has a schema but no handler" for name in missing))

    def get_services(self, target: str = "WS") -> dict[str, Any]:
        """PROTOCOL 9.3."""
        return {
            name: introspection.service_entry(service)
            for name, service in self.services.items()
            if self._shows(service, target)
        }

    def get_methods(self, service: str | None, target: str, credential: Credential | None) -> dict[str, Any]:
        """PROTOCOL 9.4: what this caller may call, of one service or of all."""
        return {
            name: self._entry(method)
            for name, method in self.methods.items()
            if service in (None, method.namespace)
            and not method.private
            and self._shows(self.services[method.namespace], target)
            and access.may(credential, method.auth, method.roles)
        }

    def get_events(self, credential: Credential | None) -> dict[str, Any]:
        """The public events that this caller may subscribe to, by name."""
        return {
            name: introspection.event_entry(event)
            for name, event in self.events.items()
            if not event.private and access.may(credential, event.auth, event.roles)
        }

    @cached_property
    def openrpc(self) -> dict[str, Any]:
        """The OpenRPC document of every public method."""
        public = [method for method in self.methods.values() if not self.services[method.namespace].private]
        return introspection.openrpc(public, "middlewared", middlewared.__version__)

    @cached_property
    def openrpc_text(self) -> bytes:
        return extjson.dumps(self.openrpc)

    @staticmethod
    def _shows(service: ServiceSpec, target: str) -> bool:
        return not service.private and not (target == "CLI" and service.cli_private)

    def _entry(self, method: MethodSpec) -> dict[str, Any]:
        entry = self._entries.get(method.name)
        if entry is None:
            entry = self._entries[method.name] = introspection.method_entry(method)
        return entry
