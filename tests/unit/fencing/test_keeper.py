"""The process: its socket, its lock, its end; and middlewared's driver on the other side."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from middlewared.lab.shelf import Shelf, ShelfDisk
from middlewared.lab.shelf_server import ShelfServer
from middlewared.plugins.fencing.driver import FencedDriver
from middlewared.plugins.fencing.keeper import Keeper, main
from middlewared.plugins.fencing.memory import FileMemory
from middlewared.plugins.fencing.reset import ConsoleReset
from middlewared.plugins.fencing.simulated import ShelfSource
from middlewared.ports import FenceCode, FenceState, PortError
from middlewared.settings import FenceSettings, Settings
from tests.simulator.parked import park

ANSWER_S = 10


class Noted:
    """A reset that is only noted."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.happened = asyncio.Event()

    def reset(self, reason: str) -> None:
        self.reasons.append(reason)
        self.happened.set()


class Site:
    """A shelf on sockets, and settings for keepers around it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shelf = park(Shelf([ShelfDisk(lun, f"S{lun:02}", 1 << 20) for lun in range(12)]))
        self.server = ShelfServer(self.shelf, path)

    def settings(self, node: str) -> Settings:
        room = self.path / node
        room.mkdir(exist_ok=True)
        # generous times: these tests are about sockets and processes, on a machine that may be busy
        fence = FenceSettings(
            socket=str(room / "fenced.sock"),
            shelf=str(self.server.socket(node)),
            heartbeat_ms=20,
            alive_ms=1000,
            lost_ms=4000,
        )
        return Settings(
            node="A" if node == "a" else "B",
            run_dir=str(room),
            state_dir=str(room),
            drivers="simulated",
            machine="unused",
            fence=fence,
        )

    def keeper(self, node: str, reset: Noted) -> Keeper:
        settings = self.settings(node)
        memory = FileMemory(Path(settings.run_dir) / "fenced.json")
        return Keeper(settings, ShelfSource(Path(settings.fence.shelf)), reset, memory)

    def write_config(self, node: str) -> Path:
        settings = self.settings(node)
        config = self.path / f"{node}.toml"
        fence = settings.fence
        config.write_text(
            f'node = "{settings.node}"\nrun_dir = "{settings.run_dir}"\nstate_dir = "{settings.state_dir}"\n'
            f'drivers = "simulated"\nmachine = "{self.path / node / "machine.sock"}"\n'
            f'[fence]\nsocket = "{fence.socket}"\nshelf = "{fence.shelf}"\n'
            f"heartbeat_ms = {fence.heartbeat_ms}\nalive_ms = {fence.alive_ms}\nlost_ms = {fence.lost_ms}\n"
        )
        return config


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(tmp_path)
    await site.server.start()
    yield site
    await site.server.stop()


@pytest.fixture
async def driver(site: Site) -> AsyncIterator[FencedDriver]:
    driver = FencedDriver(Path(site.settings("a").fence.socket))
    yield driver
    await driver.stop()


async def until(driver: FencedDriver, holds: Callable[[FenceState], bool]) -> FenceState:
    """Wait for a state, by the driver's own notices."""
    changed = asyncio.Event()
    driver.on_change(changed.set)
    async with asyncio.timeout(ANSWER_S):
        while not holds(driver.state()):
            changed.clear()
            await changed.wait()
    return driver.state()


async def test_driver_and_keeper(site: Site, driver: FencedDriver) -> None:
    reset = Noted()
    keeper = site.keeper("a", reset)
    await keeper.start()
    await driver.start()
    assert driver.state().running
    assert (await driver.acquire(force=False)).code is FenceCode.OK
    state = driver.state()
    assert (state.held, state.disks_held, state.disks_total) == (True, 12, 12)
    info = await driver.run_info()
    assert (info["pid"], info["held"]) == (os.getpid(), True)
    await driver.release()
    assert not driver.state().held
    await keeper.stop()
    await until(driver, lambda state: not state.running)
    with pytest.raises(PortError, match="did not answer"):
        await driver.acquire(force=False)
    assert reset.reasons == []


