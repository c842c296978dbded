from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from middlewared.errors import MatchNotFound, ValidationErrors
from middlewared.rpc import query

ROWS: list[dict[str, Any]] = [
    {
        "id": 1,
        "name": "alpha",
        "tags": ["x", "y"],
        "at": datetime(2026, 1, 1, tzinfo=UTC),
        "in": {"a.b": 1, "c": [{"d": 5}]},
    },
    {"id": 2, "name": "Beta", "tags": [], "at": None, "in": {"a.b": 2, "c": [{"d": 6}, {"d": 5}]}},
    {"id": 3, "name": None, "tags": ["y"], "at": datetime(2026, 2, 1, tzinfo=UTC), "in": {}},
]


def ids(*filters: Any, **options: Any) -> list[Any]:
    return [row["id"] for row in query.apply(ROWS, list(filters), options)]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (["id", "=", 2], [2]),
        (["id", "!=", 2], [1, 3]),
        (["id", ">", 1], [2, 3]),
        (["id", ">=", 3], [3]),
        (["id", "<", 2], [1]),
        (["id", "<=", 2], [1, 2]),
        (["id", "in", [1, 3]], [1, 3]),
        (["id", "nin", [1, 3]], [2]),
        (["tags", "rin", "y"], [1, 3]),
        (["tags", "rnin", "y"], [2]),
        (["name", "rnin", "a"], []),
        (["name", "^", "al"], [1]),
        (["name", "!^", "al"], [2]),
        (["name", "$", "a"], [1, 2]),
        (["name", "!$", "ta"], [1]),
        (["name", "~", "al.*"], [1]),
        (["name", "~", "lpha"], []),
        (["name", "C=", "BETA"], [2]),
        (["name", "C~", "b.t"], [2]),
        (["name", "Cin", ["ALPHA"]], [1]),
        (["name", "C^", "B"], [2]),
        (["name", "C$", "TA"], [2]),
        (["name", "<", 5], []),
        (["in.a\\.b", "=", 2], [2]),
        (["in.c.0.d", "=", 5], [1]),
        (["in.c.*.d", "=", 5], [1, 2]),
        (["tags.1", "=", "y"], [1]),
        (["nothing.at.all", "=", None], [1, 2, 3]),
        (["at.$date", ">", "2026-01-15"], [3]),
        (["at.$date", "<=", "2026-01-01T00:00:00+00:00"], [1]),
        (["at", ">", datetime(2026, 1, 15, tzinfo=UTC)], [3]),
        (["OR", [["id", "=", 1], ["id", "=", 3]]], [1, 3]),
        (["OR", [[["id", ">", 1], ["name", "=", "Beta"]], ["id", "=", 1]]], [1, 2]),
        (["AND", [["id", ">", 1], ["id", "<", 3]]], [2]),
        (["NOT", ["id", "=", 1]], [2, 3]),
        (["NOT", ["OR", [["id", "=", 1], ["NOT", ["id", "=", 3]]]]], [3]),
    ],
)
def test_filters(condition: list[Any], expected: list[int]) -> None:
    assert ids(condition) == expected


def test_all_filters_must_hold() -> None:
    assert ids(["id", ">", 1], ["id", "<", 3]) == [2]


@pytest.mark.parametrize(
    "filters",
    [
        [5],
        [[]],
        [["id"]],
        [["id", "="]],
        [["id", "=="]],
        [["id", "==", 1]],
        [["id", "in", 5]],
        [["name", "^", 5]],
        [["name", "~", "("]],
        [["name", "~", "(?=x)"]],
        [["name", "~", "a{1000}{1000}{1000}"]],
        [["at.$date", ">", "soon"]],
        [["OR", 5]],
        [["OR", [5]]],
        [[1, 2, 3]],
        [["NOT", ["NOT", ["NOT", ["NOT", ["id", "=", 1]]]]]],
    ],
)
def test_wrong_filters_are_refused(filters: list[Any]) -> None:
    with pytest.raises(ValidationErrors):
        query.apply(ROWS, filters, {})


def test_a_costly_pattern_costs_nothing() -> None:
    rows = [{"name": "a" * 100_000 + "b"}]
    assert query.apply(rows, [["name", "~", "(a+)+$"]], {}) == []  # Python's engine would not come back


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (["id"], [1, 2, 3]),
        (["-id"], [3, 2, 1]),
        (["name"], [3, 2, 1]),
        (["-name"], [1, 2, 3]),
        (["nulls_last:name"], [2, 1, 3]),
        (["nulls_first:-name"], [3, 1, 2]),
        (["nulls_last:-at"], [3, 1, 2]),
        (["tags.0", "-id"], [2, 1, 3]),
    ],
)
def test_order(order: list[str], expected: list[int]) -> None:
    assert ids(order_by=order) == expected


def test_a_column_of_many_kinds_can_be_sorted() -> None:
    rows = [{"v": value} for value in ("b", 2, None, True, [1], {"a": 1}, 1.5, "a")]
    assert len(query.apply(rows, [], {"order_by": ["v"]})) == len(rows)


def test_an_unknown_order_prefix_is_refused() -> None:
    with pytest.raises(ValidationErrors):
        query.apply(ROWS, [], {"order_by": ["nulls_middle:id"]})


def test_paging_counts_and_single_rows() -> None:
    assert ids(offset=1, limit=1) == [2]
    assert query.apply(ROWS, [["id", ">", 1]], {"count": True, "limit": 1}) == 2
    assert query.apply(ROWS, [["id", "=", 2]], {"get": True})["name"] == "Beta"
    with pytest.raises(MatchNotFound):
        query.apply(ROWS, [["id", "=", 9]], {"get": True})


def test_select() -> None:
    assert query.apply(ROWS, [], {"select": ["id", "in.a\\.b", ["name", "title"]], "limit": 1}) == [
        {"id": 1, "in": {"a.b": 1}, "title": "alpha"}
    ]
    assert query.apply(ROWS, [["id", "=", 3]], {"select": ["in.c", "id"]}) == [{"id": 3}]


VALUES = st.recursive(
    st.none() | st.integers() | st.text(max_size=3), lambda inner: st.lists(inner, max_size=3), max_leaves=8
)


@given(st.lists(VALUES, max_size=3), st.sampled_from(["=", "~", "in", "rin", "^", "$", ">", "C~", "C<", "x"]), VALUES)
def test_any_filter_is_applied_or_refused(rubbish: list[Any], operation: str, value: Any) -> None:
    for filters in (rubbish, [["name", operation, value]], [["OR", rubbish]]):
        try:
            query.apply(ROWS, filters, {})
        except ValidationErrors:
            continue
