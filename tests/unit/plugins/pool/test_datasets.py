"""Encrypted datasets: two controllers that hand each other keys, and leave them nowhere else."""

import asyncio
import dataclasses
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from middlewared.alerts import Alerts
from middlewared.audit import AuditLog
from middlewared.auth.identity import INTERNAL, LOCAL_ORIGIN, NODE, Credential
from middlewared.bus import Bus
from middlewared.errors import CallError, ValidationErrors
from middlewared.plugin import Call, Context
from middlewared.plugins.pool.methods import Datasets
from middlewared.ports import Dataset, Listener, PortError, Ports
from middlewared.rpc.dispatch import Dispatcher
from middlewared.rpc.registry import Registry
from middlewared.settings import Settings
from middlewared.store.database import Store

KEY = "correct horse"
ADMIN = Credential("LOGIN_PASSWORD", "root", frozenset({"FULL_ADMIN"}))


class FakePools:
    """One pool with one encrypted dataset."""

    def __init__(self) -> None:
        self.imported = True
        self.locked = True
        self.unmounted = False
        self.key_format = "passphrase"
        self.held: Mapping[str, str] = {}
        self._listeners: list[Listener] = []

    async def datasets(self) -> Sequence[Dataset]:
        dataset = Dataset("tank/secret", True, self.locked, self.unmounted, self.key_format, "prompt")
        return [dataset] if self.imported else []

    async def unlock(self, dataset: str, key: str) -> None:
        if key != KEY:
            raise PortError(f"Key load error: Incorrect key provided for '{dataset}'.")
        self.locked = False

    def hold_keys(self, keys: Mapping[str, str]) -> None:
        self.held = keys

    def on_change(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def change(self) -> None:
        for listener in self._listeners:
            listener()


class FakeLink:
    """The peer link, as far as it is used here."""

    paired = True
    other: "Controller | None" = None

    def __init__(self) -> None:
        self.on_connected: Callable[[], None] = lambda: None

    async def call(self, method: str, args: list[Any], *, timeout_s: float, connect_timeout_s: float) -> Any:
        if self.other is None:
            raise CallError("Could not connect to the other controller within 0.0 seconds")
        return await self.other.call(method, *args, credential=NODE)


class Controller:
    """The plugin as a daemon runs it: behind the dispatcher, with an audit log and a store in files."""

    def __init__(self, store: Store, audit: AuditLog, node: str) -> None:
        self.pools = FakePools()
        self.link = FakeLink()
        self.audit = audit
        bus = Bus()
        unused = cast(Any, None)
        parts = {field.name: unused for field in dataclasses.fields(Ports)}
        registry = Registry.load()
        self.context = Context(
            settings=Settings(node=cast(Any, node)),
            ports=Ports(**(parts | {"pools": self.pools})),
            store=store,
            bus=bus,
            jobs=unused,
            alerts=Alerts(bus, store),
            audit=audit,
            authenticator=unused,
            peer=cast(Any, self.link),
            registry=registry,
            call=unused,
        )
        self.plugin = Datasets(self.context)
        for name in ("encryption", "unlock", "forget_key", "receive_keys", "push_keys"):
            registry.bind(f"pool.dataset.{name}", getattr(self.plugin, name))
        self._dispatcher = Dispatcher(registry, unused, Call, audit.record)

    async def call(self, name: str, *arguments: Any, credential: Credential = ADMIN) -> Any:
        return await self._dispatcher.call(name, arguments, credential=credential, origin=LOCAL_ORIGIN)

    def alerts(self) -> list[str]:
        return sorted(alert["key"] for alert in self.context.alerts.list())

    async def settle(self) -> None:
        """What was begun in the background is done."""
        while tasks := [*self.plugin._pushing, *([self.plugin._watcher._looking] if self._busy() else [])]:
            await asyncio.gather(*cast(Any, tasks))

    def _busy(self) -> bool:
        looking = self.plugin._watcher._looking
        return looking is not None and not looking.done()


async def connect(a: Controller, b: Controller) -> None:
    a.link.other, b.link.other = b, a
    a.link.on_connected()
    b.link.on_connected()
    await a.settle()
    await b.settle()


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[Controller, Controller]]:
    made = []
    for node in ("A", "B"):
        folder = tmp_path / node
        folder.mkdir()
        store = await Store.open(folder / "store.db")
        made.append(Controller(store, await AuditLog.open(folder / "audit.db", node), node))
    made[1].pools.imported = False
    for controller in made:
        await controller.plugin.start()
        await controller.settle()
    yield made[0], made[1]
    for controller in made:
        await controller.plugin.stop()
        await controller.audit.close()
        await controller.context.store.close()


async def test_a_key_given_once_is_on_both_controllers(pair: tuple[Controller, Controller]) -> None:
    a, b = pair
    await connect(a, b)
    assert await a.call("pool.dataset.unlock", "tank/secret", KEY) == {"id": "tank/secret", "peer_has_key": True}
    assert a.pools.held == b.pools.held == {"tank/secret": KEY}
    [row] = await a.call("pool.dataset.encryption")
    assert row == {
        "id": "tank/secret",
        "pool": "tank",
        "locked": False,
        "key_format": "PASSPHRASE",
        "key_location": "prompt",
        "key_held": True,
    }


