"""The last resort, on files of a test's own: nothing here may reach the real ones."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from middlewared.ports import Finding
from middlewared.sysrq import Sysrq

REASON = "the reservations on the disks were lost"


class Rest:
    """Files in the place of the kernel's, and the last resorts noted down."""

    def __init__(self, folder: Path) -> None:
        self.kernel_log, self.trigger = folder / "kmsg", folder / "trigger"
        self.kernel_log.touch()
        self.trigger.touch()
        self.resorts: list[str] = []

    def sysrq(self) -> Sysrq:
        def note(name: str) -> Callable[[], None]:
            return lambda: self.resorts.append(name)

        return Sysrq(
            "fenced",
            kernel_log=self.kernel_log,
            trigger=self.trigger,
            last_resorts=(note("reboot"), note("die")),
        )


@pytest.fixture
def rest(tmp_path: Path) -> Rest:
    return Rest(tmp_path)


def test_the_reason_then_b_then_whatever_is_left(rest: Rest) -> None:
    with pytest.raises(RuntimeError, match="cannot be reset"):
        rest.sysrq().reset(REASON)
    assert rest.kernel_log.read_text() == f"<0>fenced: resetting this controller: {REASON}\n"
    assert rest.trigger.read_text() == "b"
    assert rest.resorts == ["reboot", "die"]


def test_what_was_prepared_needs_no_path_any_more(rest: Rest) -> None:
    sysrq = rest.sysrq()
    sysrq.prepare()
    trigger = os.open(rest.trigger, os.O_RDONLY)
    rest.kernel_log.unlink()
    rest.trigger.unlink()
    with pytest.raises(RuntimeError):
        sysrq.reset(REASON)
    assert os.read(trigger, 10) == b"b"
    os.close(trigger)
    sysrq.close()
    assert not rest.trigger.exists()


def test_a_machine_without_any_of_it_still_reaches_the_last_resorts(rest: Rest) -> None:
    rest.kernel_log.unlink()
    rest.trigger.unlink()
    sysrq = rest.sysrq()
    sysrq.prepare()
    with pytest.raises(RuntimeError):
        sysrq.reset(REASON)
    assert rest.resorts == ["reboot", "die"]


def test_a_long_reason_is_one_short_record(rest: Rest) -> None:
    with pytest.raises(RuntimeError):
        rest.sysrq().reset("disk\n" * 1000)
    text = rest.kernel_log.read_bytes()
    assert len(text) < 1024
    assert text.count(b"\n") == 1


def test_findings_write_nothing(rest: Rest) -> None:
    assert rest.sysrq().findings() == [
        Finding(str(rest.trigger), True, "writable"),
        Finding(str(rest.kernel_log), True, "writable"),
    ]
    assert rest.trigger.read_bytes() == rest.kernel_log.read_bytes() == b""
    rest.trigger.unlink()
    [trigger, _] = rest.sysrq().findings()
    assert (trigger.ok, trigger.detail) == (False, "No such file or directory")
    assert "CONFIG_MAGIC_SYSRQ" in trigger.remedy
