"""A link that runs follows the files of the pairing: who is pinned gets in, who is not any more is thrown out."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from support.pairing import peer_settings

from middlewared.peer.link import PeerLink
from middlewared.peer.pairfiles import PairFiles, der
from middlewared.peer.pairing import generate_certificate, public_part
from middlewared.settings import SettingsError
from tests.unit.peer.conftest import DEADLINE_S, Side


class Place:
    """One controller's files, and its link."""

    def __init__(self, folder: Path, node: str, **settings: object) -> None:
        self.node = node
        self.settings = peer_settings(folder / node, heartbeat_ms=20, timeout_ms=5000, **settings)
        self.files = PairFiles(self.settings)
        self.side = Side(PeerLink(self.settings, node))

    @property
    def link(self) -> PeerLink:
        return self.side.link

    @property
    def address(self) -> str:
        return self.link.listening_at[0]

    def pin(self, *pems: bytes) -> None:
        path = Path(self.settings.peer_certificate)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(public_part(pem) for pem in pems))


Start = Callable[..., Awaitable[Place]]
A, B, C, A2 = (generate_certificate(node) for node in "ABCA")


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    places: list[Place] = []

    async def begin(node: str, own: bytes, *pins: bytes, connect: str = "127.0.0.1:1") -> Place:
        place = Place(tmp_path, node, listen="127.0.0.1:0", connect=connect)
        place.files.write_own(own)
        if pins:
            place.pin(*pins)
        place.side = Side(PeerLink(place.settings, node))
        places.append(place)
        await place.link.start()
        return place

    yield begin
    for place in places:
        await place.link.stop()


@pytest.fixture
async def pair(start: Start) -> tuple[Place, Place]:
    b = await start("B", B, A)
    a = await start("A", A, B, connect=b.address)
    await a.side.until("connected")
    await b.side.until("connected")
    return a, b


async def test_unpaired_nobody_listens(start: Start) -> None:
    b = await start("B", B)
    assert not b.link.paired
    assert b.link.listening_at == ()


async def test_an_empty_file_pins_nobody(start: Start) -> None:
    b = await start("B", B)
    Path(b.settings.peer_certificate).write_bytes(b"")
    await b.link.follow_files()
    assert not b.link.paired
    assert b.link.listening_at == ()


async def test_paired_while_it_runs(start: Start) -> None:
    b = await start("B", B)
    b.pin(A)
    await b.link.follow_files()
    assert b.link.paired
    a = await start("A", A, B, connect=b.address)
    await a.side.until("connected")
    await b.side.until("connected")
    assert b.link.proof == der(a.files.own())


async def test_forgotten(pair: tuple[Place, Place]) -> None:
    """The connection ends at once, nobody listens any more, and who calls learns that there is nobody."""
    a, b = pair
    address = b.address
    assert b.files.forget()
    await b.link.follow_files()
    assert b.side.history[-1] == "lost"
    assert not b.link.paired
    assert b.link.listening_at == ()
    assert b.link.proof is None
    await a.side.until("lost")
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*address.split(":"))


async def test_another_controller_in_its_place(pair: tuple[Place, Place], start: Start, tmp_path: Path) -> None:
    a, b = pair
    b.pin(C)
    await b.link.follow_files()
    assert b.side.history[-1] == "lost"
    await a.side.until("lost")
    shutil.rmtree(tmp_path / "A")
    new = await start("A", C, B, connect=b.address)
    await new.side.until("connected")
    await b.side.until("connected")
    assert b.link.proof == der(new.files.own())
    assert not a.link.connected


async def test_a_certificate_beside_the_other_disturbs_nobody(pair: tuple[Place, Place]) -> None:
    _, b = pair
    b.pin(A, A2)
    await b.link.follow_files()
    assert b.link.connected
    assert b.side.history == ["connected"]


@pytest.mark.parametrize("node", ["A", "B"])
async def test_renewed(pair: tuple[Place, Place], node: str) -> None:
    """Each side in turn: pinned beside the old one, changed over, and the old one forgotten."""
    a, b = pair
    mine, other = (a, b) if node == "A" else (b, a)
    old, new = (A, A2) if node == "A" else (B, C)
    other.pin(old, new)
    await other.link.follow_files()
    mine.files.write_own(new)
    await mine.link.follow_files()
    for place in (a, b):
        await place.side.until("lost")
        await place.side.until("connected")
    assert other.link.proof == der(mine.files.own())
    other.pin(new)
    await other.link.follow_files()
    assert other.link.connected
    mine.files.write_own(old)  # whoever has the old one gets nothing any more
    await mine.link.follow_files()
    await other.side.until("lost")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(other.side.until("connected"), 0.3)


async def test_damaged_files_trust_nobody(pair: tuple[Place, Place]) -> None:
    """But the controller does not take itself for a single one: the other may still lead."""
    a, b = pair
    Path(b.settings.peer_certificate).write_text("nonsense")
    with pytest.raises(SettingsError, match="no PEM certificate in it; `middlewared pair` mends it"):
        await b.link.follow_files()
    assert b.link.paired
    assert b.link.listening_at == ()
    await a.side.until("lost")
    b.pin(A)
    await b.link.follow_files()
    assert b.link.listening_at != ()


async def test_a_certificate_without_key_changes_nothing(pair: tuple[Place, Place]) -> None:
    a, b = pair
    b.files.write_own(public_part(C))
    with pytest.raises(SettingsError, match="no key that fits"):
        await b.link.follow_files()
    b.files.write_own(B)
    await b.link.follow_files()
    async with asyncio.timeout(DEADLINE_S):
        await a.side.until("lost")


async def test_three_are_too_many(start: Start) -> None:
    with pytest.raises(SettingsError, match="3 certificates, at most 2"):
        await start("B", B, A, A2, C)


async def test_with_a_note_of_whose_it_is(tmp_path: Path) -> None:
    files = PairFiles(peer_settings(tmp_path))
    assert files.partner() == ""
    files.write_own(A)
    files.pin([files.own()], "A (controller-a)")
    assert files.partner() == "A (controller-a)"
    assert files.pinned() == (files.own(),)
    assert files.forget()
    assert not files.forget()


async def test_keys_are_made_once(tmp_path: Path) -> None:
    """However many ask at the same time."""
    files = PairFiles(peer_settings(tmp_path))
    rings = await asyncio.gather(*(asyncio.to_thread(files.make_ring) for _ in range(8)))
    assert len(set(rings)) == 1
    assert [path.name for path in files.key_path.parent.iterdir()] == ["pair.key"]
    files.key_path.write_text("nonsense")
    with pytest.raises(SettingsError, match=r"pair\.key: .*copy the other controller's file here, or pair again"):
        files.make_ring()
