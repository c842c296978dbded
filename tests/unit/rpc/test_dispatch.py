"""The limit on calls without a login."""

from typing import Any

import pytest
from support.rpc_api import ROOT, method, service

from middlewared.auth.identity import Credential, Origin
from middlewared.auth.ratelimit import MinuteLimiter
from middlewared.bus import Bus
from middlewared.errors import CallError
from middlewared.jobs import Jobs
from middlewared.plugin import Call
from middlewared.rpc.dispatch import Dispatcher
from middlewared.rpc.registry import Registry

FREE = ["core.set_options", "auth.login"]


async def answer(call: Call) -> str:
    return "pong"


@pytest.fixture
def dispatcher() -> Dispatcher:
    names = ["core.ping", *FREE]
    document: dict[str, Any] = {
        "services": [service("core"), service("auth")],
        "methods": [method(name, auth="none") for name in names],
        "events": [],
    }
    registry = Registry({"test.json": document})
    for name in names:
        registry.bind(name, answer)
    return Dispatcher(registry, Jobs(Bus()), Call, anonymous=MinuteLimiter(3, lambda: 0.0, refusal="wait"))


async def ping(dispatcher: Dispatcher, origin: Origin, credential: Credential | None = None) -> Any:
    return await dispatcher.call("core.ping", [], credential=credential, origin=origin)


async def test_a_flood_without_a_login_is_refused_and_costs_nobody_else(dispatcher: Dispatcher) -> None:
    flooder, neighbour = Origin("192.0.2.1"), Origin("192.0.2.2")
    for _ in range(3):
        assert await ping(dispatcher, flooder) == "pong"
    with pytest.raises(CallError, match="wait"):
        await ping(dispatcher, flooder)
    assert await ping(dispatcher, neighbour) == "pong"
    assert await ping(dispatcher, flooder, ROOT) == "pong"


@pytest.mark.parametrize("name", FREE)
async def test_what_stock_clients_begin_with_is_not_counted(dispatcher: Dispatcher, name: str) -> None:
    for _ in range(10):
        assert await dispatcher.call(name, [], credential=None, origin=Origin("192.0.2.1")) == "pong"


async def test_the_unix_socket_is_not_limited(dispatcher: Dispatcher) -> None:
    for _ in range(10):
        assert await ping(dispatcher, Origin("unix", uid=1000)) == "pong"
