"""What `middlewared doctor` prints, and its exit status."""

import json
from pathlib import Path
from typing import Any

import pytest

from middlewared import drivers
from middlewared.doctor import commands
from middlewared.ports import Finding

GOLDEN = """\
ok       Python               3.11.7
MISSING  /proc/sysrq-trigger  No such file or directory
                              -> run as root, on a kernel with CONFIG_MAGIC_SYSRQ
MISSING  services             nobody answers

2 of 3 missing.
"""
FINDINGS = [
    Finding("Python", True, "3.11.7"),
    Finding(
        "/proc/sysrq-trigger", False, "No such file or directory", "run as root, on a kernel with CONFIG_MAGIC_SYSRQ"
    ),
    Finding("services", False, "nobody answers"),
]
SIMULATED = """\
drivers = simulated: of the machine itself nothing is looked at.

ok  Python  3.11.7

All 1 are fine.
"""


def test_the_table() -> None:
    assert commands.report(FINDINGS, simulated=False) == GOLDEN
    assert commands.report(FINDINGS[:1], simulated=True) == SIMULATED.replace("ok  P", "ok       P")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "middlewared.toml"
    path.write_text(
        f'drivers = "simulated"\nmachine = "x"\nstate_dir = "{tmp_path}"\nrun_dir = "{tmp_path}/run"\n'
        f'[api]\nlisten = []\n[peer]\nlisten = "unix:{tmp_path}/peer"\n'
    )
    return path


def test_something_is_missing(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main([], config) == 1
    text = capsys.readouterr().out
    assert text.startswith("drivers = simulated: of the machine itself nothing is looked at.\n")
    assert "peer.certificate" in text
    assert "-> `middlewared pair` on both controllers" in text


def test_for_programs(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["--json", "--config", str(config)], Path("/nowhere")) == 1
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert answer["drivers"] == "simulated"
    assert {"subject": "state_dir", "ok": True, "detail": f"{config.parent} is writable", "remedy": ""} in answer[
        "findings"
    ]


def test_wrong_settings(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text("nonsense = 1\n")
    assert commands.main([], config) == 2
    assert "unknown key 'nonsense'" in capsys.readouterr().err


def test_nothing_is_missing(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands.host, "certificates", lambda settings, now: [])
    assert commands.main([], config) == 0


def test_the_real_drivers_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On whatever host this runs: every driver answers, and nothing is raised."""
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path / 'nothing'}")
    config = tmp_path / "middlewared.toml"
    config.write_text(f'drivers = "linux"\nstate_dir = "{tmp_path}"\nrun_dir = "{tmp_path}"\n[api]\nlisten = []\n')
    from middlewared.settings import load

    settings = load(config)
    subjects = [finding.subject for finding in commands.asyncio.run(drivers.examine(drivers.to_examine(settings)))]
    assert set(subjects) >= {
        "systemd over D-Bus",
        "services",
        "/proc/sysrq-trigger",
        "/dev/kmsg",
        "hardware",
        "node",
        "serial number",
        "licence",
        "time synchronisation",
        "heartbeat interface",
        "shared disks",
    }
