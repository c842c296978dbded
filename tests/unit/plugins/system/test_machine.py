"""Reading /proc and /etc."""

from datetime import timedelta
from pathlib import Path

import pytest

from middlewared.plugins.system import machine

TWO_SOCKETS_OF_TWO = "".join(
    f"processor\t: {number}\nmodel name\t: Some Processor\nphysical id\t: {number // 4}\ncore id\t\t: {number % 2}\n\n"
    for number in range(8)
)


def test_memory_is_given_in_bytes() -> None:
    assert machine.memory_bytes("MemFree: 1 kB\nMemTotal:       16384 kB\n") == 16 << 20
    assert machine.memory_bytes("") is None


def test_hyper_threads_are_not_cores() -> None:
    assert machine.physical_cores(TWO_SOCKETS_OF_TWO) == 4


def test_a_hypervisor_that_hides_cores_leaves_them_unknown() -> None:
    assert machine.physical_cores("processor\t: 0\nmodel name\t: vCPU\n") is None
    assert machine.physical_cores("physical id\t: 0\nphysical id\t: 0\ncore id\t: 0\n") is None


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("/usr/share/zoneinfo/Europe/Vienna", "Europe/Vienna"),
        ("../usr/share/zoneinfo/Etc/UTC", "UTC"),
        ("/somewhere/else", "UTC"),
        (None, "UTC"),
    ],
)
def test_time_zone_is_where_localtime_points_to(tmp_path: Path, target: str | None, name: str) -> None:
    (tmp_path / "etc").mkdir()
    if target is not None:
        (tmp_path / "etc" / "localtime").symlink_to(target)
    assert machine.timezone(tmp_path) == name


def test_a_machine_that_tells_nothing_leaves_things_unknown(tmp_path: Path) -> None:
    found = machine.read(tmp_path)
    assert (found.model, found.memory_bytes, found.physical_cores, found.ecc) == (None, None, None, None)
    assert found.uptime > timedelta(0)
    assert found.booted < found.now


def test_memory_controllers_that_report_mean_ecc(tmp_path: Path) -> None:
    (tmp_path / "sys/devices/system/edac/mc/mc0").mkdir(parents=True)
    assert machine.read(tmp_path).ecc is True
