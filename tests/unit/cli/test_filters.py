"""PROTOCOL 10.6."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from middlewared.cli.filters import parse, select
from middlewared.cli.usage import UsageError


@pytest.mark.parametrize(
    ("words", "filters", "columns"),
    [
        ("", [], []),
        ("*", [], []),
        ("id,name size", [], ["id", "name", "size"]),
        ("where id == 1", [["id", "=", 1]], []),
        ("name WHERE name != tank", [["name", "!=", "tank"]], ["name"]),
        ("WHERE a > 1 and b <= 2.5", [["a", ">", 1], ["b", "<=", 2.5]], []),
        ("WHERE a or not b == true", None, []),
        (
            "WHERE a == 1 or (b == null and c < 3)",
            [["OR", [["a", "=", 1], ["AND", [["b", "=", None], ["c", "<", 3]]]]]],
            [],
        ),
        ("WHERE not a in [1,2]", [["NOT", ["a", "in", [1, 2]]]], []),
        ("WHERE a not in (1,2)", [["a", "nin", [1, 2]]], []),
        ("WHERE 'x' in tags", [["tags", "rin", "x"]], []),
        ("WHERE 5 < size", [["size", ">", 5]], []),
        ("WHERE name.startswith('t') and name.match('a.*')", [["name", "^", "t"], ["name", "~", "a.*"]], []),
        ("WHERE a = 1", None, []),
        ("WHERE", None, []),
        ("WHERE 1 == 2", None, []),
        ("WHERE a.b == 2", None, []),
        ("WHERE a == f(2)", None, []),
        ("WHERE 1 < a < 3", None, []),
    ],
)
def test_where(words, filters, columns):
    if filters is None:
        with pytest.raises(UsageError, match="WHERE"):
            parse(words.split())
    else:
        assert parse(words.split()) == ([filters, {}], columns)


def test_raw_filters_and_options_pass():
    assert parse(['[["id","=",1]]', '{"get":true}']) == ([[["id", "=", 1]], {"get": True}], [])
    with pytest.raises(UsageError, match="JSON"):
        parse(["[id=1]"])


def test_select_keeps_the_named_columns():
    rows = [{"a": 1, "b": {"c": 2}, "d": 3}, {"a": 4}]
    assert select(rows, ["b.c", "a"]) == [{"b.c": 2, "a": 1}, {"a": 4}]
    assert select({"a": 1}, ["a"]) == {"a": 1}


@given(st.text(max_size=40))
def test_no_expression_can_break_the_parser(text):
    try:
        params, _ = parse(["WHERE", text])
        assert isinstance(params[0], list)
    except UsageError as error:
        assert str(error)  # noqa: PT017  either outcome is right; nothing else may be raised


def test_query_on_the_command_line(midctl, server):
    status, out, _ = midctl("storage", "pool", "query", "name,id", "WHERE", "name == 'tank' or id > 1", "--mode", "csv")
    assert (status, out) == (0, "name,id\r\ntank,1\r\ndozer,2\r\n")
    assert server.called("pool.query") == [[[["OR", [["name", "=", "tank"], ["id", ">", 1]]]], {}]]
