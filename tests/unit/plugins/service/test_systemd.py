"""Services as units, against a service manager on a bus of its own."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from support.private_bus import PrivateBus, needs_dbus

from middlewared.dbus import SystemBus
from middlewared.plugins.platform.linux import LinuxPlatform
from middlewared.plugins.service.systemd import SystemdServices
from middlewared.ports import Finding, PortError

UNITS = {
    "nfs-server.service": {},
    "smbd.service": {"active": "active"},
    "broken.service": {"result": "failed"},
    "masked.service": {"load": "masked"},
    "nfs.service": {"alias_of": "nfs-server.service"},
}


@pytest.fixture
async def bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PrivateBus]:
    needs_dbus()
    private = PrivateBus(tmp_path)
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", private.environment["DBUS_SYSTEM_BUS_ADDRESS"])
    await private.start(UNITS)
    yield private
    await private.stop()


class Site:
    """The driver on a connection of its own, and a way to wait for what it sees."""

    def __init__(self) -> None:
        self.bus = SystemBus()
        self.services = SystemdServices(
            self.bus,
            {
                "nfs": "nfs-server.service",
                "smb": "smbd.service",
                "broken": "broken.service",
                "masked": "masked.service",
                "gone": "gone.service",
            },
        )
        self._changed = asyncio.Event()
        self.services.on_change(self._changed.set)

    async def until(self, holds: Callable[[dict[str, bool]], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds(dict(self.services.states())):
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture
async def site(bus: PrivateBus) -> AsyncIterator[Site]:
    site = Site()
    await site.bus.start()
    yield site
    await site.bus.stop()


def test_nothing_known_counts_as_running() -> None:
    assert Site().services.states() == dict.fromkeys(("nfs", "smb", "broken", "masked", "gone"), True)


async def test_what_the_machine_has(site: Site) -> None:
    assert site.services.states() == {"nfs": False, "smb": True, "broken": False}


async def test_starting_and_stopping(site: Site, bus: PrivateBus) -> None:
    await site.services.start("nfs")
    assert site.services.states()["nfs"] is True
    await site.services.stop("nfs")
    assert site.services.states()["nfs"] is False
    assert await bus.calls("nfs-server.service") == ["StartUnit replace", "StopUnit replace"]


async def test_what_others_do_is_seen(site: Site, bus: PrivateBus) -> None:
    await bus.behave("smbd.service", active="failed")
    await site.until(lambda states: not states["smb"])
    await bus.behave("smbd.service", active="activating")
    await site.until(lambda states: states["smb"])


async def test_a_signal_that_overtakes_the_answer(site: Site, bus: PrivateBus) -> None:
    await bus.behave("nfs-server.service", early=True)
    async with asyncio.timeout(20):
        await site.services.start("nfs")
    assert site.services._early == {}


@pytest.mark.parametrize(
    ("result", "why"),
    [
        ("failed", "starting broken.service failed; see `journalctl -u broken.service`"),
        ("timeout", "took longer than the unit allows"),
        ("dependency", "a unit that it needs did not start"),
        ("canceled", "cancelled by another request"),
        ("assert", "ended as 'assert'"),
    ],
)
async def test_why_a_job_failed(site: Site, bus: PrivateBus, result: str, why: str) -> None:
    await bus.behave("broken.service", result=result)
    with pytest.raises(PortError, match=why):
        await site.services.start("broken")
    assert site.services.states()["broken"] is False


async def test_done_is_not_believed_alone(site: Site, bus: PrivateBus) -> None:
    await bus.behave("nfs-server.service", after_start="inactive", after_stop="active")
    with pytest.raises(PortError, match=r"nfs-server.service is inactive after it started"):
        await site.services.start("nfs")
    with pytest.raises(PortError, match=r"nfs-server.service is active after it stopped"):
        await site.services.stop("nfs")
    assert site.services.states()["nfs"] is True


async def test_units_that_are_not_there(site: Site) -> None:
    with pytest.raises(PortError, match=r"starting gone.service was refused: Unit gone.service not found; install"):
        await site.services.start("gone")
    with pytest.raises(PortError, match=r"starting masked.service was refused: Unit masked.service is masked; see"):
        await site.services.start("masked")
    with pytest.raises(PortError, match="there is no service 'ftp'"):
        await site.services.start("ftp")
    await site.services.stop("gone")
    await site.until(lambda states: "gone" not in states)


async def test_who_waits_no_longer_leaves_a_start_that_counts_as_running(site: Site, bus: PrivateBus) -> None:
    await bus.behave("nfs-server.service", hangs=True)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await site.services.start("nfs")
    assert site.services.states()["nfs"] is True
    await bus.behave("nfs-server.service", hangs=False)
    await site.services.stop("nfs")
    assert site.services.states()["nfs"] is False


async def test_a_stop_replaces_a_start(site: Site, bus: PrivateBus) -> None:
    await bus.behave("nfs-server.service", hangs=True)
    starting = [asyncio.create_task(site.services.start("nfs")) for _ in range(2)]
    async with asyncio.timeout(20):
        while len(await bus.calls("nfs-server.service")) < 2:
            await asyncio.sleep(0)
    stopping = asyncio.create_task(site.services.stop("nfs"))
    for start in starting:
        with pytest.raises(PortError, match="cancelled by another request"):
            await start
    await bus.behave("nfs-server.service", hangs=False)
    await stopping
    assert site.services.states()["nfs"] is False


async def test_an_alias_is_followed(site: Site, bus: PrivateBus) -> None:
    site.services.configure({"nfs": "nfs.service"})
    assert site.services.states() == {"nfs": True}, "not known yet"
    await site.until(lambda states: states == {"nfs": False})
    await bus.behave("nfs-server.service", active="active")
    await site.until(lambda states: states == {"nfs": True})


async def test_a_reload_shows_what_was_installed(site: Site, bus: PrivateBus) -> None:
    await bus.behave("gone.service", load="loaded")
    await bus.control("Reload")
    await site.until(lambda states: states.get("gone") is False)


async def test_the_bus_goes_and_comes_back(site: Site, bus: PrivateBus) -> None:
    await bus.behave("broken.service", hangs=True)
    waiting = asyncio.create_task(site.services.start("broken"))
    async with asyncio.timeout(20):
        while not await bus.calls("broken.service"):
            await asyncio.sleep(0)
    await bus.stop()
    with pytest.raises(PortError, match=r"connection to .* (was lost|ended)"):
        await waiting
    await site.until(lambda states: len(states) == 5 and all(states.values()))
    with pytest.raises(PortError, match=r"the system bus \(D-Bus\) is not connected"):
        await site.services.start("nfs")
    await bus.start(UNITS)
    await site.until(lambda states: states == {"nfs": False, "smb": True, "broken": False})
    await site.services.start("nfs")


async def test_examining_needs_no_start_and_changes_nothing(bus: PrivateBus) -> None:
    site = Site()
    assert [(found.subject, found.ok, found.detail) for found in await site.services.examine()] == [
        ("service nfs", True, "nfs-server.service: loaded"),
        ("service smb", True, "smbd.service: loaded"),
        ("service broken", True, "broken.service: loaded"),
        ("service masked", False, "masked.service: masked"),
        ("service gone", False, "gone.service: not-found"),
    ]
    assert await site.bus.examine() == [Finding("systemd over D-Bus", True, "252.39-1~deb12u2")]
    assert await bus.calls("nfs-server.service") == []


async def test_examining_without_a_bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path / 'nothing'}")
    site = Site()
    [finding] = await site.bus.examine()
    assert not finding.ok
    assert "No such file or directory" in finding.detail
    assert finding.remedy
    assert [found.ok for found in await site.services.examine()] == [False]
    with pytest.raises(PortError, match="No such file or directory"):
        await site.bus.start()


async def test_one_connection_serves_several_drivers(bus: PrivateBus, tmp_path: Path) -> None:
    """systemd refuses a second subscription of a connection; each driver needs its signals."""
    shared = SystemBus()
    services = SystemdServices(shared, {"nfs": "nfs-server.service"})
    LinuxPlatform(shared, "A", tmp_path)
    await shared.start()
    try:
        await services.start("nfs")
        assert services.states() == {"nfs": True}
    finally:
        await shared.stop()
