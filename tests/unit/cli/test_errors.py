"""What goes wrong is said in a sentence, with the remedy, and with the right exit code."""

import io
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.standin_api import service
from support.standin_server import StandIn, call_error


def test_errors_of_calls(midctl):
    assert midctl("test", "fail") == (1, "", "Error: Not on this node\n")
    status, out, err = midctl("test", "invalid")
    assert (status, out) == (1, "")
    assert err == (
        "Validation errors:\n* data.timeout: Input should be less than or equal to 120\n* Something is off\n"
    )


def test_errors_of_jobs(midctl):
    assert midctl("test", "job", "FAILED").status == 1
    assert midctl("test", "job", "FAILED").err == "Error: Standby Controller is not ready.\n"
    assert midctl("test", "job", "INVALID").err == "Validation errors:\n* failover_upgrade.train: Bad train\n"
    assert midctl("test", "job", "ABORTED").err == "Error: test.job was aborted\n"


@pytest.mark.parametrize(
    ("words", "err"),
    [
        ("system failover statsu", 'unknown command "system failover statsu": did you mean "system failover status"?'),
        ("system failovr status", 'unknown command "system failovr status": did you mean "system failover status"?'),
        ("failover status", 'unknown command "failover status": did you mean "system failover status"?'),
        ("status", 'unknown command "status": did you mean "system failover status"?'),
        ("sytem", 'unknown command "sytem": did you mean "system"?'),
        ("xyzzy", 'no command "xyzzy" that this user may run: see "midctl help"'),
        (
            "system failover xyzzy",
            'no command "system failover xyzzy" that this user may run: see "midctl help system failover"',
        ),
        ("system failover control", "action is missing"),
        ("system failover", '"system failover" is not a whole command'),
        ("--jsn system", 'unknown option "--jsn": did you mean "--json"?'),
        ("--mode xml system", '--mode is one of table, csv, json, not "xml"'),
        ("--timeout 0 system", '--timeout needs a number above 0, not "0"'),
        ("system --user", "--user needs a value"),
        ("call", "call what?"),
        ("subscribe a b", "one event"),
        ("system -n 3", "-n and -t belong to subscribe"),
        ("--user admin system", "--user needs --password-file"),
        ("--password x system", "a password needs a user"),
        ("--password x --password-file y system", "give one of"),
    ],
)
def test_wrong_command_lines(midctl, monkeypatch, words, err):
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    status, out, printed = midctl(*words.split())
    assert (status, out) == (2, "")
    assert printed.startswith("midctl: ")
    assert err in printed


def test_without_a_command_it_is_the_shell_which_needs_a_daemon(run, tmp_path):
    status, out, err = run("--url", str(tmp_path / "missing.sock"))
    assert (status, out) == (1, "")
    assert err.startswith("midctl: there is no socket")


def test_help_and_version_need_no_server(run):
    assert run("--version") == (0, "midctl 0.1.0\n", "")
    assert run("--help") == run("help") == run("-h")
    assert "--password-file F" in run("--help").out


def test_no_daemon(run, tmp_path):
    missing, stale = tmp_path / "missing.sock", tmp_path / "stale.sock"
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(stale))
    status, _, err = run("--url", f"ws+unix://{missing}", "system", "failover", "status")
    assert (status, err) == (1, f"midctl: there is no socket {missing}: is middlewared running on this machine?\n")
    status, _, err = run("--url", str(stale), "system", "failover", "status")
    assert (status, err) == (1, f"midctl: nobody is listening on {stale}: is middlewared running there?\n")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    status, _, err = run("--url", f"ws://127.0.0.1:{port}", "system", "failover", "status")
    assert (status, err) == (
        1,
        f"midctl: nobody is listening on 127.0.0.1 port {port}: is middlewared running there?\n",
    )


def test_a_running_lab_is_named(run, monkeypatch, tmp_path):
    monkeypatch.setenv("MIDDLEWARED_URL", f"ws+unix://{tmp_path}/none.sock")
    monkeypatch.setattr("os.getuid", lambda: 2**31 - 1)  # whose labs do not run here
    assert "Elsewhere: --url ws://HOST:PORT" in run("system", "failover", "status").err
    lab = tmp_path / "run/middlewared-lab/b/middlewared.sock"
    lab.parent.mkdir(parents=True)
    lab.touch()
    assert "A lab is running" not in run("system", "failover", "status").err  # left behind by one that crashed
    lab.unlink()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(lab))
        listening.listen()
        assert f"A lab is running here: add --url ws+unix://{lab}\n" in run("system", "failover", "status").err


@pytest.mark.parametrize(
    "url", ["ftp://x", "localhost", "ws://", "ws://admin:secret@host", "ws://[::1", "ws://h:99999"]
)
def test_wrong_urls(run, url):
    status, _, err = run("--url", url, "system")
    assert status == 1
    assert "URL" in err or "needs a host" in err
    assert "secret" not in err


