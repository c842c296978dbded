"""The lab's own life: one at a time, nothing left behind, and a second start works at once."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

from support.lab import COMMAND, processes, run

COMMAND_TIMEOUT_S = 20


def processes_end(directory: Path) -> list[str]:
    """What is still there after a while; the kernel needs a moment to kill what a dead parent leaves."""
    deadline_s = time.monotonic() + COMMAND_TIMEOUT_S
    while (left := processes(directory)) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    return left


def foreground(directory: Path) -> subprocess.Popen[str]:
    """`lab up` in the foreground, once its screen is complete."""
    process = subprocess.Popen(
        [*COMMAND, "up", "--dir", str(directory)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    screen = ""
    while "B is powered on" not in screen:
        line = process.stdout.readline()
        assert line, f"the lab ended: {screen}"
        screen += line
    for expected in ("127.0.10.1:6080", "127.0.10.2:6080", "127.0.10.10:6080", "admin / lab", "Ctrl-C ends the lab"):
        assert expected in screen
    return process


def test_ctrl_c_ends_everything_and_a_second_start_works_at_once(lab_directory: Path) -> None:
    for _ in range(2):
        process = foreground(lab_directory)
        assert len(processes(lab_directory)) >= 3
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=COMMAND_TIMEOUT_S) == 0
        assert processes(lab_directory) == []


def test_a_crashed_lab_leaves_no_process_and_the_next_one_starts(lab_directory: Path) -> None:
    process = foreground(lab_directory)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=COMMAND_TIMEOUT_S)
    assert processes_end(lab_directory) == []
    again = foreground(lab_directory)
    again.send_signal(signal.SIGTERM)
    assert again.wait(timeout=COMMAND_TIMEOUT_S) == 0


def test_a_frozen_controller_ends_with_the_lab_too(
    lab_directory: Path,
) -> None:
    process = foreground(lab_directory)
    assert run("pause", "b", directory=lab_directory).returncode == 0
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=COMMAND_TIMEOUT_S) == 0
    assert processes(lab_directory) == []


def test_a_lab_detached(lab_directory: Path) -> None:
    started = run("up", "--detach", directory=lab_directory)
    assert started.returncode == 0, started.stderr
    assert f"The lab runs in {lab_directory}" in started.stdout

    second = run("up", directory=lab_directory)
    assert second.returncode == 1
    assert "a lab runs in" in second.stderr

    elsewhere = run("up", directory=lab_directory / "other")
    assert elsewhere.returncode == 1
    assert "127.0.10.1:6080 cannot be used" in elsewhere.stderr

    table = run("status", directory=lab_directory)
    assert table.returncode == 0
    assert "MASTER" in table.stdout
    assert "tank ONLINE" in table.stdout

    status = json.loads(run("status", "--json", directory=lab_directory).stdout)
    assert status["controllers"]["a"]["failover_status"] == "MASTER"
    assert status["controllers"]["b"]["failover_status"] == "BACKUP"
    assert status["controllers"]["b"]["disabled_reasons"] == []
    assert {disk["holder"] for disk in status["disks"]} == {"a"}
    assert all(status["links"].values())

    assert run("down", directory=lab_directory).returncode == 0
    assert processes(lab_directory) == []


def test_commands_that_make_no_sense_now_say_so(lab_directory: Path) -> None:
    process = foreground(lab_directory)
    for words, message in (
        (["boot", "a"], "controller A is on already"),
        (["resume", "a"], "controller A is not frozen"),
    ):
        refused = run(*words, directory=lab_directory)
        assert refused.returncode == 1
        assert message in refused.stderr
    assert run("kill", "b", directory=lab_directory).returncode == 0
    again = run("kill", "b", directory=lab_directory)
    assert again.returncode == 1
    assert "controller B is off: lab boot b" in again.stderr
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(timeout=COMMAND_TIMEOUT_S) == 0
