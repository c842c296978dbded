from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from middlewared.errors import ValidationErrors
from middlewared.rpc.validation import Param, check_arguments, masked

DATA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name"],
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 5, "pattern": "^[a-z]*$"},
        "timeout": {"type": "integer", "minimum": 0, "maximum": 120, "default": 60},
        "mode": {"type": ["string", "null"], "enum": ["A", "B", None], "default": None},
        "groups": {"type": "array", "items": {"type": "string"}, "default": []},
        "inner": {
            "type": "object",
            "default": {},
            "properties": {"active": {"type": "boolean", "default": True}, "depth": {"type": "integer"}},
        },
        "many": {
            "type": "array",
            "items": {"type": "object", "properties": {"on": {"type": "boolean", "default": True}}},
        },
    },
}

LOGIN = {
    "oneOf": [
        {
            "type": "object",
            "required": ["mechanism", "password"],
            "properties": {"mechanism": {"const": "PASSWORD"}, "password": {"type": "string"}},
        },
        {
            "type": "object",
            "required": ["mechanism", "token"],
            "properties": {
                "mechanism": {"const": "TOKEN"},
                "token": {"type": "string"},
                "options": {"type": "object", "default": {}, "properties": {"user_info": {"default": True}}},
            },
        },
    ]
}


def findings(schema: dict[str, Any], value: Any) -> list[tuple[str | None, str]]:
    return [(path, message) for path, message, _ in Param("data", True, schema).findings(value)]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({}, [("data.name", "attribute required")]),
        ({"name": "a", "foo": 1}, [("data.foo", "Extra inputs are not permitted")]),
        ({"name": "a", "timeout": 121}, [("data.timeout", "Input should be less than or equal to 120")]),
        ({"name": "a", "timeout": -1}, [("data.timeout", "Input should be greater than or equal to 0")]),
        ({"name": "a", "timeout": "5"}, [("data.timeout", "Input should be a valid integer")]),
        ({"name": "a", "timeout": True}, [("data.timeout", "Input should be a valid integer")]),
        ({"name": "a", "timeout": 1.5}, [("data.timeout", "Input should be a valid integer")]),
        ({"name": "a", "mode": "C"}, [("data.mode", "Input should be 'A', 'B' or None")]),
        ({"name": "a", "groups": ["x", 2]}, [("data.groups.1", "Input should be a valid string")]),
        ({"name": ""}, [("data.name", "String should have at least 1 characters")]),
        ({"name": "abcdef"}, [("data.name", "String should have at most 5 characters")]),
        ({"name": "A"}, [("data.name", "String should match pattern '^[a-z]*$'")]),
        ({"name": "a", "inner": {"active": 1}}, [("data.inner.active", "Input should be a valid boolean")]),
        ([], [("data", "Input should be a valid object")]),
        (None, [("data", "Input should be a valid object")]),
        ({"name": "a", "timeout": 60.0, "inner": {}}, []),
    ],
)
def test_messages(value: Any, expected: list[tuple[str, str]]) -> None:
    assert findings(DATA, value) == expected


def test_nullable_types_are_named() -> None:
    assert findings({"type": ["integer", "null"]}, "x") == [("data", "Input should be a valid integer or null")]


def test_of_alternatives_the_meant_one_is_explained() -> None:
    assert findings(LOGIN, {"mechanism": "TOKEN"}) == [("data.token", "attribute required")]
    assert findings(LOGIN, {"mechanism": "PASSWORD", "password": 5}) == [
        ("data.password", "Input should be a valid string")
    ]


def test_messages_do_not_repeat_the_value() -> None:
    schema = {"type": "object", "not": {"required": ["password"]}, "propertyNames": {"maxLength": 3}}
    assert "hunter2" not in str(findings(schema, {"password": "hunter2"}))


def test_every_fault_of_every_argument_is_reported() -> None:
    params = [Param("a", True, {"type": "integer"}), Param("b", True, {"type": "string"}), Param("c", True, {})]
    with pytest.raises(ValidationErrors) as caught:
        check_arguments(params, ["x", 1])
    assert [attribute for attribute, _, _ in caught.value.errors] == ["a", "b", "c"]


def test_too_many_arguments() -> None:
    with pytest.raises(ValidationErrors) as caught:
        check_arguments([Param("a", True, {})], [1, 2])
    assert [attribute for attribute, _, _ in caught.value.errors] == [""]


def test_defaults_are_filled_at_any_depth_and_never_shared() -> None:
    params = [
        Param("data", True, DATA),
        Param("options", False, {"type": "object", "default": {}}),
        Param("c", False, {}),
    ]
    given_value = {"name": "a", "many": [{}, {"on": False}]}
    first, options, absent = check_arguments(params, [given_value])
    assert first == {
        "name": "a",
        "timeout": 60,
        "mode": None,
        "groups": [],
        "inner": {"active": True},
        "many": [{"on": True}, {"on": False}],
    }
    assert (options, absent) == ({}, None)
    assert given_value == {"name": "a", "many": [{}, {"on": False}]}
    first["groups"].append("x")
    options["y"] = 1
    second, options, _ = check_arguments(params, [given_value])
    assert (second["groups"], options) == ([], {})


def test_defaults_of_the_alternative_that_fits() -> None:
    (filled,) = check_arguments([Param("data", True, LOGIN)], [{"mechanism": "TOKEN", "token": "x"}])
    assert filled["options"] == {"user_info": True}


def test_whole_floats_become_integers_and_huge_ones_are_refused() -> None:
    (value,) = check_arguments([Param("n", True, {"type": "integer"})], [5.0])
    assert (value, type(value)) == (5, int)
    with pytest.raises(ValidationErrors):
        check_arguments([Param("n", True, {"type": "integer"})], [1e30])


def test_extended_json_is_checked_plain_and_handed_over_decoded() -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    sent = [["time", ">", {"$date": 1767225600000}]]
    assert check_arguments([Param("filters", True, {"type": "array"})], [sent]) == [[["time", ">", moment]]]
    with pytest.raises(ValidationErrors):
        check_arguments([Param("filters", True, {"type": "array"})], [[{"$date": "x"}]])


def test_python_values_from_inside_pass_where_anything_may() -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    schema = {"type": "object", "properties": {"a": {}}}
    assert check_arguments([Param("data", True, schema)], [{"a": moment}], special=False) == [{"a": moment}]


def test_secrets_are_masked_at_any_depth() -> None:
    params = [Param("username", True, {}), Param("data", True, {})]
    arguments = ["root", {"password": "x", "keys": [{"secret": "y"}, {"other": 1}], "name": "n"}]
    shown = masked(params, arguments, ["data.password", "data.keys.secret", "username"])
    assert shown == ["********", {"password": "********", "keys": [{"secret": "********"}, {"other": 1}], "name": "n"}]
    assert arguments[1]["password"] == "x"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["name", "timeout", "$date", "x"]), inner)
    ),
    max_leaves=10,
)


@given(JSON)
def test_any_json_is_taken_or_refused_with_triples(value: Any) -> None:
    for schema in (DATA, LOGIN):
        errors: list[tuple[str | None, str, int]] = [("data", "", 0)]
        try:
            check_arguments([Param("data", True, schema)], [value])
        except ValidationErrors as error:
            errors = error.errors
        assert errors
        assert all(isinstance(path, str) and path.startswith("data") for path, _, _ in errors)
