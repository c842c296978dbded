"""What the driver says where keepalived is missing; with keepalived it is tried in tests/netns."""

from pathlib import Path

import pytest

from middlewared.plugins.vip.keepalived import KeepalivedVirtualIps
from middlewared.ports import PortError, VrrpInstance


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A host without any program."""
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    return tmp_path / "vrrp"


async def test_without_keepalived_the_doctor_names_the_package(bare: Path) -> None:
    found = await KeepalivedVirtualIps(bare).examine()
    assert [(one.ok, one.remedy) for one in found] == [(False, "apt-get install keepalived")]
    assert not bare.exists()  # looking changes nothing


async def test_without_keepalived_it_does_not_start(bare: Path) -> None:
    with pytest.raises(PortError, match="keepalived cannot be run"):
        await KeepalivedVirtualIps(bare).start()


async def test_nothing_is_written_for_an_instance_that_is_refused(bare: Path) -> None:
    with pytest.raises(PortError, match="cannot be the interface of a virtual address"):
        await KeepalivedVirtualIps(bare).configure([VrrpInstance("eth0 {", ("192.0.2.10/24",), 1, 100, 100)])
    assert not bare.exists()
