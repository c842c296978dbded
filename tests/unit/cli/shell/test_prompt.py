"""A session at the prompt, key by key."""

import stat
from pathlib import Path

import pytest
from support.terminal import CTRL_C, CTRL_D, ENTER, TAB, UP, Terminal


def prompts(screen: str, prompt: str) -> bool:
    """The last line is this prompt, and nothing typed yet."""
    return screen.splitlines()[-1].rstrip() == prompt.rstrip()


def type_line(terminal: Terminal, line: str, then: str) -> str:
    """Type a line and wait for the prompt that follows it; returns the screen."""
    terminal.send(line, ENTER)
    return terminal.until(
        f"{line!r} and then {then!r}", lambda screen: f"> {line}\n" in screen and prompts(screen, then)
    )


def test_a_walk_through_the_namespaces(shell):
    type_line(shell, "system", "[nodea] system>")
    type_line(shell, "failover", "[nodea] system failover>")
    screen = type_line(shell, "ls", "[nodea] system failover>")
    assert "status          - MASTER or SLAVE" in screen
    assert "MASTER\n" in type_line(shell, "status", "[nodea] system failover>")
    type_line(shell, "disabled", "[nodea] system failover disabled>")
    assert "(empty list)" in type_line(shell, "reasons", "[nodea] system failover disabled>")
    type_line(shell, "..", "[nodea] system failover>")
    type_line(shell, "/", "[nodea]>")
    assert "ECHOWARP" in type_line(shell, "system failover hardware", "[nodea]>")
    type_line(shell, "account user", "[nodea] account user>")
    assert "A\n" in type_line(shell, "system failover node", "[nodea] account user>"), (
        "the root's words work everywhere"
    )
    assert "b" in type_line(shell, "system failover ls", "[nodea] account user>")
    shell.send("exit", ENTER)
    assert shell.ends() == 0


def test_both_controllers_stand_above_the_prompt_and_change_by_events(shell, server):
    assert shell.text.splitlines()[-2].split() == ["A", "MASTER", "B", "BACKUP", "failover", "works"]
    server.methods["failover.disabled.reasons"] = ["NO_PONG"]
    server.other["failover.status"] = None
    server.emit("failover.disabled.reasons", msg="changed", fields={"disabled_reasons": ["NO_PONG"]})
    shell.shows("A MASTER   B unreachable   NO_PONG")
    server.methods["failover.in_progress"] = True
    server.methods["failover.status"] = "IMPORTING"
    server.emit("failover.status", msg="changed", fields={"status": "IMPORTING"})
    shell.shows("A IMPORTING", "failover under way")


def test_the_status_is_not_left_behind_in_what_scrolls_away(shell):
    screen = type_line(shell, "system failover node", "[nodea]>")
    assert screen.count("failover works") == 1


def test_man_and_help(shell):
    screen = type_line(shell, "man system failover control", "[nodea]>")
    for text in ("Enable or disable failover", "action  string: ENABLE | DISABLE, required", "Asks first"):
        assert text in screen
    screen = type_line(shell, "?", "[nodea]>")
    assert "what there is here" in screen
    assert "system" in screen


@pytest.mark.parametrize(
    ("typed", "becomes"),
    [
        ("sys", "system"),
        ("system fail", "system failover"),
        ("system failover conf", "system failover config"),
        ("system failover control act", "system failover control action="),
        ("system failover control action=EN", "system failover control action=ENABLE"),
        ("system failover update disabled=tr", "system failover update disabled=true"),
        ("system failover update master=nu", "system failover update master=null"),
        ("account user delete id=71", "account user delete id=71"),
        ("storage pool query na", "storage pool query name"),
        ("storage pool query WH", "storage pool query WHERE"),
        ("system failover status --js", "system failover status --json"),
        (".mode c", ".mode csv"),
        ("call failover.upgrade_p", "call failover.upgrade_pending"),
    ],
)
def test_tab_completes(shell, typed, becomes):
    shell.send(typed, TAB)
    shell.until(becomes, lambda screen: prompts(screen, f"[nodea]> {becomes}"))


def test_tab_lists_what_there_is_with_its_meaning_and_live_values(shell, server):
    shell.send("system failover control action=", TAB)
    shell.shows("ENABLE", "DISABLE")
    shell.send(CTRL_C).until("an empty line", lambda screen: prompts(screen, "[nodea]>"))
    shell.send("account user update ", TAB)
    shell.shows("70", "71", "full_name=")


