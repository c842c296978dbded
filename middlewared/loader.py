"""Finds the plugins, builds them, and marries handlers to schemas.

The only place that imports by name. A handler without a schema, or a schema without a handler, stops the daemon with a
message that names it.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from typing import Any

import middlewared.plugins
from middlewared.plugin import Context, Plugin
from middlewared.rpc.registry import Registry


def load_plugins(context: Context) -> list[Plugin]:
    """One instance of every Plugin class in `plugins/*/methods.py`, in the order of the folders' names."""
    return [kind(context) for kind in _plugin_classes()]


def bind(registry: Registry, plugins: list[Plugin]) -> None:
    """Give the registry every handler. Raises the registry's error unless handlers and schemas match one to one."""
    for plugin in plugins:
        for name, handler in _handlers(plugin):
            registry.bind(name, handler)
    registry.check_complete()


def _plugin_classes() -> Iterator[type[Plugin]]:
    for folder in pkgutil.iter_modules(middlewared.plugins.__path__, "middlewared.plugins."):
        if not folder.ispkg:
            continue
        package = importlib.import_module(folder.name)
        if not any(module.name == "methods" for module in pkgutil.iter_modules(package.__path__)):
            continue  # drivers only
        module = importlib.import_module(f"{folder.name}.methods")
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if issubclass(kind, Plugin) and kind.__module__ == module.__name__:
                yield kind


def _handlers(plugin: Plugin) -> Iterator[tuple[str, Any]]:
    for _, member in inspect.getmembers(plugin, inspect.iscoroutinefunction):
        name = getattr(member, "__api_method__", None)
        if name is not None:
            yield name, member
