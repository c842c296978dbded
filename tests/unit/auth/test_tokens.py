from typing import Any

import pytest

from middlewared.auth import tokens as module
from middlewared.auth.identity import Credential, Origin
from middlewared.auth.tokens import Token, Tokens
from middlewared.errors import CallError

EVE = Credential("LOGIN_PASSWORD", "eve", frozenset({"FAILOVER_READ"}))
HERE = Origin("192.0.2.1")
THERE = Origin("192.0.2.2")


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def issue(tokens: Tokens, **changes: Any) -> str:
    given: dict[str, Any] = {"credential": EVE, "origin": HERE, "ttl_s": 600, **changes}
    return tokens.issue(Token(**given))


def test_a_token_lives_from_its_last_use() -> None:
    clock = Clock()
    tokens = Tokens(clock)
    text = issue(tokens)
    for clock.now_s in (599.0, 1198.0):
        assert tokens.redeem(text, HERE) is not None
    clock.now_s = 1798.0
    assert tokens.redeem(text, HERE) is None


def test_a_single_use_token_ends_with_its_use_and_not_with_a_refusal() -> None:
    tokens = Tokens(Clock())
    text = issue(tokens, single_use=True)
    assert tokens.redeem(text, THERE) is None
    assert tokens.redeem(text, HERE) is not None
    assert tokens.redeem(text, HERE) is None


def test_a_token_without_an_origin_is_good_anywhere() -> None:
    tokens = Tokens(Clock())
    text = issue(tokens, origin=None)
    assert tokens.redeem(text, THERE) is not None


def test_a_token_with_attributes_is_good_for_that_purpose_only() -> None:
    tokens = Tokens(Clock())
    text = issue(tokens, attrs={"job": 7})
    assert tokens.redeem(text, HERE) is None
    assert tokens.redeem(text, HERE, {"job": 8}) is None
    assert tokens.redeem(text, HERE, {"job": 7}) is not None
    plain = issue(tokens)
    assert tokens.redeem(plain, HERE, {"job": 7}) is not None  # a whole login includes it


@pytest.mark.parametrize("text", ["", "x", "\ud800"])
def test_nonsense_is_no_token(text: str) -> None:
    assert Tokens(Clock()).redeem(text, HERE) is None


def test_tokens_are_bounded_and_expired_ones_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOKENS_PER_USER_MAX", 3)
    clock = Clock()
    tokens = Tokens(clock)
    for _ in range(3):
        issue(tokens)
    with pytest.raises(CallError, match="Too many tokens"):
        issue(tokens)
    issue(tokens, credential=Credential("LOGIN_PASSWORD", "bob"))
    clock.now_s = 600.0
    assert tokens.redeem(issue(tokens), HERE) is not None
