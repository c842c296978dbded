"""Two controllers with real links: certificates renewed and revoked under them, secrets sealed, alerts in time."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import jsonschema
import pytest
from support.pairing import controller, introduce, peer_settings

from middlewared.alerts import Alerts
from middlewared.auth.accounts import find_by_name, set_otp_secret
from middlewared.auth.identity import INTERNAL, LOCAL_ORIGIN, NODE
from middlewared.auth.passwords import ensure_administrator
from middlewared.bus import Bus
from middlewared.errors import EHAUNAVAILABLE, CallError
from middlewared.peer.link import PeerLink
from middlewared.peer.pairfiles import PairFiles, der
from middlewared.peer.pairing import VALID_DAYS, generate_certificate, public_part
from middlewared.plugin import Call, Context
from middlewared.plugins.pair import methods
from middlewared.plugins.pair.methods import Pair
from middlewared.rpc import extjson
from middlewared.rpc.registry import Registry
from middlewared.rpc.validation import check_arguments
from middlewared.settings import Settings
from middlewared.store.database import Store
from middlewared.store.sealing import KeyRing, Sealing

REGISTRY = Registry.load()
DEADLINE_S = 20.0


class Controller:
    """One controller's store, link and plugin. The clock is the test's."""

    def __init__(self, folder: Path, node: str, connect: str, store: Store) -> None:
        self.node = node
        peer = peer_settings(folder / node, listen="127.0.0.1:0", connect=connect, heartbeat_ms=20, timeout_ms=5000)
        self.settings = Settings(node=cast(Any, node), state_dir=str(folder / node), peer=peer)
        self.files = PairFiles(peer)
        self.store = store
        self.alerts = Alerts(Bus(), store)
        self.link = PeerLink(peer, node)
        self.link.serve_call = self._serve
        self.changed = asyncio.Event()
        self.link.on_connected = self.link.on_lost = self.changed.set
        self.now = datetime.now(UTC)
        unused = cast(Any, None)
        context = Context(
            settings=self.settings,
            ports=unused,
            store=store,
            bus=unused,
            jobs=unused,
            alerts=self.alerts,
            audit=unused,
            authenticator=unused,
            peer=self.link,
            registry=REGISTRY,
            call=unused,
        )
        self.plugin = Pair(context, now=lambda: self.now)

    async def call(self, name: str, *arguments: Any, credential: Any = INTERNAL) -> Any:
        """As a client's call arrives; the result checked against the schema."""
        method = REGISTRY.methods[name]
        filled = check_arguments(method.params, list(arguments))
        handler = getattr(self.plugin, name.removeprefix("pair."))
        result = extjson.plain(await handler(Call(credential, LOCAL_ORIGIN), *filled))
        jsonschema.validate(result, method.spec["result"]["schema"])
        return result

    async def _serve(self, name: str, args: list[Any], on_progress: Any) -> Any:
        return "pong" if name == "core.ping" else await self.call(name, *args, credential=NODE)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for something that comes with the link's going or coming, or with a look at the files."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                self.changed.clear()
                await self.plugin.look()
                if holds():
                    return
                await self.changed.wait()

    def alert(self, key: str) -> dict[str, Any] | None:
        return next((alert for alert in self.alerts.list() if alert["key"] == key), None)

    def pinned(self) -> list[bytes]:
        return [der(one) for one in self.files.pinned()]

    def own(self) -> bytes:
        return der(self.files.own())


@pytest.fixture
async def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    """Build one controller; its plugin looks when the test says so."""
    monkeypatch.setattr(methods, "LOOK_S", 3600.0)
    built: list[Controller] = []

    async def make(node: str, connect: str = "127.0.0.1:1", store: Store | None = None) -> Controller:
        opened = store or await Store.open(tmp_path / node / "store.db", sealing=Sealing(KeyRing.generate()))
        one = Controller(tmp_path, node, connect, opened)
        built.append(one)
        await one.plugin.start()
        await one.link.start()
        return one

    yield make
    for one in built:
        await one.plugin.stop()
        await one.link.stop()
        await one.store.close()


