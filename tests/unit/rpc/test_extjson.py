import contextlib
from datetime import UTC, date, datetime, time, timedelta, timezone
from ipaddress import IPv4Interface, IPv6Interface
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from middlewared.rpc import extjson
from middlewared.rpc.limits import JSON_DEPTH_MAX

PAIRS: list[tuple[Any, Any]] = [
    (datetime(2026, 11, 23, 11, 3, 0, 890000, tzinfo=UTC), {"$date": 1795431780890}),
    (date(2026, 11, 23), {"$type": "date", "$value": "2026-11-23"}),
    (time(12, 30, 1, 5), {"$time": "12:30:01.000005"}),
    ({"FULL_ADMIN"}, {"$set": ["FULL_ADMIN"]}),
    (IPv4Interface("10.0.0.1/24"), {"$ipv4_interface": "10.0.0.1/24"}),
    (IPv6Interface("2001:db8::1/64"), {"$ipv6_interface": "2001:db8::1/64"}),
]


@pytest.mark.parametrize(("value", "wire"), PAIRS)
def test_both_ways_at_any_depth(value: Any, wire: Any) -> None:
    assert extjson.plain({"a": [value]}) == {"a": [wire]}
    assert extjson.decode({"a": [wire]}) == {"a": [value]}


def test_times_with_and_without_zone() -> None:
    east = datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=1)))
    assert extjson.plain([east, datetime(2026, 1, 1)]) == [{"$date": 1767225600000}] * 2
    assert extjson.plain(datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)) == {"$date": -1000}


def test_further_members_leave_an_object_alone() -> None:
    for value in ({"$date": 1, "x": 2}, {"$type": "date"}, {"$type": "date", "$value": "2026-01-01", "x": 1}, {"a": 1}):
        assert extjson.decode(value) == value


@pytest.mark.parametrize(
    "wire",
    [
        {"$date": "1"},
        {"$date": True},
        {"$date": 10**18},
        {"$time": 5},
        {"$time": "25:00"},
        {"$set": 1},
        {"$set": [{}]},
        {"$ipv4_interface": "x"},
        {"$type": "date", "$value": "x"},
    ],
)
def test_malformed_objects_are_refused(wire: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  any text will do, no other exception
        extjson.decode([wire])


@pytest.mark.parametrize("value", [object(), b"x", 1 << 64, {1: 2}, "\ud800"])
def test_what_json_cannot_hold(value: Any) -> None:
    with pytest.raises(TypeError):
        extjson.dumps(value)


def test_depth_is_bounded_and_breadth_is_not() -> None:
    assert extjson.loads("[" * JSON_DEPTH_MAX + "]" * JSON_DEPTH_MAX)
    assert len(extjson.loads("[" + ",".join(["{}"] * 1000) + "]")) == 1000
    for text in ("[" * (JSON_DEPTH_MAX + 1) + "]" * (JSON_DEPTH_MAX + 1), "[" * 100_000):
        with pytest.raises(ValueError, match=r"deep|depth"):
            extjson.loads(text)


@given(st.text())
def test_any_text_is_parsed_or_refused(text: str) -> None:
    with contextlib.suppress(ValueError, TypeError):
        extjson.dumps(extjson.loads(text))
