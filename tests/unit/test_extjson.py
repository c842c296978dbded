"""One value at a time; whole documents: tests/unit/rpc, client and peer."""

import pytest

from middlewared.extjson import decode_object, encode_special


@pytest.mark.parametrize(
    ("wire", "complaint"),
    [
        ({"$date": 1.5}, r"\$date takes an integer of milliseconds"),
        ({"$date": True}, r"\$date takes an integer of milliseconds"),
        ({"$date": 1 << 80}, r"\$date: "),
        ({"$time": 5}, r"\$time takes a text"),
        ({"$set": "abc"}, r"\$set takes a list"),
        ({"$set": [[]]}, r"\$set: .*unhashable"),
        ({"$ipv4_interface": "::1/64"}, r"\$ipv4_interface: "),
        ({"$ipv6_interface": "10.0.0.1/24"}, r"\$ipv6_interface: "),
        ({"$type": "date", "$value": "2026-13-01"}, "month"),
    ],
)
def test_wrong_contents_are_named(wire, complaint):
    with pytest.raises(ValueError, match=complaint):
        decode_object(wire)


@pytest.mark.parametrize("value", [{}, {"a": 1}, {"$dates": 1}, {"$date": 1, "b": 2}, {"$type": "date", "$value": 5}])
def test_other_objects_are_nobodys_business(value):
    assert decode_object(value) is value


@pytest.mark.parametrize("value", [object(), b"x", 1 + 1j])
def test_what_has_no_form(value):
    with pytest.raises(TypeError, match="has no JSON form"):
        encode_special(value)


def test_sets_are_written_in_an_order_that_stays():
    assert encode_special({"b", "a", "c"}) == {"$set": ["a", "b", "c"]}
