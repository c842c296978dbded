import errno

import pytest

from middlewared.auth import ratelimit
from middlewared.auth.ratelimit import MinuteLimiter, limit_key
from middlewared.errors import CallError


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def refused(limiter: MinuteLimiter, address: str, underway: int = 0) -> bool:
    try:
        limiter.check(address, underway)
    except CallError as error:
        return error.errno == errno.EBUSY
    return False


def test_failures_use_up_the_allowance_until_the_window_passes() -> None:
    clock = Clock()
    limiter = MinuteLimiter(3, clock)
    for _ in range(3):
        assert not refused(limiter, "192.0.2.1")
        limiter.count("192.0.2.1")
        clock.now_s += 10
    assert refused(limiter, "192.0.2.1")
    assert not refused(limiter, "192.0.2.2")
    clock.now_s = 1060.0
    assert not refused(limiter, "192.0.2.1")  # the first of the three is a minute old


def test_attempts_under_way_count() -> None:
    limiter = MinuteLimiter(3, Clock())
    limiter.count("192.0.2.1")
    assert not refused(limiter, "192.0.2.1", underway=1)
    assert refused(limiter, "192.0.2.1", underway=2)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::7", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("192.0.2.1", "192.0.2.2", False),
    ],
)
def test_what_is_one_place(one: str, other: str, same: bool) -> None:
    assert (limit_key(one) == limit_key(other)) is same


def test_memory_is_bounded_and_the_active_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ratelimit, "ADDRESSES_MAX", 10)
    limiter = MinuteLimiter(2, Clock())
    limiter.count("192.0.2.1")
    for number in range(100):
        limiter.count("192.0.2.1")
        limiter.count(f"198.51.100.{number}")
    assert len(limiter._counted) == 10
    assert refused(limiter, "192.0.2.1")
