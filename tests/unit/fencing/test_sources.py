"""Which disks the settings mean, and what a portal looks like."""

from pathlib import Path

import pytest

from middlewared.plugins.fencing import libiscsi
from middlewared.plugins.fencing.iscsi import IscsiSource
from middlewared.plugins.fencing.iscsi_session import Portal, parse_portal
from middlewared.plugins.fencing.linux import LinuxDisks
from middlewared.plugins.fencing.simulated import ShelfSource
from middlewared.plugins.fencing.sources import in_lab, source_of
from middlewared.ports import PortError
from middlewared.settings import FenceSettings, Settings, SettingsError

PORTAL = "192.0.2.1:3260/iqn.2026-11.org.example:shelf"


def test_a_real_machine() -> None:
    assert isinstance(source_of(Settings()), LinuxDisks)
    assert isinstance(source_of(Settings(fence=FenceSettings(iscsi=(PORTAL,)))), IscsiSource)
    assert not in_lab(Settings())


def test_a_lab_is_never_reset_as_a_machine() -> None:
    for drivers in ("simulated", "linux"):
        settings = Settings(drivers=drivers, fence=FenceSettings(shelf="/x.sock"))
        assert isinstance(source_of(settings), ShelfSource)
        assert in_lab(settings)
    with pytest.raises(SettingsError, match=r"needs fence\.shelf"):
        source_of(Settings(drivers="simulated"))


@pytest.mark.parametrize(
    "text", ["", "192.0.2.1/iqn.x", "shelf:3260/iqn.x", "192.0.2.1:x/iqn.x", "192.0.2.1:3260/shelf", "[::1:3260/iqn.x"]
)
def test_what_is_no_portal(text: str) -> None:
    with pytest.raises(SettingsError, match=r"fence\.iscsi"):
        source_of(Settings(fence=FenceSettings(iscsi=(text,))))


def test_portals() -> None:
    assert parse_portal(PORTAL) == Portal("192.0.2.1", 3260, "iqn.2026-11.org.example:shelf")
    assert str(parse_portal("[2001:db8::1]:3260/iqn.x")) == "[2001:db8::1]:3260/iqn.x"


def test_a_missing_library_says_what_to_install() -> None:
    with pytest.raises(PortError, match="apt-get install libiscsi7"):
        libiscsi.load(("libnothing.so.7",))


def test_another_library_is_not_called(tmp_path: Path) -> None:
    with pytest.raises(PortError, match="is not the libiscsi that we know"):
        libiscsi.load(("libc.so.6",))
