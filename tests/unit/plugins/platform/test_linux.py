"""This controller's identity, from a tree of files and a service manager on a bus of its own."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from support.private_bus import PrivateBus, needs_dbus

from middlewared import __version__
from middlewared.dbus import SystemBus
from middlewared.licence.files import LicenceFiles
from middlewared.plugins.platform import linux
from middlewared.plugins.platform.linux import LinuxPlatform, PlatformSettings
from middlewared.ports import Identity, PortError

BOOT_ID = "7e5e8a0e-3c3f-4f43-9d49-6c9e2f6f3b51"
FILES = {
    "proc/sys/kernel/random/boot_id": BOOT_ID,
    "etc/machine-id": "0123456789abcdef0123456789abcdef",
    "sys/class/dmi/id/sys_vendor": "QEMU",
    "sys/class/dmi/id/product_serial": "A1-00001",
    "sys/class/dmi/id/chassis_asset_tag": "middlewared-a",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    (tmp_path / "state").mkdir()
    return tmp_path / "root"


@pytest.fixture
async def bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PrivateBus]:
    needs_dbus()
    private = PrivateBus(tmp_path)
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", private.environment["DBUS_SYSTEM_BUS_ADDRESS"])
    monkeypatch.setattr(linux, "_LOOK_S", 0.01)
    await private.start(state="starting")
    yield private
    await private.stop()


class Site:
    def __init__(self, root: Path) -> None:
        self.bus = SystemBus()
        self.platform = LinuxPlatform(self.bus, "A", root.parent / "state", root=root)
        self.licence = LicenceFiles(root.parent / "state")
        self._changed = asyncio.Event()
        self.platform.on_change(self._changed.set)

    async def until(self, holds: Callable[[Identity], bool]) -> Identity:
        async with asyncio.timeout(20):
            while not holds(self.platform.identity()):
                self._changed.clear()
                await self._changed.wait()
        return self.platform.identity()


@pytest.fixture
async def site(root: Path, bus: PrivateBus) -> AsyncIterator[Site]:
    site = Site(root)
    await site.bus.start()
    await site.platform.start()
    yield site
    await site.platform.stop()
    await site.bus.stop()


async def test_what_it_is(site: Site) -> None:
    found = site.platform.identity()
    assert (found.boot_id, found.hardware, found.serial, found.version) == (BOOT_ID, "IXKVM", "A1-00001", __version__)
    assert found.booting
    assert "there is no" in found.licence_problem


async def test_the_end_of_booting(site: Site, bus: PrivateBus) -> None:
    await bus.control("Finish", "s", "degraded")
    await site.until(lambda found: not found.booting)


async def test_a_licence_comes_and_goes(site: Site) -> None:
    site.licence.issue(("A1-00001", "A1-00002"))
    assert (await site.until(lambda found: found.licensed)).licence_problem == ""
    site.licence.issue(("A1-00007", "A1-00008"))
    found = await site.until(lambda found: not found.licensed)
    assert found.licence_problem == "it is for the controllers A1-00007 and A1-00008, and this one is A1-00001"


async def test_reasons_to_reboot_are_dropped_by_others(site: Site, root: Path) -> None:
    folder = root / "run/middlewared/reboot-reasons"
    folder.mkdir(parents=True)
    (folder / ".UPGRADE.new").write_text("not yet")
    (folder / "UPGRADE").write_text("An upgrade was installed.\n")
    found = await site.until(lambda found: bool(found.reboot_reasons))
    found = await site.until(lambda found: found.reboot_reasons != {"UPGRADE": ""})
    assert found.reboot_reasons == {"UPGRADE": "An upgrade was installed."}
    (folder / "UPGRADE").unlink()
    await site.until(lambda found: not found.reboot_reasons)


async def test_what_cannot_work(root: Path) -> None:
    site = Site(root)
    (root / "etc/middlewared").mkdir()
    (root / "etc/middlewared/hardware.json").write_text("nonsense")
    with pytest.raises(PortError, match=r"hardware\.json: not a file of hardware rules"):
        await site.platform.start()
    (root / "proc/sys/kernel/random/boot_id").unlink()
    with pytest.raises(PortError, match="boot_id cannot be read"):
        await site.platform.start()


async def test_findings(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={root / 'nothing'}")
    site = Site(root)
    found = {finding.subject: finding for finding in await site.platform.examine()}
    assert {subject: finding.ok for subject, finding in found.items()} == {
        "hardware": True,
        "node": True,
        "serial number": True,
        "licence": False,
        "time synchronisation": False,
    }
    assert found["node"].detail == "A, as the hardware says"
    assert "middlewared licence issue" in found["licence"].remedy
    (root / "sys/class/dmi/id/chassis_asset_tag").write_text("middlewared-b")
    found = {finding.subject: finding for finding in await site.platform.examine()}
    assert (found["node"].ok, found["node"].detail) == (False, "looks like B, the settings say A")


async def test_the_settings_override(root: Path) -> None:
    settings = PlatformSettings(hardware="ECHOWARP", serial="X-1")
    platform = LinuxPlatform(SystemBus(), "A", root.parent / "state", settings, root)
    await platform.start()
    assert (platform.identity().hardware, platform.identity().serial) == ("ECHOWARP", "X-1")
    await platform.stop()
