"""Secrets at rest: sealed with the pair's key, at their place and nowhere else."""

from pathlib import Path

import pytest

from middlewared.auth.accounts import find_by_name, set_otp_secret
from middlewared.auth.authenticator import Authenticator, Response
from middlewared.auth.identity import Origin
from middlewared.auth.passwords import ensure_administrator
from middlewared.store import sealing
from middlewared.store.database import Store
from middlewared.store.migrations import MIGRATIONS
from middlewared.store.sealing import KEYS_MAX, KeyRing, Sealing, SealingError

HERE = Origin("127.0.0.1")
SECRET = "JBSWY3DPEHPK3PXP"


async def filled(path: Path, ring: KeyRing | None) -> Store:
    """A store with an administrator who has a second factor."""
    store = await Store.open(path, sealing=Sealing(ring, required=ring is not None))
    await ensure_administrator(store, "admin", "lab")
    await store.write(lambda t: set_otp_secret(t.execute, 1, SECRET))
    return store


def raw(store: Store, column: str) -> str:
    return str(store.query(f"SELECT {column} FROM user WHERE id = 1")[0][column])


def test_a_value_opens_at_its_place_only() -> None:
    ring = KeyRing.generate()
    sealed = ring.seal("user", "otp_secret", 1, SECRET)
    assert SECRET not in sealed
    assert ring.open("user", "otp_secret", 1, sealed) == SECRET
    for place in (("user", "otp_secret", 2), ("user", "password_hash", 1), ("api_key", "otp_secret", 1)):
        with pytest.raises(SealingError, match="was altered, or belongs to another row"):
            ring.open(*place, sealed)


@pytest.mark.parametrize("position", [-1, -10, 40])
def test_an_altered_value_does_not_open(position: int) -> None:
    ring = KeyRing.generate()
    sealed = ring.seal("user", "otp_secret", 1, SECRET)
    other = "A" if sealed[position] != "A" else "B"
    altered = sealed[:position] + other + sealed[len(sealed) + position + 1 if position < 0 else position + 1 :]
    with pytest.raises(SealingError):
        ring.open("user", "otp_secret", 1, altered)


def test_the_same_value_is_never_sealed_alike() -> None:
    ring = KeyRing.generate()
    assert len({ring.seal("user", "otp_secret", 1, SECRET) for _ in range(100)}) == 100


def test_an_older_key_still_opens() -> None:
    old, new = KeyRing.generate(), KeyRing.generate()
    both = KeyRing([*new.keys, *old.keys])
    assert both.open("user", "otp_secret", 1, old.seal("user", "otp_secret", 1, SECRET)) == SECRET
    assert new.open("user", "otp_secret", 1, both.seal("user", "otp_secret", 1, SECRET)) == SECRET
    with pytest.raises(SealingError, match=f"sealed with the key {old.current_id}, which"):
        new.open("user", "otp_secret", 1, old.seal("user", "otp_secret", 1, SECRET))


def test_a_ring_is_written_and_read() -> None:
    ring = KeyRing([*KeyRing.generate().keys, *KeyRing.generate().keys])
    assert KeyRing.decode(ring.encode()) == ring
    for key in ring.keys:
        assert key.hex() not in repr(ring)


@pytest.mark.parametrize("data", [b"", b"\n", b"nonsense!", b"c2hvcnQ="])
def test_what_is_no_ring(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"base64|32 bytes"):
        KeyRing.decode(data)


def test_a_ring_is_bounded() -> None:
    keys = [bytes([number]) * 32 for number in range(KEYS_MAX + 5)]
    assert KeyRing([*keys, *keys]).keys == tuple(keys[:KEYS_MAX])


# ---------------------------------------------------------------------------------------------- in the store


async def test_no_secret_is_in_the_file(tmp_path: Path) -> None:
    store = await filled(tmp_path / "store.db", KeyRing.generate())
    account = find_by_name(store.query, "admin")
    image = (await store.snapshot()).data
    await store.close()
    assert account is not None
    assert account.password_hash is not None
    assert account.otp_secret == SECRET
    files = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for data in (image, files):
        assert SECRET.encode() not in data
        assert account.password_hash.encode() not in data


async def test_with_the_wrong_key_nobody_gets_in(tmp_path: Path) -> None:
    """And a second factor that cannot be read is not taken for none."""
    ring = KeyRing.generate()
    store = await filled(tmp_path / "store.db", ring)
    store.sealing.ring = KeyRing.generate()
    authenticator = Authenticator(store)
    with pytest.raises(SealingError, match="which this controller does not have; `middlewared pair`"):
        await authenticator.password("admin", "lab", HERE)
    assert sealing.unreadable(store.query, store.sealing.ring) == 2
    store.sealing.ring = None
    with pytest.raises(SealingError, match="which this controller does not have"):
        await authenticator.password("admin", "lab", HERE)
    with pytest.raises(SealingError, match="cannot be sealed: this controller does not have the pair's key"):
        await ensure_administrator(store, "second", "lab")
    assert store.query("SELECT username FROM user") == [{"username": "admin"}]
    store.sealing.ring = ring
    assert (await authenticator.password("admin", "lab", HERE)).response is Response.OTP_REQUIRED
    await authenticator.close()
    await store.close()


async def test_plain_values_of_before_are_sealed(tmp_path: Path) -> None:
    store = await filled(tmp_path / "store.db", None)
    assert raw(store, "otp_secret") == SECRET
    ring = KeyRing.generate()
    store.sealing.ring = ring
    assert not sealing.has_sealed(store.query)
    assert sealing.is_stale(store.query, ring)
    position = store.position
    assert await store.write(lambda t: sealing.seal_again(t, ring)) == 2
    assert store.position > position, "a change like any other: it is replicated"
    assert SECRET not in raw(store, "otp_secret")
    assert not sealing.is_stale(store.query, ring)
    account = find_by_name(store.query, "admin")
    assert account is not None
    assert account.otp_secret == SECRET
    assert await store.write(lambda t: sealing.seal_again(t, ring)) == 0
    image = (await store.snapshot()).data
    await store.close()
    assert SECRET.encode() not in image + store.path.read_bytes(), "nor is it left where it was"


async def test_sealed_again_with_a_newer_key(tmp_path: Path) -> None:
    old = KeyRing.generate()
    store = await filled(tmp_path / "store.db", old)
    both = store.sealing.ring = KeyRing([*KeyRing.generate().keys, *old.keys])
    assert sealing.unreadable(store.query, both) == 0
    assert await store.write(lambda t: sealing.seal_again(t, both)) == 2
    assert sealing.unreadable(store.query, old) == 2
    await store.close()


async def test_what_no_key_opens_stays_as_it_is(tmp_path: Path) -> None:
    store = await filled(tmp_path / "store.db", KeyRing.generate())
    before = raw(store, "otp_secret")
    strange = KeyRing.generate()
    assert not sealing.is_stale(store.query, strange)
    assert await store.write(lambda t: sealing.seal_again(t, strange)) == 0
    assert raw(store, "otp_secret") == before
    await store.close()


def test_every_secret_column_is_listed() -> None:
    """A column whose name says that it holds a secret is sealed, or stands here with a reason."""
    words = ("password", "secret", "token", "_key ", "hash")
    plain = {"created_at_ms"}
    sealed = {column for _, column in sealing.COLUMNS}
    found = {
        line.split()[0]
        for script in MIGRATIONS
        for line in script.splitlines()
        if line.startswith("    ") and any(word in line.split("--")[0].lower() + " " for word in words)
    }
    names = {name for name in found if name.islower()}
    assert names - plain == sealed
