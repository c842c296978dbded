"""systemd's protocols, with real sockets; the parts that need systemd-python are skipped where it cannot be built."""

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from middlewared import systemd

needs_library = pytest.mark.skipif(systemd._daemon is None, reason="systemd-python is not installed here")


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The service manager's end of NOTIFY_SOCKET."""
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(address)
        receiver.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        yield receiver


@pytest.fixture
def root_logger(monkeypatch: pytest.MonkeyPatch) -> logging.Logger:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", list(root.handlers))
    monkeypatch.setattr(root, "level", root.level)
    return root


@needs_library
def test_each_notification_is_one_datagram(manager: socket.socket) -> None:
    systemd.notify_ready()
    systemd.notify_watchdog()
    systemd.notify_stopping()
    assert [manager.recv(100) for _ in range(3)] == [b"READY=1", b"WATCHDOG=1", b"STOPPING=1"]


def test_without_the_library_nothing_is_sent(manager: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "_daemon", None)
    systemd.notify_ready()
    with pytest.raises(BlockingIOError):
        manager.recv(100)
    assert systemd.listen_sockets() == []


def test_not_started_by_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*systemd.SERVICE_VARIABLES, "LISTEN_PID", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    systemd.notify_ready()
    assert systemd.watchdog_interval_ms() is None
    assert systemd.listen_sockets() == []


@needs_library
@pytest.mark.parametrize(
    ("variables", "interval_ms"),
    [
        ({"WATCHDOG_USEC": "9000000"}, 3000),
        ({"WATCHDOG_USEC": "9000000", "WATCHDOG_PID": str(os.getpid())}, 3000),
        ({"WATCHDOG_USEC": "9000000", "WATCHDOG_PID": "1"}, None),  # meant for our parent
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_watchdog_interval(variables: dict[str, str], interval_ms: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert systemd.watchdog_interval_ms() == interval_ms


@needs_library
def test_a_socket_handed_over_is_accepted_from(tmp_path: Path) -> None:
    """In a process of its own, for the socket must be its file descriptor 3."""
    address = str(tmp_path / "activated")
    child = (
        "import os, sys\n"
        "os.dup2(int(sys.argv[1]), 3)\n"
        "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))\n"
        "from middlewared import systemd\n"
        "[listener] = systemd.listen_sockets()\n"
        "listener.accept()[0].sendall(b'hello')\n"
    )
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(address)
        listener.listen()
        client.connect(address)
        command = [sys.executable, "-c", child, str(listener.fileno())]
        subprocess.run(command, pass_fds=[listener.fileno()], check=True, timeout=30)
        assert client.recv(100) == b"hello"


def test_lines_go_to_standard_error(root_logger: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    systemd.setup_logging("INFO")
    logging.getLogger("middlewared.test").info("a line")
    assert " INFO    middlewared.test: a line\n" in capsys.readouterr().err
    systemd.setup_logging("INFO")
    assert len(root_logger.handlers) == 1, "setting up twice must not log twice"


def test_what_is_missing_is_said_once(
    root_logger: logging.Logger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(systemd, "_daemon", None)
    monkeypatch.setenv("WATCHDOG_USEC", "9000000")
    systemd.setup_logging("INFO")
    systemd.notify_ready()
    systemd.notify_watchdog()
    assert systemd.watchdog_interval_ms() is None
    assert capsys.readouterr().err.count("systemd-python is not installed") == 1


def test_the_journal_is_used_only_when_standard_error_leads_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with open(os.devnull, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        status = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        assert systemd._stderr_is_journal()
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino + 1}")
        assert not systemd._stderr_is_journal()
