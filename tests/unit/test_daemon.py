"""The store as the daemon opens it: with a key, which the first start makes and no later one replaces."""

from pathlib import Path

import pytest

from middlewared.auth.passwords import ensure_administrator
from middlewared.daemon import _open_store
from middlewared.peer.pairfiles import PairFiles
from middlewared.settings import Settings, load
from middlewared.store.sealing import SealingError


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    config = tmp_path / "middlewared.toml"
    config.write_text(f'state_dir = "{tmp_path / "state"}"\n')
    return load(config)


async def test_the_first_start_makes_the_key(settings: Settings) -> None:
    store = await _open_store(settings)
    await ensure_administrator(store, "admin", "lab")
    await store.close()
    key = PairFiles(settings.peer).key_path
    assert key == Path(settings.state_dir) / "peer" / "pair.key"
    assert (key.stat().st_mode & 0o777, key.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    made = key.read_bytes()
    again = await _open_store(settings)
    assert key.read_bytes() == made
    assert again.sealing.ring == PairFiles(settings.peer).ring()
    await again.close()


@pytest.mark.parametrize("damage", ["removed", "nonsense"])
async def test_a_lost_key_is_not_made_up(settings: Settings, damage: str) -> None:
    """The daemon starts all the same: failover needs no passwords."""
    store = await _open_store(settings)
    await ensure_administrator(store, "admin", "lab")
    await store.close()
    key = PairFiles(settings.peer).key_path
    if damage == "removed":
        key.unlink()
    else:
        key.write_text("nonsense")
    again = await _open_store(settings)
    assert again.sealing.ring is None
    assert key.exists() == (damage == "nonsense")
    with pytest.raises(SealingError, match="cannot be sealed"):
        await ensure_administrator(again, "second", "lab")
    await again.close()