@pytest.fixture
async def pair(build: Any, tmp_path: Path) -> tuple[Controller, Controller]:
    """Paired with a code, connected."""
    await introduce(controller(tmp_path, "A"), controller(tmp_path, "B"))
    b = await build("B")
    a = await build("A", b.link.listening_at[0])
    await a.until(lambda: a.link.connected)
    await b.until(lambda: b.link.connected)
    return a, b


async def test_status(pair: tuple[Controller, Controller]) -> None:
    for one, other in (pair, pair[::-1]):
        status = await one.call("pair.status")
        assert status["partner"] == f"{other.node} (controller-{other.node.lower()})"
        assert (status["paired"], status["connected"], status["next"]) == (True, True, None)
        assert status["own"] == (await other.call("pair.status"))["other"]


async def test_status_of_nobody(build: Any) -> None:
    alone = await build("A")
    assert await alone.call("pair.status") == {
        "paired": False,
        "partner": "",
        "connected": False,
        "own": None,
        "other": None,
        "next": None,
    }


@pytest.mark.parametrize("node", ["A", "B"])
async def test_renewed_under_a_live_link(pair: tuple[Controller, Controller], node: str) -> None:
    mine, other = pair if node == "A" else pair[::-1]
    old = mine.own()
    status = await mine.call("pair.rotate")
    new = mine.own()
    assert new != old
    assert status["connected"]
    assert other.pinned() == [old, new], "until the new one has been seen, the old one is trusted, too"
    assert (await other.call("pair.status"))["next"]["fingerprint"] == status["own"]["fingerprint"]
    await other.until(lambda: other.pinned() == [new])
    assert other.link.proof == new
    assert mine.link.connected
    assert other.files.partner() == f"{node} (controller-{node.lower()})"
    assert await mine.link.call("core.ping", []) == "pong"


async def test_renewed_again_and_again(pair: tuple[Controller, Controller]) -> None:
    a, b = pair
    for mine, other in ((a, b), (b, a), (a, b), (a, b)):
        await mine.call("pair.rotate")
        await other.until(lambda other=other, mine=mine: other.pinned() == [mine.own()])
    assert a.link.connected


async def test_whoever_dies_on_the_way_still_gets_in(pair: tuple[Controller, Controller]) -> None:
    """The other has pinned the next certificate, and we never change over: the old one goes on being good."""
    a, b = pair
    lost = public_part(generate_certificate("A"))
    await a.link.call("pair.pin", [lost.decode()])
    assert len(b.pinned()) == 2
    await a.link.follow_files()
    await b.until(lambda: b.link.connected)
    await b.plugin.look()
    assert b.pinned()[0] == a.own()
    await a.call("pair.rotate")
    await b.until(lambda: b.pinned() == [a.own()])


async def test_renewed_although_the_link_is_lost_on_the_way(pair: tuple[Controller, Controller]) -> None:
    """Once, just as the other was asked to pin: it is asked again when the link is back."""
    a, b = pair
    serve, lost = b.link.serve_call, []

    async def lose_it_first(name: str, args: list[Any], on_progress: Any) -> Any:
        if name == "pair.pin" and not lost:
            lost.append(name)
            b.link._end(b.link._session, "for the test")
        return await serve(name, args, on_progress)

    b.link.serve_call = lose_it_first
    await a.call("pair.rotate")
    assert lost
    await b.until(lambda: b.pinned() == [a.own()])


async def test_not_renewed_without_the_other(build: Any, tmp_path: Path) -> None:
    await introduce(controller(tmp_path, "A"), controller(tmp_path, "B"))
    a = await build("A")
    old = a.own()
    with pytest.raises(CallError, match="Controller B is not connected, so that it would not trust a new certificate"):
        await a.call("pair.rotate")
    assert a.own() == old


async def test_nobody_else_says_what_to_pin(pair: tuple[Controller, Controller]) -> None:
    a, b = pair
    certificate = public_part(generate_certificate("A")).decode()
    with pytest.raises(CallError, match="Only the other controller"):
        await b.call("pair.pin", certificate)
    with pytest.raises(CallError, match="no certificate"):
        await a.link.call("pair.pin", ["nonsense"])
    old = generate_certificate("A", now=datetime.now(UTC) - timedelta(days=VALID_DAYS + 1))
    with pytest.raises(CallError, match="is not valid: set both clocks"):
        await a.link.call("pair.pin", [public_part(old).decode()])
    assert b.pinned() == [a.own()]


