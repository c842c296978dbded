"""midctl in this process, against the stand-in server."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from support.standin_server import StandIn

from middlewared.cli.main import main


class Outcome(NamedTuple):
    status: int
    out: str
    err: str


Midctl = Callable[..., Outcome]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[StandIn]:
    with StandIn(tmp_path / "middlewared.sock") as standin:
        yield standin


@pytest.fixture(autouse=True)
def clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("URL", "USER", "PASSWORD", "API_KEY_FILE", "DEBUG"):
        monkeypatch.delenv(f"MIDCTL_{name}", raising=False)
    monkeypatch.delenv("MIDDLEWARED_URL", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Midctl:
    """`run("--version")`: the exit code and what was printed."""

    def run(*argv: str) -> Outcome:
        capsys.readouterr()
        status = main(argv)
        return Outcome(status, *capsys.readouterr())

    return run


@pytest.fixture
def midctl(server: StandIn, run: Midctl) -> Midctl:
    """`run`, connected to the stand-in."""
    return lambda *argv: run("--url", server.url, *argv)