def test_results_in_other_modes(shell, tmp_path):
    assert '"MASTER"' in type_line(shell, "system failover status --json", "[nodea]>")
    type_line(shell, ".mode csv", "[nodea]>")
    assert "id,disabled,timeout,master" in type_line(shell, "system failover config", "[nodea]>")
    assert "csv" in type_line(shell, ".mode", "[nodea]>")
    assert "is no mode" in type_line(shell, ".mode xml", "[nodea]>")
    type_line(shell, f"system failover config > {tmp_path}/config.csv", "[nodea]>")
    assert (tmp_path / "config.csv").read_bytes() == b"id,disabled,timeout,master\r\n1,false,0,true\r\n"


def test_mistakes_are_told_and_the_session_goes_on(shell):
    assert 'did you mean "system failover status"?' in type_line(shell, "system failover statsu", "[nodea]>")
    assert "Error: Not on this node" in type_line(shell, "test fail", "[nodea]>")
    assert "* data.timeout: Input should be" in type_line(shell, "test invalid", "[nodea]>")
    assert 'a quote (") is open' in type_line(shell, 'test echo "a', "[nodea]>")
    assert "belongs to the start of midctl" in type_line(shell, "test value --url ws://x", "[nodea]>")
    assert "cannot write /nowhere/x" in type_line(shell, "system failover node > /nowhere/x", "[nodea]>")
    assert "Traceback" not in shell.text


def test_ctrl_c_clears_the_line_ends_the_waiting_and_ctrl_d_leaves(shell, server):
    shell.send("system failover force_mas", CTRL_C).until("a new prompt", lambda screen: prompts(screen, "[nodea]>"))
    server.methods["test.value"] = server.methods["test.never"]
    shell.send("test value", ENTER)
    server.wait_until_asked("test.value")
    shell.send(CTRL_C)
    shell.shows("you did not wait for the answer: what it did is unknown")
    shell.until("the prompt", lambda screen: prompts(screen, "[nodea]>"))
    shell.send(CTRL_D)
    assert shell.ends() == 0


def test_history_is_private_and_keeps_no_secrets(shell, start, tmp_path):
    type_line(shell, "system failover node", "[nodea]>")
    type_line(shell, "account user create username=eve password=hunter2", "[nodea]>")
    type_line(shell, "acount user create username=eve password=hunter2", "[nodea]>")
    type_line(shell, 'call user.create {"username":"eve","password":"hunter2"}', "[nodea]>")
    type_line(shell, "account user", "[nodea] account user>")
    shell.send(CTRL_D)
    shell.ends()
    path = Path(tmp_path) / "state" / "midctl" / "history"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    kept = [line[1:] for line in path.read_text().splitlines() if line.startswith("+")]
    assert kept == ["system failover node", "account user"]
    again = start()
    again.shows("failover works")
    again.send(UP).shows("> account user")


def test_dangerous_commands_say_what_will_happen_and_ask(shell, server):
    shell.send("system failover force_master", ENTER)
    shell.shows("The disks are taken by force.", "controller B could take over (1 checks)", "Go on? Type yes:")
    shell.send("y", ENTER).shows("Nothing was done.")
    assert server.called("failover.force_master") == []
    shell.send("system failover force_master", ENTER)
    shell.until("the second question", lambda screen: screen.count("Go on? Type yes:") == 2)
    shell.send("yes", ENTER).shows("false")
    assert server.called("failover.force_master") == [[]]
    type_line(shell, "system failover force_master --yes", "[nodea]>")
    assert len(server.called("failover.force_master")) == 2
    type_line(shell, "system failover control ENABLE", "[nodea]>")
    assert server.called("failover.control") == [["ENABLE"]], "only DISABLE is dangerous"
    shell.send("system failover control DISABLE", ENTER).shows("Failover is switched off.")
    shell.until("the third question", lambda screen: screen.count("Go on? Type yes:") == 3)
    shell.send(CTRL_C).until("the prompt", lambda screen: prompts(screen, "[nodea]>"))
    assert server.called("failover.control") == [["ENABLE"]]


