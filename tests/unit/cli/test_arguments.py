"""PROTOCOL 10.2, and where we are more lenient."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.standin_api import METHODS, obj, schema

from middlewared.cli.arguments import parse, split_line, synopsis, value
from middlewared.cli.commands import Command
from middlewared.cli.usage import UsageError


def command(method: str, kind: str = "service") -> Command:
    return Command(tuple(method.split(".")), method, METHODS[method], kind)


ECHO = command("test.echo")  # text, number=7, list, any


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("true", True),
        ("null", None),
        ("-12", -12),
        ("1.5", 1.5),
        ("0x1F", 31),
        ("0o17", 15),
        ('{"a": [1, {"b": null}]}', {"a": [1, {"b": None}]}),
        ('["a"]', ["a"]),
        ('"a,b"', "a,b"),
        ("a,b", ["a", "b"]),
        ("1,x,true", [1, "x", True]),
        ('{"a":1},{"b":2}', [{"a": 1}, {"b": 2}]),
        ('"a","b,c"', ["a", "b,c"]),
        ("x,", ["x"]),
        ("a-b", "a-b"),
        ("192.168.0.1", "192.168.0.1"),
        ("fe80::1", "fe80::1"),
        ("2026-11-24", "2026-11-24"),
        ("/mnt/tank", "/mnt/tank"),
        ("True", "True"),
        ("NaN", "NaN"),
        ("two words", "two words"),
        ("", ""),
    ],
)
def test_values_without_a_schema(text, expected):
    assert value(text, {}) == expected
    assert type(value(text, {})) is type(expected)


@pytest.mark.parametrize("text", ["{a: 1}", "[1", '"a\\q"', "0xFF,{"])
def test_broken_json_is_refused(text):
    with pytest.raises(UsageError, match="not JSON"):
        value(text, {})


@pytest.mark.parametrize(
    ("text", "schema_", "expected"),
    [
        ("123", {"type": "string"}, "123"),
        ("a, b", {"type": "string"}, "a, b"),
        ('"quoted"', {"type": "string"}, "quoted"),
        ("null", {"type": "string"}, "null"),
        ("null", {"type": ["string", "null"]}, None),
        ("5", {"type": "array", "items": [{"type": "integer"}]}, [5]),
        ("5", {"type": "array", "items": [{"type": "string"}]}, ["5"]),
        ("[]", {"type": "array"}, []),
        ("null", {"type": ["integer", "null"]}, None),
    ],
)
def test_values_are_read_by_their_schema(text, schema_, expected):
    assert value(text, schema_) == expected


@pytest.mark.parametrize(
    ("tokens", "params"),
    [
        ([], []),
        (["hello"], ["hello"]),
        (["hello", "1", "2"], ["hello", 1, [2]]),
        (["hello", "list=1,2"], ["hello", 7, [1, 2]]),
        (["text=a"], ["a"]),
        (["text", "=", "a"], ["a"]),
        (["text=", "a"], ["a"]),
        (["text", "=a"], ["a"]),
        (["text=", "number=3"], ["", 3]),
        (["number=3", "text="], ["", 3]),
        (["--", "hello"], ["hello"]),
        (["text=a=b"], ["a=b"]),
    ],
)
def test_plain_methods_place_arguments(tokens, params):
    assert parse(ECHO, tokens) == params


@pytest.mark.parametrize(
    ("target", "tokens", "params"),
    [
        (command("failover.update", "config"), [], [{}]),
        (command("failover.update", "config"), ["disabled=true", "master=null"], [{"disabled": True, "master": None}]),
        (command("user.create", "crud"), ["username=eve", "groups=x"], [{"username": "eve", "groups": ["x"]}]),
        (command("user.update", "crud"), ["7", "full_name=E V"], [7, {"full_name": "E V"}]),
        (command("user.update", "crud"), ["id=7"], [7, {}]),
        (command("user.delete", "crud"), ["7"], [7]),
    ],
)
def test_config_and_crud_pack_arguments(target, tokens, params):
    assert parse(target, tokens) == params


@pytest.mark.parametrize(
    ("target", "tokens", "complaint"),
    [
        (ECHO, ["any=1"], "text is missing before"),
        (ECHO, ["text=1", "text=2"], "text is given twice"),
        (ECHO, ["a", "text=2"], "text is given twice"),
        (ECHO, ["text=a", "b"], '"b" stands after a NAME=VALUE'),
        (ECHO, ["a", "1", "2", "3", "4"], '"4" is too much: the command takes 4 values'),
        (ECHO, ["texd=1"], 'unknown argument "texd": did you mean "text"?'),
        (ECHO, ["a", ">", "file"], "your shell"),
        (command("failover.control"), ["ENABLE", "options={active:true}"], "not JSON"),
        (command("failover.control"), [], "action is missing\nusage: failover control action=ENABLE|DISABLE"),
        (command("failover.sync_to_peer"), ["reboot=true"], "it belongs into options"),
        (command("failover.status"), ["x"], "takes no values"),
        (command("failover.update", "config"), ["true"], '"true" stands alone'),
        (command("failover.update", "config"), ["disabeld=true"], 'did you mean "disabled"'),
        (command("user.update", "crud"), [], "id is missing: which one?"),
        (command("user.update", "crud"), ["1", "2"], '"2" stands alone'),
    ],
)
def test_mistakes_are_named_with_the_remedy(target, tokens, complaint):
    with pytest.raises(UsageError) as caught:
        parse(target, tokens)
    assert complaint in str(caught.value)


def test_open_objects_take_any_property():
    entry = {"accepts": [{**obj("data"), "additionalProperties": True}]}
    assert parse(Command(("x", "create"), "x.create", entry, "crud"), ["a=1"]) == [{"a": 1}]


def test_synopsis_names_every_argument():
    assert synopsis(command("failover.update", "config")) == (
        "failover update [disabled=true|false] [master=true|false] [timeout=INTEGER]"
    )
    assert synopsis(command("user.update", "crud")).startswith("user update id=INTEGER [full_name=STRING]")
    entry = {"accepts": [schema("a", ["string", "integer"], required=True), {"_name_": "b"}]}
    assert synopsis(Command(("x",), "x", entry, "service")) == "x a=INTEGER/STRING [b=VALUE]"


def test_a_line_is_split_outside_of_quotes_and_braces():
    line = ' system  control options={"a b": [1, 2]} text="x y \\" z" '
    assert split_line(line) == ["system", "control", 'options={"a b": [1, 2]}', 'text="x y \\" z"']


@given(st.lists(st.text(max_size=20), max_size=6))
def test_no_input_can_break_the_parser(tokens):
    for target in (ECHO, command("user.update", "crud"), command("failover.update", "config")):
        try:
            assert isinstance(parse(target, split_line(" ".join(tokens))), list)
            assert isinstance(parse(target, tokens), list)
        except UsageError as error:
            assert str(error)  # noqa: PT017  either outcome is right; nothing else may be raised
