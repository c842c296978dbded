"""The tree of words that the server publishes (PROTOCOL 10.1): namespaces, and commands at its leaves."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from middlewared.cli.arguments import split_line
from middlewared.cli.usage import PROGRAM, UsageError


class Command(NamedTuple):
    """One method as a command. `entry` is its description by core.get_methods (PROTOCOL 9.4)."""

    words: tuple[str, ...]
    method: str
    entry: dict[str, Any]
    service_type: str  # config, crud or service

    @property
    def path(self) -> str:
        return " ".join(self.words)

    @property
    def summary(self) -> str:
        return self.entry.get("cli_description") or ""

    @property
    def kind(self) -> str:
        """`config.update`, `crud.create`, …: what decides how arguments travel and whether a result is shown."""
        return f"{self.service_type}.{self.words[-1]}"


class Namespace:
    def __init__(self, words: tuple[str, ...]) -> None:
        self.words = words
        self.summary = ""
        self.children: dict[str, Namespace | Command] = {}

    @property
    def path(self) -> str:
        return " ".join(self.words)

    def descendants(self) -> Iterator["Namespace | Command"]:
        for child in self.children.values():
            yield child
            if isinstance(child, Namespace):
                yield from child.descendants()


def build(services: dict[str, Any], methods: dict[str, Any]) -> Namespace:
    """The tree of core.get_services and core.get_methods. The first to claim a word keeps it."""
    root = Namespace(())
    homes: dict[str, Namespace] = {}
    for name, description in services.items():
        home, config = root, description["config"]
        for word in config["cli_namespace"].split("."):
            child = home.children.setdefault(word, Namespace((*home.words, word)))
            if isinstance(child, Namespace):
                home = child
        home.summary = home.summary or config.get("cli_description") or ""
        homes[name] = home
    for method, entry in methods.items():
        service, _, word = method.rpartition(".")
        if service in homes:
            home, kind = homes[service], services[service]["type"]
            home.children.setdefault(word, Command((*home.words, word), method, entry, kind))
    return root


def resolve(root: Namespace, words: list[str]) -> tuple[Namespace | Command, list[str]]:
    """Follow the words to a command (or a namespace, when they end there) and return the rest. Raises UsageError."""
    node: Namespace | Command = root
    rest = list(words)
    while rest and isinstance(node, Namespace):
        word = rest.pop(0)
        if len(parts := split_line(word)) != 1:
            rest = parts + rest  # the whole command came as one quoted argument
            continue
        child = node.children.get(parts[0])
        if child is None:
            raise UsageError(_unknown(root, node, parts[0], rest))
        node = child
    return node, rest


def _unknown(root: Namespace, node: Namespace, word: str, rest: list[str]) -> str:
    """Name the nearest command: a misspelt word here, or (at the root) leading words that were left out."""
    from difflib import get_close_matches  # only wrong command lines pay for it

    typed = " ".join([*node.words, word, *(token for token in rest if token.isidentifier())])
    paths = [each.path for each in root.descendants()]
    siblings = get_close_matches(word, node.children, n=1)
    if siblings:
        here = " ".join([*node.words, siblings[0]])
        near = typed.replace(f"{node.path} {word}".strip(), here, 1)
        return f'unknown command "{typed}": did you mean "{near if near in paths else here}"?'
    if node is root:
        found = [path for path in paths if path.endswith(f" {typed}")] or get_close_matches(typed, paths, n=1)
        if found:
            return f'unknown command "{typed}": did you mean "{found[0]}"?'
    where = f"{PROGRAM} help {node.path}".rstrip()
    return f'no command "{" ".join([*node.words, word])}" that this user may run: see "{where}"'
