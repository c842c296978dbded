"""The `system.*` methods."""

import asyncio
import dataclasses
import errno
from collections.abc import Callable
from typing import Any

import pytest

from middlewared.bus import Event
from middlewared.errors import CallError, ValidationErrors
from middlewared.plugins.system import methods
from middlewared.plugins.system.methods import System
from middlewared.settings import ApiSettings, Settings


@pytest.fixture(autouse=True)
def system(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "ANSWER_FIRST_MS", 0)
    bench.use(System)


async def test_info_names_this_controller(bench: Any) -> None:
    info = await bench.call("system.info")
    assert info["hostname"] == "controller-a.example"
    assert info["system_serial"] == "A1-00001"
    assert info["license"] == {"model": "ECHOWARP", "system_serial": "A1-00001"}
    assert info["boottime"]["$date"] < info["datetime"]["$date"]


async def test_info_without_licence(bench: Any) -> None:
    bench.machine.identity_now = dataclasses.replace(bench.machine.identity_now, licensed=False)
    assert (await bench.call("system.info"))["license"] is None


async def test_small_questions(bench: Any) -> None:
    assert await bench.call("system.version") == "0.1.0"
    assert await bench.call("system.hostname") == "controller-a.example"
    assert await bench.call("system.boot_id") == "boot-1"
    assert (await bench.call("system.advanced.config"))["consolemenu"] is False


async def test_ready_follows_the_daemon(bench: Any) -> None:
    assert await bench.call("system.ready") is False
    bench.context.ready = True
    assert await bench.call("system.ready") is True


@pytest.mark.parametrize("what", ["reboot", "shutdown"])
async def test_going_down_happens_after_the_answer(bench: Any, what: str) -> None:
    assert await bench.call(f"system.{what}", "new firmware") is None
    assert bench.machine.power_log.empty(), "the caller is answered first"
    assert await bench.machine.power_log.get() == (what, "middlewared: new firmware")


async def test_a_second_request_is_refused_while_the_first_is_due(bench: Any) -> None:
    await bench.call("system.reboot", "later", {"delay": 3600})
    with pytest.raises(CallError) as caught:
        await bench.call("system.shutdown", "now")
    assert caught.value.errno == errno.EALREADY


async def test_a_daemon_that_ends_forgets_a_delayed_reboot(bench: Any) -> None:
    await bench.call("system.reboot", "later", {"delay": 3600})
    await bench.plugin.stop()
    await bench.call("system.reboot", "now")
    assert await bench.machine.power_log.get() == ("reboot", "middlewared: now")


async def test_a_failure_that_nobody_waits_for_becomes_an_alert(bench: Any, heard: Callable[..., Any]) -> None:
    bench.machine.broken = "systemd does not answer"
    alert = heard("alert.list")
    await bench.call("system.reboot", "new firmware")
    await alert
    [row] = bench.context.alerts.list()
    assert "systemd does not answer" in str(row)


@pytest.mark.parametrize("arguments", [[], [""], ["why", {"delay": 0}], ["why", {"when": 1}], [7]])
async def test_going_down_needs_a_reason_and_known_options(bench: Any, arguments: list[Any]) -> None:
    with pytest.raises(ValidationErrors):
        await bench.call("system.reboot", *arguments)


async def test_urls_of_every_address(bench: Any) -> None:
    nic = bench.machine.nic_list[0]
    bench.machine.nic_list = [dataclasses.replace(nic, addresses=("192.0.2.1/24", "2001:db8::1/64"))]
    assert await bench.call("system.general.get_ui_urls") == ["http://192.0.2.1", "http://[2001:db8::1]"]
    bench.context.settings = Settings(api=ApiSettings(port=6080, port_tls=443, certificate="c"))
    assert await bench.call("system.general.get_ui_urls") == [
        "http://192.0.2.1:6080",
        "http://[2001:db8::1]:6080",
        "https://192.0.2.1",
        "https://[2001:db8::1]",
    ]


async def test_general_config_tells_ports_and_addresses(bench: Any) -> None:
    listen = ("192.0.2.1:6080", "[::1]:6080", "192.0.2.1:6081")
    bench.context.settings = Settings(api=ApiSettings(listen=listen, port=6080))
    config = await bench.call("system.general.config")
    assert (config["ui_address"], config["ui_port"], config["ui_httpsport"]) == (["192.0.2.1", "::1"], 6080, None)


@pytest.fixture
def heard(bench: Any) -> Callable[[str], Any]:
    """A future for the next event of a collection."""

    def start(collection: str) -> asyncio.Future[Event]:
        future: asyncio.Future[Event] = asyncio.get_running_loop().create_future()

        def listen(event: Event) -> None:
            if event.collection == collection and not future.done():
                future.set_result(event)

        bench.context.bus.listen(listen)
        return future

    return start
