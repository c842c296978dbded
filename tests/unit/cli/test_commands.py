"""The words and examples of the real schemas, without a server."""

import json

import pytest

from middlewared.auth.identity import INTERNAL
from middlewared.cli import filters
from middlewared.cli.arguments import parse, split_line
from middlewared.cli.commands import Command, Namespace, build, resolve
from middlewared.cli.manual import listing, page
from middlewared.rpc.registry import Registry


@pytest.fixture(scope="module")
def root() -> Namespace:
    registry = Registry.load()
    published = registry.get_services("CLI"), registry.get_methods(None, "CLI", INTERNAL)
    return build(*json.loads(json.dumps(published)))


def commands(root: Namespace) -> list[Command]:
    return [each for each in root.descendants() if isinstance(each, Command)]


def test_every_command_has_a_page_that_names_its_arguments(root):
    for command in commands(root):
        text = page(command)
        assert text.startswith(command.path)
        assert f"API method {command.method}" in text
        for schema in command.entry["accepts"]:
            assert schema["_name_"] in text or command.kind in ("config.update", "crud.create", "crud.update")


def test_every_example_of_the_schemas_is_a_good_command_line(root):
    examples = [(command, line) for command in commands(root) for line in command.entry["examples"].get("cli", [])]
    assert len(examples) > 20
    for command, line in examples:
        node, rest = resolve(root, split_line(line))
        assert node is command, line
        if command.entry["filterable"]:
            filters.parse(rest)
        else:
            parse(command, rest)


def test_every_namespace_has_a_listing(root):
    for node in [root, *root.descendants()]:
        if isinstance(node, Namespace):
            assert len(listing(node).splitlines()) == len(node.children)
