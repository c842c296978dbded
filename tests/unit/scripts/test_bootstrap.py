"""The parts of scripts/bootstrap.py that can go wrong without a network."""

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "bootstrap.py"


@pytest.fixture
def bootstrap(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("bootstrap", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "LOG", tmp_path / "log")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("PIP_INDEX_URL", "PIP_CONFIG_FILE", "PIP_CERT"):
        monkeypatch.delenv(name, raising=False)
    return module


def test_an_old_python_can_read_it_far_enough_to_be_refused() -> None:
    ast.parse(SCRIPT.read_text(), feature_version=(3, 7))


def test_an_old_python_is_refused_with_a_remedy(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bootstrap.sys, "version_info", (3, 9, 2))
    assert bootstrap.main() == 1
    assert "needs Python 3.11 or later" in capsys.readouterr().err


def serve(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, pages: dict[str, bytes]) -> None:
    monkeypatch.setattr(bootstrap, "fetch", lambda url: pages[url])


def test_the_wheel_is_found_through_a_relative_link(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    link = f'<a href="../files/{bootstrap.PIP_WHEEL}#sha256=0">{bootstrap.PIP_WHEEL}</a>'
    pages = {
        "https://mirror.example/simple/pip/": link.encode(),
        f"https://mirror.example/simple/files/{bootstrap.PIP_WHEEL}": b"wheel",
    }
    serve(bootstrap, monkeypatch, pages)
    monkeypatch.setenv("PIP_INDEX_URL", "https://mirror.example/simple/")
    monkeypatch.setattr(bootstrap, "PIP_SHA256", bootstrap.hashlib.sha256(b"wheel").hexdigest())
    assert bootstrap.download_pip() == b"wheel"


def test_another_wheel_than_the_pinned_one_is_refused(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    link = f'<a href="{bootstrap.PIP_WHEEL}">pip</a>'
    root = "https://user:secret@mirror.example/simple"
    pages = {f"{root}/pip/": link.encode(), f"{root}/pip/{bootstrap.PIP_WHEEL}": b"tampered"}
    serve(bootstrap, monkeypatch, pages)
    monkeypatch.setenv("PIP_INDEX_URL", root)
    with pytest.raises(bootstrap.Failed) as caught:
        bootstrap.download_pip()
    assert "another pip-" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_an_index_without_the_wheel_is_named(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(bootstrap, monkeypatch, {"https://pypi.org/simple/pip/": b"<html></html>"})
    with pytest.raises(bootstrap.Failed, match=r"https://pypi\.org/simple does not offer pip-"):
        bootstrap.download_pip()


def test_a_mirror_that_is_a_folder_works(
    bootstrap: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.html"
    page.write_text("hello")
    assert bootstrap.fetch(page.as_uri()) == b"hello"


def test_an_unreachable_index_is_told_with_a_remedy(bootstrap: ModuleType) -> None:
    with pytest.raises(bootstrap.Failed, match=r"Remedy: check the network"):
        bootstrap.fetch("https://127.0.0.1:9/simple/pip/")  # the discard port: nobody listens there


def test_the_password_of_a_mirror_becomes_a_header(bootstrap: ModuleType) -> None:
    request = bootstrap.request_for("https://joe:p%40ss@mirror.example:8443/simple/pip/")
    assert request.full_url == "https://mirror.example:8443/simple/pip/"
    assert request.get_header("Authorization") == "Basic am9lOnBAc3M="


def test_pip_configuration_environment_first_then_files(
    bootstrap: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / ".config" / "pip" / "pip.conf"
    config.parent.mkdir(parents=True)
    config.write_text("[global]\nindex-url = https://from.file/simple\n")
    assert bootstrap.pip_setting("index-url") == "https://from.file/simple"
    monkeypatch.setenv("PIP_INDEX_URL", "https://from.environment/simple")
    assert bootstrap.pip_setting("index-url") == "https://from.environment/simple"


@pytest.mark.parametrize(
    ("plan", "upgrades"),
    [
        ("Inst libsystemd-dev (252 Debian:12 [amd64])\nConf libsystemd-dev (252 Debian:12 [amd64])\n", False),
        ("Inst libsystemd0 [251] (252 Debian:12 [amd64])\n", True),
        ("Remv systemd-standalone [252]\n", True),
    ],
)
def test_an_upgrade_of_installed_packages_is_recognised(
    bootstrap: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: str, upgrades: bool
) -> None:
    fake = tmp_path / "apt-get"
    fake.write_text(f"#!/bin/sh\ncat <<'END'\n{plan}END\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert bootstrap.would_upgrade(["libsystemd-dev"]) is upgrades


def test_an_environment_with_the_test_tools_serves_everybody(
    bootstrap: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "STAMP", tmp_path / "stamp")
    monkeypatch.setattr(bootstrap, "PYTHON", Path(sys.executable))
    monkeypatch.setattr(bootstrap, "has_headers", lambda: True)
    assert not bootstrap.is_current(with_tests=False)
    bootstrap.STAMP.write_text(bootstrap.fingerprint(True))
    assert bootstrap.is_current(with_tests=False)
    assert bootstrap.is_current(with_tests=True)
    bootstrap.STAMP.write_text(bootstrap.fingerprint(False))
    assert not bootstrap.is_current(with_tests=True)
    monkeypatch.setattr(bootstrap, "has_headers", lambda: False)
    assert not bootstrap.is_current(with_tests=False)
