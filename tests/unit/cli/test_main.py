"""call, subscribe and help."""

import io
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest


def test_call_prints_json_and_bare_text(midctl, server):
    assert midctl("call", "failover.config").out == json.dumps(server.methods["failover.config"], indent=2) + "\n"
    assert midctl("call", "failover.status").out == "MASTER\n"
    assert midctl("call", "failover.status", "--json").out == '"MASTER"\n'
    assert midctl("call", "failover.sync_to_peer").out == "null\n"
    assert midctl("call", "failover.licensed").out == "true\n"
    assert midctl("--mode", "table", "call", "failover.config").out.startswith("+--")


def test_call_takes_json_text_and_standard_input(midctl, server, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO('{"piped": 1}'))
    midctl("call", "test.echo", "word", "7", '{"a": [null]}', "-", "-5", '"7"')
    assert server.called("test.echo") == [["word", 7, {"a": [None]}, {"piped": 1}, -5, "7"]]
    monkeypatch.setattr("sys.stdin", io.StringIO("{"))
    assert midctl("call", "test.echo", "-").status == 2


def test_call_follows_jobs_with_the_progress_on_standard_error(midctl, server):
    server.job_result = [1]
    status, out, err = midctl("call", "test.job")
    assert (status, out) == (0, "[\n  1\n]\n")
    assert err.splitlines()[-1] == "[0%] Activating new boot environment..."


def test_call_works_without_login_where_the_method_does(run, server):
    server.trusted = False
    assert run("--url", server.url, "call", "core.ping") == (0, "pong\n", "")


def test_subscribe_prints_events_until_enough(midctl, server):
    def emit() -> None:
        server.wait_for("core.subscribe")
        for status in ("ELECTING", "MASTER", "UNSEEN"):
            server.emit("failover.status", msg="changed", fields={"status": status})

    thread = threading.Thread(target=emit)
    thread.start()
    status, out, err = midctl("subscribe", "failover.status", "-n", "2")
    thread.join()
    assert (status, err) == (0, "")
    assert [json.loads(line)["fields"]["status"] for line in out.splitlines()] == ["ELECTING", "MASTER"]


@pytest.mark.parametrize(("extra", "status"), [((), 0), (("-n", "1"), 1)])
def test_subscribe_ends_when_the_time_is_over(midctl, extra, status):
    outcome = midctl("subscribe", "failover.status", "-t", "0.05", *extra)
    assert (outcome.status, outcome.out) == (status, "")
    assert outcome.err == ("midctl: 0 of 1 events came\n" if extra else "")


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [(None, 0, ""), ({"error": 22, "errname": "EINVAL", "reason": "[EINVAL] bad name"}, 1, "Error: bad name\n")],
)
def test_subscribe_ends_when_the_server_ends_it(midctl, server, error, status, text):
    def end() -> None:
        server.wait_for("core.subscribe")
        message = {"jsonrpc": "2.0", "method": "notify_unsubscribed"}
        server.send_raw(json.dumps({**message, "params": {"collection": "x", "error": error}}))

    thread = threading.Thread(target=end)
    thread.start()
    outcome = midctl("subscribe", "x")
    thread.join()
    assert outcome == (status, "", text)


def test_help_lists_namespaces_and_explains_commands(midctl):
    assert midctl("help", "system").out == "failover - High availability\n"
    listing = midctl("system", "failover", "--help").out.splitlines()
    assert listing == sorted(listing)
    assert "status          - MASTER or SLAVE" in listing
    assert "disabled" in listing
    page = midctl("help", "system", "failover", "update").out
    assert page == midctl("system", "failover", "update", "--help").out
    for line in (
        "system failover update - Change the failover configuration",
        "usage: midctl system failover update [disabled=true|false] [master=true|false] [timeout=INTEGER]",
        "  disabled  boolean",
        "      Turn failover off.",
        "  timeout  integer, 0..120, default 0",
        "API method failover.update",
    ):
        assert line in page.splitlines()
    control = midctl("help", "system failover control").out
    assert "  midctl system failover control action=ENABLE options={}" in control.splitlines()
    assert "      active  boolean, default true" in control.splitlines()
    query = midctl("help", "storage", "pool", "query").out
    assert "Columns: id, name, topology, scan, paths\n" in query
    assert "WHERE name ==" in query
    assert midctl("help", "nowhere").status == 2


def test_one_command_imports_no_more_than_it_needs(server):
    """The shell's libraries cost more than the whole of a one-shot command."""
    code = (
        "import sys; from middlewared.cli.main import main; main(sys.argv[1:]); "
        "print({'asyncio', 'prompt_toolkit', 'ruamel', 'jsonschema', 'aiohttp'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, "--url", server.url, "system", "failover", "status"]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "MASTER\nset()\n"
