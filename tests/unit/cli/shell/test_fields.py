"""The arguments as fields, without a screen."""

import pytest
from support.standin_api import METHODS, entry, obj, schema

from middlewared.auth.identity import INTERNAL
from middlewared.cli.commands import Command, build
from middlewared.cli.shell.editor.document import parse, template
from middlewared.cli.shell.editor.fields import Form, Group, Leaf, Rows
from middlewared.cli.usage import UsageError
from middlewared.rpc.registry import Registry


def form(method: str, kind: str, values=None, now=None) -> Form:
    return Form(Command(tuple(method.split(".")), method, METHODS[method], kind), values or {}, now or {})


def find(fields: Form, *path: str | int):
    return next(field for field in fields.walk() if field.path == path)


def test_nothing_filled_in_is_nothing_sent():
    assert form("failover.control", "config").document() == {}
    assert form("failover.update", "config").document() == {"data": {}}, "the object that is always sent"


def test_values_in_and_out():
    fields = form("user.create", "crud")
    find(fields, "data", "username").edit("eve")
    find(fields, "data", "full_name").edit('""')
    find(fields, "data", "groups").add("staff")
    find(fields, "data", "quota", "bytes").edit("0x10")
    assert fields.document() == {
        "data": {"username": "eve", "full_name": "", "groups": ["staff"], "quota": {"bytes": 16}}
    }
    assert form("user.create", "crud", fields.document()).document() == fields.document()


def test_an_object_that_is_left_out_needs_none_of_its_members():
    fields = form("user.create", "crud", {"data": {"username": "eve"}})
    assert fields.wrong() == []
    find(fields, "data", "quota", "files").edit("3")
    assert [field.path for field in fields.wrong()] == [("data", "quota", "bytes")]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("5", ""),
        ("121", "121 is greater than the maximum of 120"),
        ("-1", "-1 is less than the minimum of 0"),
        ("x", "needs a whole number"),
        ("1.5", "needs a whole number"),
        ("{", "not JSON"),
        ("", ""),
    ],
)
def test_complaints_by_the_schema(text, complaint):
    field = find(form("failover.update", "config"), "data", "timeout")
    field.edit(text)
    assert complaint in field.problem()
    assert bool(field.problem()) == bool(complaint)


def test_a_text_that_cannot_be_read_is_an_error_not_a_value():
    fields = form("failover.update", "config")
    find(fields, "data", "timeout").edit("{")
    with pytest.raises(UsageError):
        fields.document()


def test_lists_are_complained_about_as_a_whole_and_by_item():
    described = entry("X", schema("n", "array", items=[schema("n", "integer", maximum=9)], maxItems=1))
    fields = Form(Command(("x",), "a.x", described, "service"), {"n": [1, 20]}, {})
    rows = fields.fields[0]
    assert isinstance(rows, Rows)
    assert "too long" in rows.problem()
    assert rows.items[1].problem() == "20 is greater than the maximum of 9"
    rows.remove(rows.items[1])
    assert (rows.problem(), fields.document()) == ("", {"n": [1]})
    rows.remove(rows.items[0])
    assert fields.document() == {"n": []}, "an empty list is a value, too"


@pytest.mark.parametrize(
    ("attribute", "path"),
    [
        ("user_create.username", ("data", "username")),
        ("data.quota.bytes", ("data", "quota", "bytes")),
        ("user_create.groups.1", ("data", "groups", 1)),
        ("username", ("data", "username")),
    ],
)
def test_the_server_s_complaints_find_their_field(attribute, path):
    fields = form("user.create", "crud", {"data": {"groups": ["a", "b"]}})
    fields.refuse([(attribute, "bad")])
    assert [field.path for field in fields.walk() if field.refused] == [path]
    assert fields.general == ""
    find(fields, *path).edit("new")
    assert find(fields, *path).refused == ""


def test_a_complaint_about_nothing_on_the_form_stands_above_it():
    fields = form("user.create", "crud")
    fields.refuse([(None, "Not now"), ("elsewhere.x", "Odd")])
    assert fields.general == "Not now\nelsewhere.x: Odd"


def test_choices_hints_and_secrets():
    options = find(form("failover.control", "config"), "action").options
    assert options == ["ENABLE", "DISABLE"]
    timeout = find(form("failover.update", "config", now={"data": {"timeout": 3}}), "data", "timeout")
    assert timeout.hint() == "integer, 0..120, now 3"
    assert find(form("failover.update", "config"), "data", "master").options == ["true", "false", "null"]
    assert find(form("user.create", "crud"), "data", "password").secret
    many = entry("X", schema("n", enum=[str(number) for number in range(20)]))
    field = Form(Command(("x",), "a.x", many, "service"), {}, {}).fields[0]
    assert isinstance(field, Leaf)
    assert field.options == [], "too many for a row: they are completed"


def test_what_has_no_form_of_its_own_is_json():
    described = entry("X", obj("free"), {"_name_": "any", "_required_": True})
    del described["accepts"][0]["properties"]
    fields = Form(Command(("x",), "a.x", described, "service"), {}, {})
    assert not any(isinstance(field, Group) for field in fields.fields)
    fields.fields[0].edit('{"a": 1}')
    fields.fields[1].edit("[1, null]")
    assert fields.document() == {"free": {"a": 1}, "any": [1, None]}


def test_every_command_there_is_has_a_form_and_a_template():
    registry = Registry.load()
    tree = build(registry.get_services("CLI"), registry.get_methods(None, "CLI", INTERNAL))
    commands = [node for node in tree.descendants() if isinstance(node, Command)]
    assert len(commands) > 50
    for each in commands:
        assert Form(each, {}, {}).document() in ({}, {"data": {}}), each.path
        parse(each, template(each))