def test_wrong_path_and_full_server(run, server):
    with StandIn() as tcp:
        assert "has no API at /other" in run("--url", f"{tcp.url}/other", "system").err
        tcp.refuse_upgrade = 503
        assert "no room for another connection" in run("--url", tcp.url, "system").err
        assert run("--url", tcp.url.replace("ws://", "wss://"), "system").err.startswith(
            "midctl: no TLS with 127.0.0.1"
        )


def test_login_is_asked_for_and_checked(run, tmp_path):
    with StandIn() as tcp:
        status, _, err = run("--url", tcp.url, "system", "failover", "status")
        assert status == 1
        assert err.startswith("Error: Not authenticated\nLog in with --user USER --password-file F")
        login = ("--url", tcp.url, "--user", "admin", "--password")
        assert run(*login, "wrong", "system") == (1, "", "midctl: wrong user name or password\n")
        assert run(*login, "lab", "system", "failover", "status") == (0, "MASTER\n", "")
        answer = {"response_type": "REDIRECT", "urls": ["http://10.0.0.1"]}
        tcp.methods["auth.login_ex"] = lambda request: answer
        assert "log in at http://10.0.0.1" in run(*login, "lab", "system").err


def test_a_call_that_is_not_answered(midctl, monkeypatch):
    status, _, err = midctl("--timeout", "0.05", "call", "test.never")
    assert (status, err.split(":")[:2]) == (1, ["midctl", " test.never was not answered in time"])


def test_a_server_that_talks_nonsense(midctl, server):
    async def babble() -> None:
        await server.sessions[0].connection.send("{nonsense")

    server.methods["test.value"] = babble
    assert "something that is not JSON" in midctl("test", "value").err


def test_a_lost_connection(midctl, server):
    async def die() -> None:
        server.sessions[0].connection.transport.abort()

    server.methods["test.value"] = die
    assert midctl("test", "value") == (1, "", "midctl: the connection to the daemon was lost\n")


def test_an_unforeseen_mistake_is_one_line_with_the_way_to_more(midctl, monkeypatch):
    monkeypatch.setattr("middlewared.cli.output.render", lambda result, mode, whole: 1 / 0)
    line = "midctl: unexpected ZeroDivisionError: division by zero (MIDCTL_DEBUG=1 shows where)\n"
    assert midctl("system", "failover", "status") == (1, "", line)
    monkeypatch.setenv("MIDCTL_DEBUG", "1")
    assert "Traceback" in midctl("system", "failover", "status").err


def test_unknown_method_of_call_suggests(midctl):
    assert (
        midctl("call", "failover.statuss").err
        == 'Error: no method "failover.statuss": did you mean "failover.status"?\n'
    )


def in_a_process(server: StandIn, *words: str, stdout: int, first: str = "pass") -> subprocess.Popen[str]:
    """midctl as a program of its own, after the statement `first`."""
    code = f"import sys; from middlewared.cli.main import main; {first}; sys.exit(main())"
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", code, "--url", server.url, *words]
    return subprocess.Popen(command, cwd=root, stdout=stdout, stderr=subprocess.PIPE, text=True)


def test_a_dead_connection_is_noticed_by_silence(server):
    """In a process: what the library's threads write to standard error shows only there."""
    answered = threading.Event()
    server.methods["test.value"] = lambda: answered.wait(30)  # the whole stand-in stands still, pongs included
    hurry = "from middlewared.client import websocket; websocket.PING_S = websocket.CLOSE_S = 0.05"
    process = in_a_process(server, "call", "test.value", stdout=subprocess.PIPE, first=hurry)
    try:
        said = process.communicate(timeout=30)
    finally:
        answered.set()
    assert said == ("", "midctl: the connection to the daemon was lost (keepalive ping timeout)\n")
    assert process.returncode == 1


def test_broken_pipe_of_a_process(server):
    reader, writer = os.pipe()
    os.close(reader)
    process = in_a_process(server, "system", "failover", "get_ips", stdout=writer)
    os.close(writer)
    assert process.communicate(timeout=30)[1] == ""
    assert process.returncode == 141


def test_ctrl_c_of_a_process(server):
    process = in_a_process(server, "subscribe", "test.tick", stdout=subprocess.PIPE)
    server.wait_for("core.subscribe")
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == -signal.SIGINT  # what a shell calls 130, and knows to end its script for


def test_colliding_names_are_no_crash(midctl, server):
    entry = server.methods["core.get_methods"](None, "CLI")["test.value"]
    server.methods["core.get_methods"] = {"x.y": entry, "z.y": entry}
    server.methods["core.get_services"] = {"x": service("service", "a"), "z": service("service", "a.y.b")}
    assert midctl("a", "y").status == 2
    assert midctl("a", "y", "b", "y").err == "Error: z.y: Method does not exist\n"


def test_errors_keep_their_text_without_the_name(midctl, server):
    def busy() -> None:
        raise call_error(16, "EBUSY", "[disk 3] is busy")

    server.methods["test.value"] = busy
    assert midctl("test", "value").err == "Error: [disk 3] is busy\n"