def test_dry_run_rehearses_and_changes_nothing(shell, server):
    screen = type_line(shell, "system failover force_master --dry-run", "[nodea]>")
    assert "would_work | true" in screen
    assert server.called("failover.force_master") == []
    assert "cannot be rehearsed" in type_line(shell, "system failover sync_to_peer --dry-run", "[nodea]>")


def test_a_job_shows_a_bar(shell, server):
    server.job_progress = [(0, ""), (30, "Copying"), (57, "Activating new boot environment")]
    server.hold_jobs = True
    shell.send("system failover upgrade_finish", ENTER)
    shell.shows("[#############-----------]  57%", "Activating new boot environment")
    server.release_jobs()
    shell.shows("[########################] 100%")
    shell.until("the prompt", lambda screen: prompts(screen, "[nodea]>"))


def test_ctrl_c_during_a_job_asks_whether_to_detach_or_to_abort(shell, server):
    server.job_progress = [(40, "Copying")]
    server.hold_jobs = True
    shell.send("system failover upgrade_finish", ENTER).shows("40%")
    shell.send(CTRL_C).shows("[d]etach")
    shell.send(ENTER)  # go on watching
    shell.until("the bar again", lambda screen: "Copying" in screen.rpartition("watching?")[2])
    shell.send(CTRL_C).until("the question again", lambda screen: screen.count("[d]etach") == 2)
    shell.send("d", ENTER).shows("Job 1 goes on. To look at it: midctl call core.get_jobs")
    assert server.called("core.job_abort") == []
    shell.send("test job", ENTER).until("the bar", lambda screen: screen.count("Copying") == 4)
    shell.send(CTRL_C).until("the question", lambda screen: screen.count("[d]etach") == 3)
    shell.send("a", ENTER).shows("Error: test.job was aborted")
    assert server.called("core.job_abort") == [[1]]


def test_a_lost_connection_is_told_and_made_again(shell, server):
    server.drop()
    shell.shows("The connection to the daemon was lost. Trying to reach", "Connected again: controller A, MASTER.")
    shell.shows("failover works")
    assert "A\n" in type_line(shell, "system failover node", "[nodea]>")


def test_what_was_under_way_when_the_connection_was_lost_is_unknown(shell, server):
    server.methods["test.value"] = server.methods["test.never"]
    shell.send("test value", ENTER)
    server.wait_until_asked("test.value")
    server.drop()
    shell.shows("test.value: the answer went with the connection, and what it did is unknown", "Connected again")
    assert len(server.called("test.value")) == 1, "never repeated"
    shell.until("the prompt", lambda screen: prompts(screen, "[nodea]>"))


def test_no_colours_where_none_are_wanted(start):
    colourful = start()
    colourful.shows("failover works")
    assert b"\x1b[0;32m" in colourful.raw
    plain = start(environment={"NO_COLOR": "1"})
    plain.shows("failover works")
    assert b"\x1b[0;32m" not in plain.raw


def test_long_results_go_through_the_pager(start, server, tmp_path):
    pager = tmp_path / "pager"
    pager.write_text('#!/bin/sh\nhead -n 2\necho "--paged--"\n')
    pager.chmod(0o755)
    server.methods["test.value"] = [f"line {number}" for number in range(100)]
    shell = start(environment={"PAGER": str(pager)})
    shell.shows("failover works")
    screen = type_line(shell, "test value", "[nodea]>")
    assert "line 1\n--paged--" in screen
    assert "line 2\n" not in screen
    assert "--paged--" not in type_line(shell, "system failover node", "[nodea]>").rpartition("node")[2]


def test_a_login_that_is_refused_later_ends_the_trying(start, server):
    server.trusted = False
    shell = start("--user", "admin", "--password", "lab")
    shell.shows("failover works")
    server.password = "changed"
    server.drop()
    shell.shows("cannot log in again: wrong user name or password")
    assert "Leave with exit, and" in type_line(shell, "system failover node", "[nodea]>")
    asked = len(server.called("auth.login_ex"))
    assert asked == 2, "once at the start, once again: who tries for ever is locked out"
    shell.send("exit", ENTER)
    assert shell.ends() == 0


def test_no_login_no_shell(start, server):
    server.trusted = False
    terminal = start()
    assert terminal.ends() == 1
    assert "Log in with --user USER" in terminal.text
    terminal = start("--user", "admin", "--password", "wrong")
    assert terminal.ends() == 1
    assert "wrong user name or password" in terminal.text
