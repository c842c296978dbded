"""PROTOCOL 10.3."""

from datetime import UTC, date, datetime

import pytest

from middlewared.cli.output import render


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (None, "\n"),
        (1.5, "1.5\n"),
        ({}, "(empty object)\n"),
        (["a", 1, None, {"b": 1}], 'a\n1\nnull\n{"b":1}\n'),
        ([{"a": 1}, "odd"], '{"a":1}\nodd\n'),
        (datetime(2026, 11, 24, 1, 2, 3, tzinfo=UTC), "2026-11-24T01:02:03+00:00\n"),
        ("x" * 100, "x" * 100 + "\n"),
        ("\x1b[2Jgone", "\\x1b[2Jgone\n"),
        ("two\nlines", "two\nlines\n"),
    ],
)
def test_scalars_and_lists(result, text):
    assert render(result, "table") == text


def test_late_columns_go_after_their_neighbour():
    rows = [{"a": 1, "c": 3}, {"a": 1, "b": 2, "c": 3}, {"z": 0, "a": 1}]
    assert render(rows, "table") == (
        "+-------------+---+-------------+-------------+\n"
        "| z           | a | b           | c           |\n"
        "+-------------+---+-------------+-------------+\n"
        "| <undefined> | 1 | <undefined> | 3           |\n"
        "| <undefined> | 1 | 2           | 3           |\n"
        "| 0           | 1 | <undefined> | <undefined> |\n"
        "+-------------+---+-------------+-------------+\n"
    )


def test_cells():
    record = {
        "null": None,
        "none": [],
        "many": ["a", "b"],
        "deep": {"x": 1},
        "rows": [{"x": 1}],
        "long": "y" * 65,
        "day": date(2026, 11, 24),
        "wide": "控制器",
    }
    long = "y" * 61 + "..."
    lines = [
        ("null", "<null>"),
        ("none", "<empty list>"),
        ("many", "a"),
        ("", "b"),
        ("deep", "<dict>"),
        ("rows", "<list>"),
        ("long", long),
        ("day", "2026-11-24"),
    ]
    frame = "+------+" + "-" * 66 + "+\n"
    body = "".join(f"| {name:>4} | {text:64} |\n" for name, text in lines)
    assert render(record, "table") == frame + body + "| wide | 控制器" + " " * 59 + "|\n" + frame


def test_csv():
    rows = [{"a": None, "b": [1, "x"]}, {"a": 'say "hi"', "c": {"d": 1}}]
    assert render(rows, "csv") == 'a,c,b\r\nnull,,"[1,""x""]"\r\n"say ""hi""","{""d"":1}",\r\n'
    assert render([], "csv") == render({}, "csv") == render(None, "csv") == ""


def test_json_keeps_the_order_and_the_types_of_the_wire():
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    assert render({"b": moment, "a": "ü"}, "json") == ('{\n  "b": {\n    "$date": 1767225600000\n  },\n  "a": "ü"\n}\n')


def test_a_whole_record_wraps_its_texts_and_shows_its_rows_below():
    record = {"node": "B", "failures": [f"{'word ' * 14}end"], "checks": [{"ok": True, "detail": ""}]}
    assert render(record, "table", whole=True) == (
        "+----------+------------------------------------------------------------------+\n"
        "|     node | B                                                                |\n"
        "| failures | word word word word word word word word word word word word word |\n"
        "|          | word end                                                         |\n"
        "+----------+------------------------------------------------------------------+\n"
        "\nchecks\n"
        "+------+--------+\n"
        "| ok   | detail |\n"
        "+------+--------+\n"
        "| true |        |\n"
        "+------+--------+\n"
    )


def test_rows_in_a_cell_are_lines_in_a_whole_table():
    rows = [{"id": "A-1", "phases": [{"phase": "FENCING", "duration_ms": 21, "detail": ""}, {"phase": "IMPORTING"}]}]
    assert render(rows, "table", whole=True) == (
        "+-----+---------------+\n"
        "| id  | phases        |\n"
        "+-----+---------------+\n"
        "| A-1 | FENCING 21 ms |\n"
        "|     | IMPORTING     |\n"
        "+-----+---------------+\n"
    )
    assert render([], "table", whole=True) == "(empty list)\n"
    assert "<list>" in render(rows, "table")
