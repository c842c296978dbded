"""Every command of the administrator's contract prints what it shows, in all three modes."""

import json

import pytest

CONFIG = """\
+----------+-------+
|       id | 1     |
| disabled | false |
|  timeout | 0     |
|   master | true  |
+----------+-------+
"""
IPS = ["http://10.220.148.12", "http://10.220.16.85", "https://10.220.148.12", "https://10.220.16.85"]
JOB = "[0%] ...\n[0%] Ensuring the Standby Controller is booted...\n[0%] Activating new boot environment...\n"

# command, table, csv, json (the value)
CONTRACT = [
    (
        "config",
        CONFIG,
        "id,disabled,timeout,master\r\n1,false,0,true\r\n",
        {"id": 1, "disabled": False, "timeout": 0, "master": True},
    ),
    ("control action=ENABLE options={}", "false\n", "false\r\n", False),
    ("disabled reasons", "(empty list)\n", "", []),
    ("force_master", "false\n", "false\r\n", False),
    ("get_ips", "\n".join(IPS) + "\n", "\r\n".join(IPS) + "\r\n", IPS),
    ("hardware", "ECHOWARP\n", "ECHOWARP\r\n", "ECHOWARP"),
    ("in_progress", "false\n", "false\r\n", False),
    ("licensed", "true\n", "true\r\n", True),
    ("node", "A\n", "A\r\n", "A"),
    ("status", "MASTER\n", "MASTER\r\n", "MASTER"),
    ("sync_from_peer", "\n", "", None),
    ("sync_to_peer", "\n", "", None),
    ("sync_to_peer options={}", "\n", "", None),
    ("upgrade_pending", "false\n", "false\r\n", False),
    ("update timeout=0", "", "", {"id": 1, "disabled": True, "timeout": 0, "master": True}),
]
IDS = [row[0] for row in CONTRACT]


@pytest.mark.parametrize(("command", "table", "csv", "value"), CONTRACT, ids=IDS)
def test_command_prints_what_the_contract_shows(midctl, command, table, csv, value):
    words = ("system", "failover", *command.split())
    assert midctl(*words) == (0, table, "")
    assert midctl("--mode", "csv", *words) == (0, csv, "")
    status, out, err = midctl(*words, "--json")
    assert (status, json.loads(out), err) == (0, value, "")


@pytest.mark.parametrize("command", IDS)
def test_command_may_come_as_one_quoted_argument(midctl, command):
    words = ("system", "failover", *command.split())
    assert midctl(" ".join(words)) == midctl(*words)


def test_job_prints_every_change_once_and_in_order(midctl, server):
    assert midctl("system", "failover", "upgrade_finish") == (0, JOB, "")
    server.answer_before_last_notice = True
    server.job_progress = [(0, None), (None, ""), (20.7, "One"), (20, "One"), (30, "Two..."), (30, "Three")]
    expected = "[0%] ...\n[20%] One...\n[30%] Two...\n[30%] Three...\n"
    assert midctl("system", "failover", "upgrade_finish") == (0, expected, "")


@pytest.mark.parametrize(("result", "text"), [(None, ""), (True, ""), (False, "false\n"), (1, "1\n"), ("x", "x\n")])
def test_job_result_is_shown_unless_it_only_says_done(midctl, server, result, text):
    server.job_result = result
    assert midctl("system", "failover", "upgrade_finish") == (0, JOB + text, "")
    assert json.loads(midctl("system", "failover", "upgrade_finish", "--json").out) == result


def test_job_progress_leaves_standard_output_to_the_result_in_csv_and_json(midctl):
    assert midctl("system", "failover", "upgrade_finish", "--json") == (0, "null\n", JOB)
    assert midctl("system", "failover", "upgrade_finish", "--mode", "csv") == (0, "", JOB)


def test_a_standby_is_a_slave_to_the_administrator_only(midctl, server):
    server.methods["failover.status"] = server.methods["test.value"] = "BACKUP"
    assert midctl("system", "failover", "status").out == "SLAVE\n"
    assert midctl("call", "failover.status").out == "BACKUP\n"
    assert midctl("test", "value").out == "BACKUP\n"


def test_several_reasons_come_one_a_line(midctl, server):
    server.methods["failover.disabled.reasons"] = ["NO_PONG", "NO_VOLUME"]
    assert midctl("system", "failover", "disabled", "reasons").out == "NO_PONG\nNO_VOLUME\n"


def test_crud_changes_are_silent_except_for_a_new_api_key(midctl):
    assert midctl("account", "user", "create", "username=eve") == (0, "", "")
    assert midctl("account", "user", "update", "70", "full_name=Eve") == (0, "", "")
    assert midctl("account", "user", "delete", "70") == (0, "", "")
    assert "1-abc" in midctl("account", "api_key", "create", "name=backup").out


def test_words_and_arguments_become_the_call(midctl, server):
    midctl("system", "failover", "control", "action", "=", "DISABLE", "options=", '{"active": false}')
    midctl("system", "failover", "update", "disabled=true", "timeout=5")
    midctl("account", "user", "update", "70", "groups=a,b")
    assert server.called("failover.control") == [["DISABLE", {"active": False}]]
    assert server.called("failover.update") == [[{"disabled": True, "timeout": 5}]]
    assert server.called("user.update") == [[70, {"groups": ["a", "b"]}]]


def test_names_of_commands_are_asked_for_in_one_go(midctl, server):
    midctl("system", "failover", "status")
    asked = [request["method"] for request in server.requests]
    assert asked == ["core.set_options", "core.get_services", "core.get_methods", "failover.status"]