async def test_a_rehearsal_reads_and_changes_nothing(site: Site, driver: FencedDriver) -> None:
    keepers = [site.keeper("a", Noted()), site.keeper("b", Noted())]
    for keeper in keepers:
        await keeper.start()
    assert (await keepers[1].guard.acquire(force=False)).code is FenceCode.OK
    await driver.start()
    registered = [list(site.shelf.reservations(lun).keys) for lun in range(12)]
    site.shelf.fail(3)
    found = await driver.rehearse()
    assert (found.result.code, found.result.message) == (FenceCode.OK, "11 of 12 disks answer")
    assert [disk.serial for disk in found.disks] == [f"S{lun:02}" for lun in range(12)]
    assert [disk.holder for disk in found.disks if not disk.problem] == ["B"] * 11
    assert [disk.serial for disk in found.disks if disk.problem] == ["S03"]
    assert not any(disk.unexpected for disk in found.disks)
    site.shelf.fail(4)
    assert (await driver.rehearse()).result.code is FenceCode.TOO_MANY_REFUSED
    assert [list(site.shelf.reservations(lun).keys) for lun in range(12)] == registered, "who is registered stays so"
    assert driver.state().held is False
    for keeper in keepers:
        await keeper.stop()
    with pytest.raises(PortError, match="did not answer"):
        await driver.rehearse()


async def test_a_disk_that_is_gone_counts_until_the_holder_forgets_it(site: Site, driver: FencedDriver) -> None:
    reset = Noted()
    keeper = site.keeper("a", reset)
    await keeper.start()
    await driver.start()
    await driver.acquire(force=False)
    assert site.server.replace(3) == 12
    state = await until(driver, lambda state: state.disks_total == 13 and state.disks_held == 12)
    assert state.disks_failed == ("S03",), "the new one is held, and the old one missed"
    await driver.forget(["S03", "S04", "never seen"])
    state = driver.state()
    assert (state.disks_total, state.disks_held, state.disks_failed) == (12, 12, ()), "S04 is there, and stays"
    await keeper.stop()
    again = site.keeper("a", reset)
    await again.start()
    state = await until(driver, lambda state: state.held)
    assert (state.disks_total, state.disks_failed) == (12, ()), "a keeper that restarts does not look for it either"
    await again.stop()
    assert reset.reasons == []


async def test_a_standby_forgets_a_disk_and_counts_it_again_when_it_comes_back(
    site: Site, driver: FencedDriver
) -> None:
    keeper = site.keeper("a", Noted())
    await keeper.start()
    await driver.start()
    site.server.pull("a", 3)
    site.server.pull("a", 4)
    state = await until(driver, lambda state: state.disks_failed == ("S03", "S04"))
    assert (state.disks_total, state.too_many_failed) == (12, True)
    await driver.forget(["S03", "S04"])
    state = driver.state()
    assert (state.disks_total, state.disks_failed, state.too_many_failed) == (10, (), False)
    assert (await driver.rehearse()).result.message == "10 of 10 disks answer"
    site.server.push("a", 3)
    await until(driver, lambda state: state.disks_total == 11)
    await keeper.stop()


async def test_driver_waits_for_the_keeper_and_comes_back(site: Site, driver: FencedDriver) -> None:
    await driver.start()
    assert driver.state() == FenceState()
    keeper = site.keeper("a", Noted())
    await keeper.start()
    await until(driver, lambda state: state.running)
    await driver.acquire(force=False)
    await keeper.stop()
    await until(driver, lambda state: not state.running)
    again = site.keeper("a", Noted())
    await again.start()
    state = await until(driver, lambda state: state.running)
    assert state.held, "the reservations outlive the process"
    await again.stop()


