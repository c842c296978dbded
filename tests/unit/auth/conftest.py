"""A store with one administrator, and an authenticator with clocks that tests move."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from middlewared.auth.authenticator import Authenticator
from middlewared.auth.passwords import ensure_administrator
from middlewared.store.database import Store
from middlewared.store.sealing import KeyRing, Sealing


@dataclass
class Clock:
    now_s: float = 1_780_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await Store.open(tmp_path / "store.db", sealing=Sealing(KeyRing.generate()))
    await ensure_administrator(store, "admin", "lab")
    yield store
    await store.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def authenticator(store: Store, clock: Clock) -> AsyncIterator[Authenticator]:
    authenticator = Authenticator(store, failures_per_minute_max=5, monotonic_s=clock, wall_s=clock)
    yield authenticator
    await authenticator.close()
