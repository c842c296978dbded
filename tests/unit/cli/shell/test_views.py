"""What the status line, the dashboard and the progress show, without a terminal."""

from datetime import UTC, datetime
from typing import Any

import pytest

from middlewared.cli.progress import ProgressBar
from middlewared.cli.shell import dashboard, statusline

HEALTHY: dict[str, Any] = {"node": "A", "status": "MASTER", "other": "BACKUP", "reasons": [], "ongoing": False}


def words(text: Any) -> str:
    return "".join(part for _, part, *_ in text)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, " A MASTER   B BACKUP   failover works"),
        ({"node": "B"}, " A BACKUP   B MASTER   failover works"),
        ({"other": None, "reasons": ["NO_PONG"]}, " A MASTER   B unreachable   NO_PONG"),
        ({"ongoing": True}, " A MASTER   B BACKUP   failover under way "),
        ({"status": "SINGLE"}, " A SINGLE  not a pair"),
        ({"status": None}, ""),
        ({"reasons": None}, " A MASTER   B BACKUP  "),
    ],
)
def test_the_status_line(changes, expected):
    assert words(statusline.line({**HEALTHY, **changes}, connected=True, columns=80)) == expected


def test_the_status_line_of_somebody_who_may_not_ask_the_other_controller():
    answers = {name: value for name, value in HEALTHY.items() if name != "other"}
    assert "B reachable" in words(statusline.line(answers, connected=True, columns=80))
    assert "B unreachable" in words(statusline.line({**answers, "reasons": ["NO_PONG"]}, connected=True, columns=80))


def test_the_status_line_without_a_connection_and_without_room():
    assert "no connection" in words(statusline.line(HEALTHY, connected=False, columns=80))
    cut = words(statusline.line({**HEALTHY, "reasons": ["NO_PONG"] * 9}, connected=True, columns=40))
    assert len(cut) == 39
    assert cut.endswith("…")


def test_the_dashboard_shows_every_section():
    answers = {
        **HEALTHY,
        "info": {"hostname": "controller-a", "version": "1", "uptime": "0:01:00", "system_serial": "S1"},
        "explain": [
            {
                "code": "NO_PONG",
                "since": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
                "evidence": "no answer",
                "remedy": "Check the cable.",
            }
        ],
        "interfaces": [
            {
                "name": "eth0",
                "state": {"link_state": "LINK_STATE_UP", "aliases": [{"address": "192.0.2.10"}]},
                "failover_virtual_aliases": [{"address": "192.0.2.10", "netmask": 24}],
            }
        ],
        "keeper": {
            "running": True,
            "held": True,
            "peer": "ABSENT",
            "disks": [
                {"serial": "D1", "held": True, "failure": None},
                {"serial": "D2", "held": False, "failure": "gone"},
            ],
        },
        "pools": [
            {"name": "tank", "imported": True, "status": "ONLINE", "healthy": True, "size": 2048, "free": 1024},
            {"name": "cold", "imported": False},
        ],
        "rehearsal": {"checks": [{"name": "configuration", "subject": "B", "ok": True, "detail": "has change 5"}]},
        "history": [
            {
                "node": "A",
                "role": "takeover",
                "trigger": "elected",
                "started_at": datetime(2026, 1, 2, tzinfo=UTC),
                "duration_ms": 46,
                "outcome": "MASTER",
                "error": None,
            }
        ],
        "alerts": [
            {"key": "failover.reason.NO_PONG", "level": "WARNING", "text": "said above"},
            {"key": "failover.kept", "level": "CRITICAL", "text": "A copy was kept"},
        ],
    }
    text = words(dashboard.draw(answers, connected=True, columns=100))
    for expected in (
        "A  MASTER      controller-a",
        "B  BACKUP",
        "NO_PONG  since 03:04:05  no answer",
        "→ Check the cable.",
        "192.0.2.10/24  eth0  on A  link up",
        "1 of 2 disks held by A",
        "D2: gone",
        "ONLINE  1.0 KiB free of 2.0 KiB",
        "not imported here",
        "B has change 5",
        "A  takeover       46 ms  MASTER     elected",
        "CRITICAL  A copy was kept",
    ):
        assert expected in text
    assert "said above" not in text


def test_the_dashboard_of_somebody_who_may_ask_little_leaves_sections_out():
    text = words(dashboard.draw({"node": "A", "status": "MASTER"}, connected=True, columns=80))
    assert text.split() == ["Controllers", "A", "MASTER", "B", "reachable"]
    assert "No connection" in words(dashboard.draw(HEALTHY, connected=False, columns=80))


def test_an_answer_of_another_shape_spoils_only_its_section():
    text = words(dashboard.draw({**HEALTHY, "explain": [{"kode": 1}], "pools": "tank"}, connected=True, columns=100))
    assert text.count("does not understand") == 2
    assert "B  BACKUP" in text


def test_what_a_server_sends_does_not_command_the_terminal():
    answers = {**HEALTHY, "alerts": [{"key": "x", "level": "WARNING", "text": "a\x1b[2Jb"}]}
    assert "\x1b" not in words(dashboard.draw(answers, connected=True, columns=80))


def job(percent: int | None, description: str | None = "Copying", state: str = "RUNNING") -> dict[str, Any]:
    return {"id": 1, "state": state, "progress": {"percent": percent, "description": description}}


def test_a_bar_with_rate_and_time_left():
    bar = ProgressBar()
    bar.update(job(10), 100.0)
    assert bar.line(101.0, 80) == "[##----------------------]  10%  0:01  Copying"
    bar.update(job(30, "Copying..."), 110.0)
    assert bar.line(110.0, 80) == "[#######-----------------]  30%  2.0 %/s  0:35 left  Copying"
    assert bar.line(110.0, 30) == "[#######-----------------]  3"
    bar.update(job(30, state="SUCCESS"), 3800.0)
    assert bar.line(3800.0, 80) == "[########################] 100%  1:01:40  Copying"


def test_a_bar_of_a_job_that_says_nothing():
    bar = ProgressBar()
    bar.update(job(None, None), 0.0)
    assert bar.line(60.0, 80) == "[------------------------]   0%  1:00"
    bar.update(job(7, "\x1b[31mred"), 60.0)
    assert "\x1b" not in bar.line(60.0, 80)
