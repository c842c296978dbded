"""hactl, against the stand-in server."""

import pytest
from support.standin_server import StandIn, call_error, invalid

from middlewared.cli.hactl import main


@pytest.fixture
def hactl(server: StandIn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """`hactl("-q")`: (exit code, standard output)."""
    monkeypatch.setenv("MIDDLEWARED_URL", server.url)
    server.methods["system.info"] = {"system_serial": "SERIAL-1"}
    server.other["system.info"] = {"system_serial": "SERIAL-2"}

    def run(*words: str) -> tuple[int, str]:
        return main(words), capsys.readouterr().out

    return run


def report(node: str = "Active", other: str = "SERIAL-2", failover: str = "Failover is healthy.") -> str:
    return (
        f"Node status: {node}\nThis node serial: SERIAL-1\nOther node serial: {other}\nFailover status: {failover}\n\n"
    )


def test_status(hactl, server):
    assert hactl() == hactl("status") == (0, report())
    asked = [request["method"] for request in server.requests]
    assert asked[1:4] == ["failover.licensed", "failover.config", "failover.status"]
    assert server.called("failover.call_remote")[0] == ["system.info", [], {"timeout": 2, "connect_timeout": 2.0}]


@pytest.mark.parametrize(
    ("status", "text"),
    [
        ("BACKUP", "Standby"),
        ("ELECTING", "Electing active node"),
        ("IMPORTING", "Becoming active node"),
        ("ERROR", "Faulted"),
        ("UNKNOWN", "Unknown"),
    ],
)
def test_the_words_for_a_status(hactl, server, status, text):
    server.methods["failover.status"] = status
    assert hactl() == (0, report(node=text))


def test_reasons_one_on_the_line_several_below(hactl, server):
    texts = {"NO_PONG": "The other controller does not answer.", "NO_VOLUME": "There is no pool."}
    server.methods["failover.explain"] = [{"code": code, "description": text} for code, text in texts.items()]
    server.methods["failover.disabled.reasons"] = ["NO_PONG"]
    assert hactl() == (0, report(failover=texts["NO_PONG"]))
    server.methods["failover.disabled.reasons"] = ["NO_PONG", "NO_VOLUME", "NEW_ONE"]
    several = f"\n    1: {texts['NO_PONG']}\n    2: {texts['NO_VOLUME']}\n    3: UNKNOWN"
    assert hactl() == (0, report(failover=several))


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (call_error(111, "ECONNREFUSED", "no"), "Could not connect to the other node within 2.0 seconds"),
        (call_error(113, "EHOSTUNREACH", "no"), "Could not connect to the other node within 2.0 seconds"),
        (call_error(14, "EFAULT", "Call timeout"), "The other node did not answer within 2 seconds"),
        (call_error(14, "EFAULT", "Broken"), "Broken"),
    ],
)
def test_the_other_serial_that_cannot_be_had(hactl, server, error, text):
    def refuse(method, params, options):
        raise error

    server.methods["failover.call_remote"] = refuse
    assert hactl() == (0, report(other=text))


def test_enable_and_disable(hactl, server):
    assert hactl("enable") == (1, "Failover already enabled.\n")
    assert hactl("disable") == (0, "Failover disabled.\n")
    assert server.called("failover.update") == [[{"disabled": True}]]
    server.methods["failover.config"] = {"disabled": True}
    assert hactl("disable") == (1, "Failover already disabled.\n")
    assert hactl("enable", "-q") == (0, "")
    assert server.called("failover.update")[-1] == [{"disabled": False}]


def test_only_the_active_node_switches(hactl, server):
    server.methods["failover.status"] = "BACKUP"
    assert hactl("disable") == (1, "Failover can only be switched on the active node.\n")
    assert server.called("failover.update") == []


def test_a_refusal_is_one_line(hactl, server):
    def refuse(data):
        raise invalid(("failover_update.disabled", "No critical interface", 22))

    server.methods["failover.update"] = refuse
    assert hactl("disable") == (1, "No critical interface\n")


def test_not_a_pair_no_daemon_wrong_words(hactl, server, monkeypatch, tmp_path):
    server.methods["failover.licensed"] = False
    assert hactl() == (1, "Node status: Not an HA node\n")
    assert hactl("enable", "-q") == (1, "")
    assert hactl("start") == hactl("enable", "disable") == (2, "")
    assert hactl("--help")[0] == 0
    monkeypatch.setenv("MIDDLEWARED_URL", f"ws+unix://{tmp_path}/missing")
    status, text = hactl()
    assert (status, text.count("\n")) == (1, 1)
    assert text.startswith("hactl: there is no socket")