async def test_forgotten(pair: tuple[Controller, Controller]) -> None:
    a, b = pair
    assert await b.call("pair.forget") is True
    assert not b.link.connected
    assert not b.link.paired
    await a.until(lambda: not a.link.connected)
    assert await b.call("pair.forget") is False


async def test_forgotten_from_outside(pair: tuple[Controller, Controller]) -> None:
    """As `middlewared pair --forget` does: the next look sees it."""
    _, b = pair
    b.files.forget()
    await b.plugin.look()
    assert not b.link.connected
    assert b.link.listening_at == ()


async def test_busy_while_somebody_pairs(pair: tuple[Controller, Controller]) -> None:
    _, b = pair
    with b.files.exclusive(), pytest.raises(CallError, match="under way here; try again"):
        await b.call("pair.forget")
    assert b.link.connected


async def test_paired_while_it_runs(build: Any, tmp_path: Path) -> None:
    """Both run, unpaired, each with a store of its own; then a code, and the link is up and both keys are known."""
    a, b = await build("A"), await build("B")
    for one in (a, b):
        one.store.sealing.ring = one.files.make_ring()
        await one.plugin.look()
    own = b.store.sealing.ring
    await introduce(controller(tmp_path, "A"), controller(tmp_path, "B"))
    await b.until(lambda: b.link.listening_at != ())
    await a.plugin.look()
    assert a.store.sealing.ring == b.store.sealing.ring
    assert own is not None
    assert own.keys[0] in b.store.sealing.ring.keys
    assert a.link.paired


# ---------------------------------------------------------------------------------------------- alerts


async def test_a_certificate_that_expires(pair: tuple[Controller, Controller]) -> None:
    a, _ = pair
    until = a.files.own().not_valid_after_utc
    a.now = until - timedelta(days=31)
    await a.plugin.look()
    assert a.alert("pair.certificate.A") is None
    a.now = until - timedelta(days=29)
    await a.plugin.look()
    for node in "AB":
        alert = a.alert(f"pair.certificate.{node}")
        assert alert is not None
        assert (alert["level"], alert["node"]) == ("WARNING", node)
        assert f"`middlewared pair --rotate` on {node} renews it" in alert["text"]
    a.now = until + timedelta(days=1)
    await a.plugin.look()
    alert = a.alert("pair.certificate.A")
    assert alert is not None
    assert alert["level"] == "CRITICAL"
    assert "expired on" in alert["text"]
    assert "`middlewared pair` on both" in alert["text"]
    a.now = datetime.now(UTC)
    await a.plugin.look()
    assert a.alert("pair.certificate.A") is None


async def test_damaged_files(pair: tuple[Controller, Controller]) -> None:
    a, _ = pair
    path = Path(a.settings.peer.peer_certificate)
    good = path.read_bytes()
    path.write_text("nonsense")
    await a.plugin.look()
    alert = a.alert("pair.files")
    assert alert is not None
    assert (alert["level"], "mends it" in alert["text"]) == ("CRITICAL", True)
    assert a.link.paired
    path.write_bytes(good)
    await a.plugin.look()
    assert a.alert("pair.files") is None
    await a.until(lambda: a.link.connected)


# ---------------------------------------------------------------------------------------------- secrets


async def with_second_factor(store: Store) -> None:
    await ensure_administrator(store, "admin", "lab")
    await store.write(lambda t: set_otp_secret(t.execute, 1, "JBSWY3DPEHPK3PXP"))


def raw(store: Store) -> str:
    return str(store.query("SELECT otp_secret FROM user")[0]["otp_secret"])


async def test_what_was_plain_is_sealed(build: Any, tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "A" / "store.db", sealing=Sealing(required=False))
    await with_second_factor(store)
    a = await build("A", store=store)
    store.sealing.ring = a.files.make_ring()
    await a.plugin.look()
    assert raw(store).startswith(f"sealed:1:{store.sealing.ring.current_id}:")
    account = find_by_name(store.query, "admin")
    assert account is not None
    assert account.otp_secret == "JBSWY3DPEHPK3PXP"


