"""Command line, then environment, then file; secrets only from where nobody else can read."""

import os
from pathlib import Path

import pytest
from support.standin_server import StandIn

STATUS = ("system", "failover", "status")


@pytest.fixture
def tcp():
    with StandIn() as standin:
        yield standin


def secret(path: Path, text: str, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def config(tmp_path: Path, text: str, mode: int = 0o600) -> Path:
    return secret(tmp_path / "config/midctl.toml", text, mode)


def test_password_file(run, tcp, tmp_path):
    good = secret(tmp_path / "password", "lab\n")
    assert run("--url", tcp.url, "--user", "admin", "--password-file", str(good), *STATUS) == (0, "MASTER\n", "")
    good.chmod(0o640)
    status, _, err = run("--url", tcp.url, "--user", "admin", "--password-file", str(good), *STATUS)
    assert (status, err) == (2, f"midctl: {good} may be read by others (mode 0640): chmod 600 {good}\n")
    missing = tmp_path / "missing"
    status, _, err = run("--url", tcp.url, "--user", "admin", "--password-file", str(missing), *STATUS)
    assert (status, err) == (2, f"midctl: cannot read {missing}: No such file or directory\n")


def test_a_pipe_will_do(run, tcp):
    reader, writer = os.pipe()
    os.write(writer, b"lab\n")
    os.close(writer)
    assert run("--url", tcp.url, "--user", "admin", "--password-file", f"/dev/fd/{reader}", *STATUS).status == 0
    os.close(reader)


def test_environment(run, tcp, monkeypatch):
    monkeypatch.setenv("MIDCTL_URL", tcp.url)
    monkeypatch.setenv("MIDCTL_USER", "admin")
    monkeypatch.setenv("MIDCTL_PASSWORD", "lab")
    assert run(*STATUS) == (0, "MASTER\n", "")
    assert run("--password", "wrong", *STATUS).status == 1
    monkeypatch.setenv("MIDCTL_API_KEY_FILE", "x")
    assert run(*STATUS).err == "midctl: set one of MIDCTL_PASSWORD and MIDCTL_API_KEY_FILE\n"


def test_file(run, tcp, tmp_path, monkeypatch):
    config(tmp_path, f'url = "{tcp.url}"\nuser = "admin"\npassword = "lab"\nmode = "json"\ntimeout = 5\n')
    assert run(*STATUS) == (0, '"MASTER"\n', "")
    assert run("--mode", "table", *STATUS) == (0, "MASTER\n", "")
    monkeypatch.setenv("MIDCTL_PASSWORD", "wrong")
    assert run(*STATUS).err == "midctl: wrong user name or password\n"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o606, 0o660])
def test_file_that_others_may_read_is_refused(run, tcp, tmp_path, mode):
    path = config(tmp_path, f'url = "{tcp.url}"\n', mode)
    assert run(*STATUS) == (2, "", f"midctl: {path} may be read by others (mode {mode:04o}): chmod 600 {path}\n")
    assert tcp.requests == []


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("url = ", "is not TOML"),
        ("pasword = 'x'", 'unknown key "pasword"; known are url, user, password'),
        ("timeout = 'x'", "timeout has a wrong value"),
        ("mode = 'xml'", "mode has a wrong value"),
        ("password = 'x'\npassword_file = 'y'", "give one of password, password_file, api_key_file"),
    ],
)
def test_wrong_files_are_explained(run, tmp_path, text, complaint):
    path = config(tmp_path, text)
    status, _, err = run(*STATUS)
    assert status == 2
    assert err.startswith(f"midctl: {path}")
    assert complaint in err


def test_api_key_as_it_is_only_where_nobody_listens(run, tcp, server, tmp_path):
    key = secret(tmp_path / "key", "1-secret\n")
    server.trusted = False
    assert run("--url", server.url, "--api-key-file", str(key), *STATUS) == (0, "MASTER\n", "")
    for login in ([], ["--user", "admin"]):
        status, _, err = run("--url", tcp.url, *login, "--api-key-file", str(key), *STATUS)
        assert status == 1
        assert "is not encrypted: name the user, or use wss://" in err
    assert "secret" not in str(tcp.requests)
    secret(key, "rubbish")
    assert "that is not an API key" in run("--url", tcp.url, "--api-key-file", str(key), *STATUS).err


def test_a_terminal_is_asked_for_the_password(run, tcp, monkeypatch):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("getpass.getpass", lambda prompt: "lab" if prompt == "Password of admin: " else "")
    assert run("--url", tcp.url, "--user", "admin", *STATUS) == (0, "MASTER\n", "")