async def test_a_controller_that_connects_later_gets_it_then(pair: tuple[Controller, Controller]) -> None:
    a, b = pair
    assert (await a.call("pool.dataset.unlock", "tank/secret", KEY))["peer_has_key"] is False
    await a.settle()
    assert a.alerts() == ["pool.dataset.keys"]
    await connect(a, b)
    assert b.pools.held == {"tank/secret": KEY}
    assert a.alerts() == []


async def test_a_sync_hands_them_over_too(pair: tuple[Controller, Controller]) -> None:
    a, b = pair
    await a.call("pool.dataset.push_keys")  # nothing to hand over, so nobody is needed
    a.plugin.ring.put("tank/secret", KEY, 1)
    with pytest.raises(CallError, match="did not take the keys"):
        await a.call("pool.dataset.push_keys")
    a.link.other = b
    await a.call("pool.dataset.push_keys")
    assert b.pools.held == {"tank/secret": KEY}


async def test_a_master_that_was_restarted_gets_it_back_from_the_standby(pair: tuple[Controller, Controller]) -> None:
    a, b = pair
    b.plugin.ring.put("tank/secret", KEY, 1)
    await connect(a, b)
    assert a.pools.held == {"tank/secret": KEY}


async def test_a_forgotten_key_does_not_come_back(pair: tuple[Controller, Controller]) -> None:
    a, b = pair
    await connect(a, b)
    await a.call("pool.dataset.unlock", "tank/secret", KEY)
    a.link.other = None
    assert await a.call("pool.dataset.forget_key", "tank/secret") is False
    assert b.pools.held == {"tank/secret": KEY}
    await connect(a, b)
    assert a.pools.held == b.pools.held == {}
    with pytest.raises(ValidationErrors, match="No key of tank/secret is kept"):
        await a.call("pool.dataset.forget_key", "tank/secret")


async def test_a_passphrase_is_no_raw_key(pair: tuple[Controller, Controller]) -> None:
    a, _ = pair
    a.pools.key_format = "raw"
    with pytest.raises(ValidationErrors, match="give 32 bytes, as 64 hexadecimal digits or in base64") as told:
        await a.call("pool.dataset.unlock", "tank/secret", KEY)
    assert [error[0] for error in told.value.errors] == ["key"]
    assert (a.pools.held, KEY in str(told.value)) == ({}, False)


async def test_a_wrong_key_is_not_kept(pair: tuple[Controller, Controller]) -> None:
    a, _ = pair
    with pytest.raises(CallError, match="Incorrect key"):
        await a.call("pool.dataset.unlock", "tank/secret", "wrong horse")
    with pytest.raises(ValidationErrors, match="No imported pool has an encrypted dataset tank/other"):
        await a.call("pool.dataset.unlock", "tank/other", KEY)
    assert a.pools.held == {}


async def test_the_key_is_left_nowhere(
    pair: tuple[Controller, Controller], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = pair
    caplog.set_level(logging.DEBUG)
    await connect(a, b)
    await a.call("pool.dataset.unlock", "tank/secret", KEY)
    with pytest.raises(CallError):
        await a.call("pool.dataset.unlock", "tank/secret", "wrong horse")
    rows = await a.audit.query([["method", "=", "pool.dataset.unlock"]], {})
    assert [row["arguments"] for row in rows] == [["tank/secret", "********"]] * 2
    assert await b.audit.query([], {"count": True}) == 0
    shown = f"{await a.call('pool.dataset.encryption')} {a.context.alerts.list()} {caplog.text}"
    for controller in pair:
        await controller.audit.close()
        await controller.context.store.close()
    files = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert "horse" not in shown
    assert b"horse" not in files


async def test_a_refusal_of_the_other_controller_quotes_no_key(pair: tuple[Controller, Controller]) -> None:
    a, _ = pair

    async def refuse(*_: Any, **__: Any) -> None:
        raise ValidationErrors([("keys.0.key", f"{KEY!r} is too short", 22)])

    a.link.call = refuse  # type: ignore[method-assign]  # an older version, with a narrower schema
    await a.call("pool.dataset.unlock", "tank/secret", KEY)
    await a.settle()
    assert a.alerts() == ["pool.dataset.keys"]
    assert KEY not in str(a.context.alerts.list())


@pytest.mark.parametrize("credential", [ADMIN, INTERNAL])
async def test_only_the_other_controller_hands_keys_over(
    pair: tuple[Controller, Controller], credential: Credential
) -> None:
    rows = [{"dataset": "tank/secret", "key": KEY, "given_ms": 1}]
    with pytest.raises(CallError, match="Only the other controller"):
        await pair[0].call("pool.dataset.receive_keys", rows, credential=credential)


async def test_the_standby_refuses(pair: tuple[Controller, Controller]) -> None:
    def guard() -> None:
        raise CallError("This controller (B) is the standby")

    pair[1].context.store.guard = guard
    with pytest.raises(CallError, match="is the standby"):
        await pair[1].call("pool.dataset.unlock", "tank/secret", KEY)


async def test_what_stays_shut_after_a_takeover_is_an_alert(pair: tuple[Controller, Controller]) -> None:
    a, b = pair
    assert a.alerts() == ["pool.dataset.locked.tank/secret"]
    assert b.alerts() == []
    a.pools.imported, b.pools.imported, b.pools.locked, b.pools.unmounted = False, True, False, True
    for controller in pair:
        controller.pools.change()
        await controller.settle()
    assert a.alerts() == []
    assert b.alerts() == ["pool.dataset.unmounted.tank/secret"]
