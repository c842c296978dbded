"""Slow checks: bounded, shared, remembered."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from middlewared.auth import passwords
from middlewared.auth.passwords import SlowChecks, ensure_administrator, hash_password
from middlewared.errors import CallError
from middlewared.store.database import Store


class Gate:
    """A slow function that waits for the test; counts how often it ran."""

    def __init__(self, verdict: bool = True) -> None:
        self.open = threading.Event()
        self.runs = 0
        self.verdict = verdict

    def __call__(self) -> bool:
        self.open.wait(10)
        self.runs += 1
        return self.verdict


@pytest.fixture
async def slow() -> AsyncIterator[SlowChecks]:
    slow = SlowChecks()
    yield slow
    await slow.close()


async def test_right_wrong_and_no_password(slow: SlowChecks) -> None:
    stored = hash_password("lab")
    assert stored.startswith("$argon2id$")
    assert await slow.password("192.0.2.1", stored, "lab")
    assert not await slow.password("192.0.2.1", stored, "lap")
    assert not await slow.password("192.0.2.1", None, "lab")
    assert not await slow.password("192.0.2.1", "not a hash", "lab")
    assert not await slow.password("192.0.2.1", stored, "\ud800")


async def test_nobodys_check_costs_what_everybodys_costs() -> None:
    parameters = [encoded.split("$")[1:4] for encoded in (passwords._NOBODY, hash_password("lab"))]
    assert parameters[0] == parameters[1]


async def test_a_success_is_remembered_a_failure_is_not(slow: SlowChecks) -> None:
    right, wrong = Gate(True), Gate(False)
    right.open.set()
    wrong.open.set()
    for _ in range(3):
        assert await slow.check("192.0.2.1", "verifier", "secret", right)
        assert not await slow.check("192.0.2.1", "verifier", "guess", wrong)
    assert (right.runs, wrong.runs) == (1, 3)
    assert await slow.check("192.0.2.1", "new verifier", "secret", right)  # a changed password is checked anew
    assert right.runs == 2


async def test_equal_checks_under_way_are_one(slow: SlowChecks) -> None:
    gate = Gate()
    checks = [asyncio.create_task(slow.check("192.0.2.1", "verifier", "secret", gate)) for _ in range(500)]
    await asyncio.sleep(0)
    assert slow.waiting("192.0.2.1") == 1
    checks[0].cancel()  # whoever came first may go: the others still get their answer
    gate.open.set()
    results = await asyncio.gather(*checks, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1:] == [True] * 499
    assert gate.runs == 1


async def test_one_address_cannot_take_every_place(slow: SlowChecks) -> None:
    gate = Gate()
    flood = [
        asyncio.create_task(slow.check("192.0.2.1", "verifier", str(number), gate))
        for number in range(passwords.WAITING_PER_ADDRESS_MAX + 5)
    ]
    await asyncio.sleep(0)
    other = asyncio.create_task(slow.check("192.0.2.2", "verifier", "mine", gate))
    gate.open.set()
    results = await asyncio.gather(*flood, return_exceptions=True)
    refused = [result for result in results if isinstance(result, CallError)]
    assert [error.errno for error in refused] == [16] * 5
    assert await other
    assert slow.waiting("192.0.2.1") == 0


async def test_the_queue_is_bounded(slow: SlowChecks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "WAITING_MAX", 3)
    gate = Gate()
    flood = [asyncio.create_task(slow.check(f"192.0.2.{n}", "verifier", str(n), gate)) for n in range(5)]
    await asyncio.sleep(0)
    gate.open.set()
    results = await asyncio.gather(*flood, return_exceptions=True)
    assert [isinstance(result, CallError) for result in results] == [False, False, False, True, True]


async def test_what_is_remembered_is_bounded(slow: SlowChecks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "VERIFIED_MAX", 2)
    gate = Gate()
    gate.open.set()
    for secret in ("a", "b", "c", "c", "a"):
        await slow.check("192.0.2.1", "verifier", secret, gate)
    assert gate.runs == 4


async def test_ensure_administrator_keeps_what_is_there(store: Store) -> None:
    before = store.query("SELECT * FROM user")
    await ensure_administrator(store, "admin", "another")
    assert store.query("SELECT * FROM user") == before
    assert before[0]["groups"] == '["builtin_administrators"]'
