"""`middlewared licence` on the two controllers of a pair."""

import json
from pathlib import Path

import pytest

from middlewared.licensing import main


class Pair:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for node in "ab":
            (folder / node).mkdir()
            (folder / f"{node}.toml").write_text(f'state_dir = "{folder / node}"\n')

    def run(self, node: str, *words: str) -> int:
        return main(["--serial", f"{node.upper()}-1", *words], self.folder / f"{node}.toml")


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def test_from_nothing_to_a_licensed_pair(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    assert pair.run("a", "verify") == 1
    assert "no licence: there is no" in capsys.readouterr().err
    assert pair.run("b", "serial") == 0
    assert capsys.readouterr().out == "B-1\n"
    assert pair.run("a", "issue", "B-1") == 0
    assert pair.run("a", "verify") == 0
    a = pair.folder / "a"
    assert pair.run("b", "install", str(a / "licence.json"), str(a / "licence-keys" / "pair.pem")) == 0
    assert pair.run("b", "verify") == 0
    assert "It holds: A-1 and B-1, issued by this pair" in capsys.readouterr().out
    assert pair.run("b", "show") == 0
    assert json.loads(capsys.readouterr().out)["serials"] == ["A-1", "B-1"]


def test_what_fails_says_why(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    assert pair.run("a", "issue", "A-1") == 1
    assert "two different serial numbers" in capsys.readouterr().err
    assert pair.run("a", "install", str(pair.folder / "no"), str(pair.folder / "no")) == 1
    assert "No such file or directory" in capsys.readouterr().err
    assert main(["verify"], pair.folder / "no.toml") == 2
    with pytest.raises(SystemExit) as ended:
        main(["isue"], pair.folder / "a.toml")
    assert ended.value.code == 2
