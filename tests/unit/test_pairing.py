"""`middlewared pair` as administrators use it: two processes, a code between them."""

import asyncio
import re
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from middlewared import pairing
from middlewared.licence.files import LicenceFiles
from middlewared.peer.pairfiles import PairFiles
from middlewared.peer.pairing import generate_certificate
from middlewared.settings import load

DEADLINE_S = 60.0


def free_ports() -> list[int]:
    """Two, each with the one after it free too: the link's, and the one to pair at."""
    found: list[int] = []
    while len(found) < 2:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            if not any(abs(port - other) < 2 for other in found):
                found.append(port)
    return found


@dataclass
class Desk:
    """Two controllers with the least configuration that will do, and whatever was started at them."""

    folder: Path
    ports: list[int] = field(default_factory=free_ports)
    started: list[Process] = field(default_factory=list)

    def config(self, node: str) -> Path:
        path = self.folder / f"{node}.toml"
        mine, other = self.ports if node == "a" else self.ports[::-1]
        path.write_text(
            f'node = "{node.upper()}"\nhostname = "tank-{node}"\nstate_dir = "{self.folder / node}"\n'
            f'run_dir = "{self.folder / node}"\n[platform]\nserial = "SN-{node}"\n'
            f'[peer]\nlisten = "127.0.0.1:{mine}"\nconnect = "127.0.0.1:{other}"\n'
        )
        return path

    async def start(self, node: str, *words: str) -> Process:
        command = (sys.executable, "-m", "middlewared", "pair", "--config", str(self.config(node)), *words)
        process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=PIPE)
        self.started.append(process)
        return process

    async def run(self, node: str, *words: str, typed: str = "") -> tuple[int | None, str, str]:
        process = await self.start(node, *words)
        async with asyncio.timeout(DEADLINE_S):
            out, err = await process.communicate(typed.encode())
        return process.returncode, out.decode(), err.decode()

    async def code_of(self, process: Process) -> str:
        """What it shows, once it waits."""
        assert process.stdout is not None
        text = ""
        async with asyncio.timeout(DEADLINE_S):
            while "Waiting for it at" not in text:
                line = await process.stdout.readline()
                assert line, (await process.stderr.read()).decode() if process.stderr is not None else ""
                text += line.decode()
        found = re.search(r"middlewared pair ([2-9A-Z]{4}-[2-9A-Z]{4})\n", text)
        assert found, text
        return found[1]

    async def end_of(self, process: Process) -> tuple[int | None, str, str]:
        async with asyncio.timeout(DEADLINE_S):
            out, err = await process.communicate()
        return process.returncode, out.decode(), err.decode()

    def files(self, node: str) -> PairFiles:
        return PairFiles(load(self.config(node)).peer)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    for process in desk.started:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_two_processes_pair(desk: Desk) -> None:
    showing = await desk.start("a")
    code = await desk.code_of(showing)
    status, out, err = await desk.run("b", code.lower())
    assert (status, err) == (0, "")
    shown_status, shown, shown_err = await desk.end_of(showing)
    assert (shown_status, shown_err) == (0, "")
    assert "Paired with controller A (tank-a), serial number SN-a." in out
    assert "Paired with controller B (tank-b), serial number SN-b." in shown
    fingerprint = r"([AB]), \w+ \w+: ((?:[0-9a-f]{2}:){31}[0-9a-f]{2})"
    assert sorted(re.findall(fingerprint, out)) == sorted(re.findall(fingerprint, shown))
    assert len(re.findall(fingerprint, out)) == 2
    for node in "ab":
        files = desk.files(node)
        assert len(files.pinned()) == 1
        assert LicenceFiles(desk.folder / node).check(f"SN-{node}").serials == ("SN-a", "SN-b")
    assert desk.files("a").ring() == desk.files("b").ring()
    assert code not in "".join(path.read_text(errors="replace") for path in desk.folder.rglob("*") if path.is_file())


