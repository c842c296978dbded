"""The completion scripts, in the shells that they are for, as far as this machine has them."""

import shutil
import subprocess
from pathlib import Path

import pytest
from support.terminal import TAB, Terminal

COMPLETION = Path(__file__).parents[3] / "packaging" / "completion"

CASES = [
    ("midctl sys", ["system"]),
    ("midctl system failo", ["failover"]),
    ("midctl system failover con", ["config", "control"]),
    ("midctl system failover control ", ["action=", "options="]),
    ("midctl system failover control action=", ["DISABLE", "ENABLE"]),
    ("midctl --json system failover control action=EN", ["ENABLE"]),
    ("midctl system failover update disabled=", ["false", "true"]),
    ("midctl --pass", ["--password", "--password-file"]),
    ("midctl nothing here ", []),
]


def run(shell: str, script: str, line: str) -> list[str]:
    done = subprocess.run([shell, "-c", script, shell, line], capture_output=True, text=True, timeout=30, check=False)
    assert done.stderr == ""
    return sorted(done.stdout.split("\n")[:-1])


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
@pytest.mark.parametrize(("line", "expected"), CASES)
def test_bash(line, expected):
    show = 'COMP_LINE=$1; COMP_POINT=${#1}; _midctl; printf "%s\\n" "${COMPREPLY[@]}"'
    script = f"source {COMPLETION}/bash/midctl; {show}"
    assert [word for word in run("bash", script, line) if word] == expected


@pytest.mark.skipif(shutil.which("fish") is None, reason="no fish here")
@pytest.mark.parametrize(("line", "expected"), CASES)
def test_fish(line, expected):
    script = f"source {COMPLETION}/fish/midctl.fish; complete -C '{line}'"
    found = [row.partition("\t")[0].rpartition("=") for row in run("fish", script, line)]
    assert [last or f"{first}=" for first, _, last in found] == expected


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh here")
def test_zsh():
    code = "import os, sys; os.execlp('zsh', 'zsh', '-f')"
    with Terminal(code=code, environment={"PS1": "$ "}) as terminal:
        terminal.send(f"PS1='ready> '; fpath=({COMPLETION}/zsh $fpath); autoload -U compinit; compinit -u -D; clear\r")
        terminal.until("an empty screen", lambda screen: screen.strip() == "ready>")
        terminal.send("midctl system failo", TAB).shows("ready> midctl system failover")
        terminal.send(" control ", TAB).shows("action", "options", "What to do")
        terminal.send("action=E", TAB).shows("control action=ENABLE")
