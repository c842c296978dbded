"""The ring of keys: two of them become the same, and show nothing."""

import pytest

from middlewared.errors import ValidationErrors
from middlewared.plugins.pool import keys
from middlewared.plugins.pool.keys import KeyRing


def ring(**entries: tuple[str | None, int]) -> KeyRing:
    made = KeyRing()
    for dataset, (key, now_ms) in entries.items():
        made.put(dataset, key, now_ms)
    return made


def test_the_later_word_counts_on_both_sides() -> None:
    a = ring(old=("one", 10), same=("x", 5), gone=("left", 10))
    b = ring(old=("two", 20), same=("x", 5), gone=(None, 30), new=("y", 1))
    assert a.merge(b.to_wire())
    assert not b.merge(a.to_wire())
    assert a.keys == b.keys == {"old": "two", "same": "x", "new": "y"}


def test_what_was_said_here_last_counts_though_the_other_clock_is_ahead() -> None:
    a = ring(tank=("one", 10))
    a.merge([{"dataset": "tank", "key": "two", "given_ms": 1_000_000}])
    a.put("tank", "three", 20)
    assert a.keys == {"tank": "three"}
    b = ring(tank=("two", 1_000_000))
    assert b.merge(a.to_wire())
    assert b.keys == {"tank": "three"}


def test_it_shows_names_only() -> None:
    one = ring(tank=("correct horse", 1))
    assert "correct horse" not in f"{one!r} {one} {one._entries}"


def test_it_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "DATASETS_MAX", 1)
    one = ring(a=("x", 1))
    one.put("a", "y", 2)
    with pytest.raises(ValidationErrors, match="more than 1 datasets"):
        one.put("b", "z", 3)