async def test_a_loss_is_pushed(site: Site, driver: FencedDriver) -> None:
    resets = Noted(), Noted()
    keepers = site.keeper("a", resets[0]), site.keeper("b", resets[1])
    for keeper in keepers:
        await keeper.start()
    await driver.start()
    await driver.acquire(force=False)
    other = FencedDriver(Path(site.settings("b").fence.socket))
    await other.start()
    await until(other, lambda state: state.peer_moving)
    assert (await other.acquire(force=False)).code is FenceCode.PEER_ALIVE
    assert (await other.acquire(force=True)).code is FenceCode.OK
    await until(driver, lambda state: not state.held)
    await asyncio.wait_for(resets[0].happened.wait(), ANSWER_S)
    assert resets[1].reasons == []
    await other.stop()
    for keeper in keepers:
        await keeper.stop()


async def test_release_that_fails_is_an_error(site: Site, driver: FencedDriver) -> None:
    keeper = site.keeper("a", Noted())
    await keeper.start()
    await driver.start()
    await driver.acquire(force=False)
    for lun in range(12):
        site.shelf.fail(lun)
    with pytest.raises(PortError, match="could be released"):
        await driver.release()
    await keeper.stop()


async def test_pulled_disks_are_seen_by_event(site: Site, driver: FencedDriver) -> None:
    keeper = site.keeper("a", Noted())
    await keeper.start()
    await driver.start()
    await driver.acquire(force=False)
    site.server.pull("a", 3)
    state = await until(driver, lambda state: state.disks_failed != ())
    assert (state.disks_failed, state.disks_held) == (("S03",), 11)
    site.server.push("a", 3)
    await until(driver, lambda state: state.disks_failed == ())
    await keeper.stop()


def _fenced(config: Path) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-m", "middlewared.plugins.fencing.keeper", "--config", str(config)]
    return subprocess.Popen(arguments, start_new_session=True, stderr=subprocess.DEVNULL)


async def _ended(process: subprocess.Popen[bytes]) -> int:
    return await asyncio.wait_for(asyncio.to_thread(process.wait), ANSWER_S)


async def test_the_process_keeps_dies_and_is_followed(site: Site, driver: FencedDriver) -> None:
    """kill -9 of fenced moves nothing; told to end it leaves the reservations; a second one does not start."""
    config = site.write_config("a")
    first = _fenced(config)
    await driver.start()
    await until(driver, lambda state: state.running)
    assert (await driver.acquire(force=False)).code is FenceCode.OK
    assert await _ended(_fenced(config)) == FenceCode.ALREADY_RUNNING
    first.kill()
    await _ended(first)
    await until(driver, lambda state: not state.running)
    second = _fenced(config)
    assert (await until(driver, lambda state: state.running)).held
    second.terminate()
    assert await _ended(second) == FenceCode.OK
    assert all(site.shelf.reservations(lun).held is not None for lun in range(12))


async def test_the_process_resets_its_controller(site: Site, driver: FencedDriver) -> None:
    process = _fenced(site.write_config("a"))
    await driver.start()
    await until(driver, lambda state: state.running)
    await driver.acquire(force=False)
    reset = Noted()
    other = site.keeper("b", reset)
    await other.start()
    assert (await other.guard.acquire(force=True)).code is FenceCode.OK
    assert await _ended(process) == -signal.SIGKILL
    console = (site.path / "a" / "console.log").read_text()
    assert "resetting this controller: disk S" in console
    assert console.count("\n") == 1
    await other.stop()


@pytest.mark.parametrize(
    "text", ["", 'drivers = "simulated"\nmachine = "x"\n[fence]\nsocket = "{path}/f.sock"\n', "nonsense"]
)
def test_settings_that_cannot_work(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    config = tmp_path / "config.toml"
    base = text or 'drivers = "linux"\n[fence]\nsocket = "{path}/f.sock"\niscsi = ["shelf:3260"]\n'
    config.write_text(base.replace("{path}", str(tmp_path)))
    assert main(["--config", str(config)]) is FenceCode.UNEXPECTED
    assert len(caplog.records) == 1
    assert caplog.records[0].exc_info is None


def test_console_reset_ends_the_process_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "killpg", lambda group, number: ended.append((group, number)))
    ConsoleReset(tmp_path / "absent").reset("lost")
    assert ended == [(os.getpgrp(), signal.SIGKILL)], "a console that cannot be written must not prevent the reset"