async def test_a_standby_waits_for_its_leader_to_seal(build: Any, tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "A" / "store.db", sealing=Sealing(required=False))
    await with_second_factor(store)
    a = await build("A", store=store)
    store.sealing.ring = a.files.make_ring()

    def refuse() -> None:
        raise CallError("This controller (A) is the standby", EHAUNAVAILABLE)

    store.guard = refuse
    await a.plugin.look()
    assert raw(store) == "JBSWY3DPEHPK3PXP"
    store.guard = None
    await a.plugin.look()
    assert raw(store).startswith("sealed:1:")


async def test_a_key_that_is_missing(build: Any, tmp_path: Path) -> None:
    """It is told, nothing is made up in its place, and all is well when it is back."""
    store = await Store.open(tmp_path / "A" / "store.db", sealing=Sealing(KeyRing.generate()))
    await with_second_factor(store)
    ring = store.sealing.ring
    assert ring is not None
    store.sealing.ring = None
    a = await build("A", store=store)
    await a.plugin.look()
    alert = a.alert("pair.key")
    assert alert is not None
    assert alert["level"] == "CRITICAL"
    assert "2 secrets of the configuration" in alert["text"]
    assert "Copy that file from the other controller" in alert["text"]
    assert a.files.ring() is None
    a.files.write_ring(KeyRing.generate())
    await a.plugin.look()
    assert "lacks the key" in a.alert("pair.key")["text"]
    a.files.write_ring(ring)
    await a.plugin.look()
    assert a.alert("pair.key") is None
    account = find_by_name(store.query, "admin")
    assert account is not None
    assert account.otp_secret == "JBSWY3DPEHPK3PXP"


async def test_keys_that_differ_are_shared(pair: tuple[Controller, Controller]) -> None:
    """As on a pair from before there were keys, each of which made its own: A's seals, both know both."""
    a, b = pair
    keys = {}
    for one in pair:
        ring = KeyRing.generate()
        one.files.write_ring(ring)
        await one.plugin.look()
        keys[one.node] = ring.keys[0]
        one.plugin._shared_with = None  # as if the link had just come up
    await b.plugin.look()
    await a.plugin.look()
    for one in pair:
        assert one.store.sealing.ring is not None
        assert one.store.sealing.ring.keys[:2] == (keys["A"], keys["B"])
        assert one.files.ring() == one.store.sealing.ring
    stamps = [one.files.stamp() for one in pair]
    for one in pair:
        one.plugin._shared_with = None
        await one.plugin.look()
    assert [one.files.stamp() for one in pair] == stamps, "and that is that"


async def test_a_lost_key_comes_back_over_the_link(pair: tuple[Controller, Controller]) -> None:
    a, b = pair
    ring = a.store.sealing.ring
    b.files.key_path.unlink()
    b.store.sealing.ring = None
    b.plugin._shared_with = None
    await b.plugin.look()
    assert b.files.ring() == b.store.sealing.ring == ring
    assert b.alert("pair.key") is None


async def test_nobody_else_gets_the_keys(pair: tuple[Controller, Controller]) -> None:
    a, _ = pair
    with pytest.raises(CallError, match="Only the other controller gets the keys"):
        await a.call("pair.keys")


async def test_a_store_from_the_other_is_read_with_its_key(build: Any, tmp_path: Path) -> None:
    """Whichever store survives the first pairing; and what was kept aside can be read, too."""
    a, b = await build("A"), await build("B")
    for one in (a, b):
        one.store.sealing.ring = one.files.make_ring()
        await with_second_factor(one.store)
    of_a, of_b = await a.store.snapshot(), await b.store.snapshot()
    await introduce(controller(tmp_path, "A"), controller(tmp_path, "B"))
    for one in (a, b):
        one.store.guard = None
        await one.plugin.look()
    for one in (a, b):
        for image in (of_a, of_b):
            await one.store.restore(image.data)
            account = find_by_name(one.store.query, "admin")
            assert account is not None
            assert account.otp_secret == "JBSWY3DPEHPK3PXP"
            await one.plugin.look()
            assert one.alert("pair.key") is None
            assert one.store.sealing.ring.is_fresh(raw(one.store))
