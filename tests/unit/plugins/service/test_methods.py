"""The `service.*` methods."""

import errno
from typing import Any

import pytest

from middlewared.auth.identity import INTERNAL, LOCAL_ORIGIN
from middlewared.errors import ESERVICESTARTFAILURE, CallError, ValidationErrors
from middlewared.plugin import Call
from middlewared.plugins.service.methods import Services


@pytest.fixture(autouse=True)
def services(bench: Any) -> None:
    bench.use(Services)


def make_standby(bench: Any) -> None:
    def guard() -> None:
        raise CallError("controller B is active", errno.EROFS)

    bench.context.store.guard = guard


async def test_query_joins_what_runs_with_what_is_wanted(bench: Any) -> None:
    rows = await bench.call("service.query")
    assert [(row["service"], row["state"], row["enable"]) for row in rows] == [
        ("iscsi", "RUNNING", False),
        ("nfs", "STOPPED", False),
    ]


@pytest.mark.parametrize("key", [2, "nfs"])
async def test_update_by_number_or_name(bench: Any, key: Any) -> None:
    assert (await bench.call("service.update", key, {"enable": True}))["enable"] is True
    assert (await bench.call("service.get_instance", key))["enable"] is True
    assert bench.services.log == [], "nothing is started now"
    assert (await bench.call("service.update", key, {"enable": False}))["enable"] is False


async def test_an_update_that_changes_nothing_is_allowed_anywhere(bench: Any) -> None:
    make_standby(bench)
    assert (await bench.call("service.update", "nfs", {}))["enable"] is False
    with pytest.raises(CallError, match="controller B is active"):
        await bench.call("service.update", "nfs", {"enable": True})


@pytest.mark.parametrize(
    ("verb", "log"), [("START", ["start nfs"]), ("STOP", ["stop nfs"]), ("RESTART", ["stop nfs", "start nfs"])]
)
async def test_control_does_it_and_tells_that_it_is_so(bench: Any, verb: str, log: list[str]) -> None:
    assert await bench.call("service.control", verb, "nfs") is True
    assert bench.services.log == log


async def test_nothing_is_started_on_the_standby(bench: Any) -> None:
    make_standby(bench)
    for verb in ("START", "RESTART"):
        with pytest.raises(CallError, match="controller B is active"):
            await bench.call("service.control", verb, "nfs")
    assert await bench.call("service.control", "STOP", "iscsi") is True
    assert bench.services.log == ["stop iscsi"]


async def test_a_service_that_does_not_start_says_why(bench: Any) -> None:
    bench.machine.broken = "exit status 1"
    with pytest.raises(CallError, match="nfs did not start: exit status 1") as caught:
        await bench.call("service.control", "START", "nfs")
    assert caught.value.errno == ESERVICESTARTFAILURE


async def test_a_service_manager_that_hangs_is_given_up(bench: Any) -> None:
    bench.services.hanging.clear()
    handler = bench.plugin.control  # called directly: the schema allows no time limit short enough for a test
    with pytest.raises(CallError, match="no answer within 0 seconds") as caught:
        await handler(Call(INTERNAL, LOCAL_ORIGIN), "START", "nfs", {"timeout": 0})
    assert caught.value.errno == errno.ETIMEDOUT


async def test_a_service_that_does_not_exist(bench: Any) -> None:
    for arguments in (["service.control", "START", "ftp"], ["service.get_instance", "ftp"], ["service.update", 9, {}]):
        with pytest.raises(ValidationErrors) as caught:
            await bench.call(*arguments)
        assert caught.value.errors[0][2] == errno.ENOENT


async def test_a_unit_becomes_a_service(bench: Any) -> None:
    row = await bench.call("service.create", {"service": "web", "unit": "nginx.service", "start_order": 70})
    assert (row["service"], row["unit"], row["enable"], row["start_order"], row["critical"]) == (
        "web",
        "nginx.service",
        True,
        70,
        True,
    )
    assert bench.services.units == {"web": "nginx.service"}, "the driver is told at once"
    assert (await bench.call("service.create", {"service": "ftpd"}))["unit"] == "ftpd.service"


@pytest.mark.parametrize(
    ("data", "attribute", "number"),
    [
        ({"service": "web"}, "service", errno.EEXIST),
        ({"service": "web2", "unit": "nginx.service"}, "unit", errno.EEXIST),
        ({"service": "keeper", "unit": "fenced.service"}, "unit", errno.EPERM),
        ({"service": "own", "unit": "middlewared.service"}, "unit", errno.EPERM),
        ({"service": "log", "unit": "systemd-journald.service"}, "unit", errno.EPERM),
    ],
)
async def test_units_that_are_taken(bench: Any, data: dict[str, Any], attribute: str, number: int) -> None:
    await bench.call("service.create", {"service": "web", "unit": "nginx.service"})
    with pytest.raises(ValidationErrors) as caught:
        await bench.call("service.create", data)
    [(where, _, why)] = caught.value.errors
    assert (where, why) == (attribute, number)


@pytest.mark.parametrize("unit", ["nginx", "../x.service", "a b.service", "home.mount"])
async def test_units_that_are_none(bench: Any, unit: str) -> None:
    with pytest.raises(ValidationErrors):
        await bench.call("service.create", {"service": "web", "unit": unit})


async def test_when_it_starts(bench: Any) -> None:
    row = await bench.call("service.update", "nfs", {"start_order": 10, "critical": False})
    assert (row["start_order"], row["critical"], row["enable"]) == (10, False, False)
    assert (await bench.call("service.update", "nfs", {"enable": True}))["start_order"] == 10


async def test_a_service_is_forgotten_only_at_rest(bench: Any) -> None:
    await bench.call("service.create", {"service": "web"})
    bench.machine.running["web"] = True
    with pytest.raises(CallError, match="web runs: stop it first") as caught:
        await bench.call("service.delete", "web")
    assert caught.value.errno == errno.EBUSY
    del bench.machine.running["web"]
    assert await bench.call("service.delete", "web") is True
    assert bench.services.units == {}