async def test_the_code_may_be_typed(desk: Desk) -> None:
    """So that it stands in no list of processes."""
    showing = await desk.start("b", "--show")
    code = await desk.code_of(showing)
    status, out, err = await desk.run("a", "--peer", f"127.0.0.1:{desk.ports[1] + 1}", typed=f"{code}\n")
    assert (status, err) == (0, "")
    assert "Paired with controller B" in out
    assert (await desk.end_of(showing))[0] == 0


async def test_a_wrong_code(desk: Desk) -> None:
    showing = await desk.start("a")
    code = await desk.code_of(showing)
    wrong = code[:-1] + ("2" if code[-1] != "2" else "3")
    for _ in range(3):
        status, out, err = await desk.run("b", wrong)
        assert (status, out) == (1, "")
        assert "did not accept the code" in err
    status, out, err = await desk.end_of(showing)
    assert status == 1
    assert "Somebody came with a wrong code; 2 more tries.\nSomebody came with a wrong code; 1 more try.\n" in out
    assert "3 wrong codes" in err
    assert "Traceback" not in err
    assert desk.files("a").pinned() == desk.files("b").pinned() == ()


async def test_killed_while_it_waits(desk: Desk) -> None:
    showing = await desk.start("a")
    await desk.code_of(showing)
    showing.kill()
    await showing.wait()
    assert desk.files("a").pinned() == ()
    again = await desk.start("a")
    assert (await desk.run("b", await desk.code_of(again)))[0] == 0
    assert (await desk.end_of(again))[0] == 0


# ---------------------------------------------------------------------------------------------- one process is enough


def paired(desk: Desk) -> None:
    """Without the other process, which others test: two certificates are enough to look at."""
    for node in "ab":
        desk.files(node).write_own(generate_certificate(node.upper()))
        desk.files(node).make_ring()
    desk.files("a").pin([desk.files("b").own()], "B (tank-b)")


def test_status(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    assert pairing.main(["--status"], desk.config("a")) == 1
    assert "Controller A is not paired: `middlewared pair` on both" in capsys.readouterr().out
    paired(desk)
    assert pairing.main(["--status"], desk.config("a")) == 1
    out = capsys.readouterr().out
    assert "Controller A is paired with controller B (tank-b)." in out
    assert out.count("valid until") == 2
    assert "The link is not up, as far as can be seen: " in out


def test_forget(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    paired(desk)
    assert pairing.main(["--forget"], desk.config("a")) == 0
    assert "Controller B (tank-b) is not trusted any more." in capsys.readouterr().out
    assert desk.files("a").pinned() == ()
    assert pairing.main(["--forget"], desk.config("a")) == 0
    assert "nobody to forget" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["7K3D"], 2, "a code has 8 letters and digits, like 7K3D-Q9MX"),
        (["7K3D-Q9MX", "--peer", "nonsense"], 2, "must read host:port"),
        (["7K3D-Q9MX", "--peer", "127.0.0.1:1"], 1, "Nobody waits at 127.0.0.1:1"),
        (["--show", "--listen", "192.0.2.77:1"], 1, "Give this host that address"),
        (["--rotate"], 1, "middlewared.sock"),
    ],
)
def test_what_fails_says_why(
    desk: Desk, capsys: pytest.CaptureFixture[str], words: list[str], status: int, said: str
) -> None:
    assert pairing.main(words, desk.config("a")) == status
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.startswith("middlewared pair: ")


@pytest.mark.parametrize("words", [["--show", "7K3D-Q9MX"], ["--status", "--forget"], ["--nonsense"]])
def test_wrong_words(desk: Desk, words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        pairing.main(words, desk.config("a"))
    assert ended.value.code == 2


def test_wrong_settings(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    assert pairing.main([], desk.folder / "none.toml") == 2
    config = desk.config("a")
    config.write_text(config.read_text().replace(f"127.0.0.1:{desk.ports[0]}", f"unix:{desk.folder}/link"))
    assert pairing.main(["--show"], config) == 2
    assert "name host:port to pair at" in capsys.readouterr().err
