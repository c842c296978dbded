"""The shell without a terminal, and one-shot commands on one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.terminal import CTRL_C, ENTER, MIDCTL

ROOT = Path(__file__).parents[4]


@pytest.fixture
def piped(server):
    """`piped("lines", "--json")`: (exit code, stdout, stderr) of midctl that reads from a pipe."""

    def piped(text: str, *words: str) -> tuple[int, str, str]:
        command = [sys.executable, "-c", MIDCTL, "--url", server.url, *words]
        done = subprocess.run(command, cwd=ROOT, input=text, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout, done.stderr

    return piped


def test_commands_from_a_pipe(piped, server):
    text = "# a comment\n\nsystem failover\nstatus\ndisabled reasons\n/\nsystem failover node --json\nexit\nsystem\n"
    assert piped(text) == (0, 'MASTER\n(empty list)\n"A"\n', "")
    assert server.called("failover.call_remote") == [], "no status line where nobody sees it"


def test_a_pipe_goes_on_after_a_failure_and_tells_by_the_exit_code(piped):
    status, out, err = piped("test fail\nsystem failover node\nsystem failover control\n")
    assert (status, out) == (1, "A\n")
    assert "Error: Not on this node" in err
    assert "action is missing" in err


def test_dangerous_commands_from_a_pipe_are_not_asked_about(piped, server):
    assert piped("system failover force_master\n") == (0, "false\n", "")


def test_jobs_from_a_pipe_print_plain_lines(piped):
    expected = "[0%] ...\n[0%] Ensuring the Standby Controller is booted...\n[0%] Activating new boot environment...\n"
    assert piped("system failover upgrade_finish\n") == (0, expected, "")
    assert piped("system failover upgrade_finish --json\n") == (0, "null\n", expected)


def test_the_whole_screen_needs_a_terminal(piped):
    assert piped("", "watch")[0] == 2
    assert "watch needs a terminal" in piped("watch\n")[2]


def test_template_and_document_through_pipes(piped, server):
    status, template, err = piped("", "system", "failover", "control", "--print-template")
    assert (status, err) == (0, "")
    document = template.replace("action:", "action: ENABLE")
    assert piped(document, "system", "failover", "control", "--") == (0, "false\n", "")
    assert server.called("failover.control") == [["ENABLE", {}]]
    assert piped("[", "system", "failover", "control", "--")[0] == 2
    assert piped("", "system", "failover", "update", "--")[0] == 0
    assert server.called("failover.update") == [[]]


def test_a_lost_connection_in_a_pipe_is_told_on_standard_error(server):
    command = [sys.executable, "-c", MIDCTL, "--url", server.url]
    with subprocess.Popen(
        command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdin.write("system failover node\n")
        process.stdin.flush()
        assert process.stdout.readline() == "A\n"
        server.drop()
        told = process.stderr.readline()
        process.stdin.write("system failover status\n")
        out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "MASTER\n")
    assert told.startswith("The connection to the daemon was lost. Trying to reach")


def test_a_dangerous_command_on_a_terminal_asks(start, server):
    terminal = start("system", "failover", "force_master")
    terminal.shows("The disks are taken by force.", "Go on? Type yes:")
    terminal.send("no", ENTER)
    assert terminal.ends() == 1
    assert "Nothing was done." in terminal.text
    assert start("system", "failover", "force_master", "--yes").ends() == 0
    assert server.called("failover.force_master") == [[]]


def test_a_rehearsal_on_a_terminal(start, server):
    terminal = start("system", "failover", "force_master", "--dry-run", "--json")
    assert terminal.ends() == 0
    assert json.loads(terminal.text)["would_work"] is True
    server.methods["failover.rehearse"] = {"node": "B", "would_work": False, "failures": ["peer"], "checks": []}
    assert start("system", "failover", "force_master", "--dry-run").ends() == 1
    assert start("system", "failover", "status", "--dry-run").ends() == 2


def test_a_job_on_a_terminal_shows_a_bar_and_can_be_left(start, server):
    server.hold_jobs = True
    server.job_progress = [(40, "Copying")]
    terminal = start("system", "failover", "upgrade_finish")
    terminal.shows("[#########---------------]  40%", "Copying")
    terminal.send(CTRL_C).shows("[d]etach")
    terminal.send("d", ENTER)
    assert terminal.ends() == 0
    assert "Job 1 goes on." in terminal.text
    terminal = start("test", "job")
    terminal.shows("40%")
    terminal.send(CTRL_C).shows("[d]etach")
    terminal.send("a", ENTER)
    assert terminal.ends() == 1
    assert "Error: test.job was aborted" in terminal.text
