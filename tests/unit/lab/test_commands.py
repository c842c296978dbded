"""The words of `middlewared lab`: helpful errors, exit status 2 for wrong words and 1 for what the lab cannot do."""

from pathlib import Path

import pytest

from middlewared.lab.commands import main
from middlewared.lab.properties import PROPERTIES


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The message for words that must be refused with status 2."""
    try:
        status = main(list(words))
    except SystemExit as exit_:
        status = exit_.code if isinstance(exit_.code, int) else 0
    assert status == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["kil", "a"], "did you mean 'kill'?"),
        (["kill", "c"], "choose from a, b"),
        (["cut", "hartbeat"], "did you mean 'heartbeat'?"),
        (["heal", "lan-c"], "did you mean 'lan-"),
        (["pull-disk", "a", "x"], "disks have numbers, from 0; 'x' is none"),
        (["set", "a", "vers", "1"], "did you mean 'version'?"),
        (["set", "c", "version", "1"], "choose from a, b, pools"),
        (["set", "a", "version"], "a controller, a property and a value"),
        (["set", "a", "licensed", "perhaps"], "licensed takes yes or no"),
        (["set", "a", "import_ms", "-1"], "import_ms takes milliseconds"),
        (["set", "a", "nics", "eth9"], "nics takes none, or some of eth0,eth1"),
        (["set", "a", "reboot_reasons", "rain"], "reboot_reasons takes none, or some of UPGRADE,FIPS,GPOSSTIG"),
        (["set", "pools", "many"], "pools takes default or none"),
        (["up", "--vm", "--shelf", "scst"], "choose from tgt, lio"),
        (["up", "--vm", "--paths", "3"], "choose from 1, 2"),
        (["up", "--shelf", "lio"], "are for the lab of virtual machines: add --vm"),
        (["up", "--netns", "--paths", "2"], "are for the lab of virtual machines: add --vm"),
    ],
)
def test_wrong_words_are_explained(capsys: pytest.CaptureFixture[str], words: list[str], hint: str) -> None:
    assert hint in refused(capsys, *words)


def test_without_a_subcommand_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "restart-daemon" in capsys.readouterr().out


def test_the_help_of_set_lists_every_property(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["set", "--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    for name, row in PROPERTIES.items():
        assert f"  {name} " in text
        assert row.description in text


@pytest.mark.parametrize("words", [["status"], ["kill", "a"], ["down"], ["heal"], ["set", "pools", "none"]])
def test_without_a_lab_it_says_how_to_start_one(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: list[str]
) -> None:
    assert main([*words, "--dir", str(tmp_path)]) == 1
    assert f"no lab runs in {tmp_path}: `middlewared lab up` starts one" in capsys.readouterr().err


def test_a_folder_too_long_for_unix_sockets_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["up", "--dir", str(tmp_path / ("x" * 100))]) == 1
    assert "choose a shorter folder with --dir" in capsys.readouterr().err


def test_a_folder_with_other_things_in_it_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    precious = tmp_path / "a" / "thesis.txt"
    precious.write_text("years of work")
    assert main(["up", "--dir", str(tmp_path)]) == 1
    assert "holds other files than a lab's" in capsys.readouterr().err
    assert precious.read_text() == "years of work"
