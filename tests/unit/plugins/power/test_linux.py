"""Orderly ends by the service manager, and the reset."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.private_bus import PrivateBus, needs_dbus

from middlewared.dbus import SystemBus
from middlewared.plugins.power.linux import LinuxPower
from middlewared.ports import PortError
from middlewared.sysrq import Sysrq

TARGETS = {"reboot.target": {}, "poweroff.target": {"load": "masked"}}


@pytest.fixture
async def bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PrivateBus]:
    needs_dbus()
    private = PrivateBus(tmp_path)
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", private.environment["DBUS_SYSTEM_BUS_ADDRESS"])
    await private.start(TARGETS)
    yield private
    await private.stop()


async def test_orderly_ends(bus: PrivateBus, tmp_path: Path) -> None:
    connection = SystemBus()
    await connection.start()
    power = LinuxPower(connection, Sysrq("test", kernel_log=tmp_path / "kmsg", trigger=tmp_path / "trigger"))
    await power.reboot("an administrator")
    assert await bus.calls("reboot.target") == ["StartUnit replace-irreversibly"]
    with pytest.raises(PortError, match=r"Unit poweroff.target is masked"):
        await power.shutdown("an administrator")
    await connection.stop()


async def test_a_reset_is_prepared(tmp_path: Path) -> None:
    resorts: list[str] = []
    trigger = tmp_path / "trigger"
    trigger.touch()
    sysrq = Sysrq("test", kernel_log=tmp_path / "no", trigger=trigger, last_resorts=[lambda: resorts.append("die")])
    power = LinuxPower(SystemBus(), sysrq)
    assert [finding.ok for finding in await power.examine()] == [True, False]
    await power.start()
    with pytest.raises(RuntimeError):
        power.reset("lost")
    await power.stop()
    assert (trigger.read_text(), resorts) == ("b", ["die"])
