"""What the room learns from a virtual machine's cables and console."""

import asyncio
from pathlib import Path

import pytest

from middlewared.lab.places import LINKS, NODES
from middlewared.lab.vm import layout
from middlewared.lab.vm.machine import Cables, last_words, nic_of


def test_each_link_is_plugged_into_the_nic_that_it_names() -> None:
    assert {link: (nic_of(link, "a"), nic_of(link, "b")) for link in LINKS} == {
        "heartbeat": ("hb0", "hb0"),
        "lan-a": ("eth0", ""),
        "lan-b": ("", "eth0"),
        "lan2-a": ("eth1", ""),
        "lan2-b": ("", "eth1"),
        "disks-a": ("san0", ""),
        "disks-b": ("", "san0"),
    }


async def test_the_last_word_about_a_carrier_holds() -> None:
    """Also when it comes while an earlier one is still carried out."""
    carriers: dict[str, bool] = {}
    asked, answered = asyncio.Event(), asyncio.Event()

    async def set_link(nic: str, *, up: bool) -> None:
        asked.set()
        await answered.wait()
        carriers[nic] = up

    cables = Cables("a", set_link)
    cables.wanted = {"heartbeat": False, "lan-a": True, "lan-b": False}
    first = asyncio.create_task(cables.plug())
    await asked.wait()
    cables.wanted = {"heartbeat": True, "lan-a": True, "lan-b": True}
    second = asyncio.create_task(cables.plug())
    answered.set()
    await asyncio.gather(first, second)
    assert carriers == {"hb0": True}


@pytest.mark.parametrize(
    ("console", "words"),
    [
        ("[  9.1] a\n[ 10.2] fenced: resetting this controller: lost\n[ 10.3] sysrq: Resetting\n",
         "fenced: resetting this controller: lost"),
        ("[  1.0] Kernel panic - not syncing: sysrq triggered crash\n[ 2.0] more\n",
         "Kernel panic - not syncing: sysrq triggered crash"),
        ("[ 5.0] reboot: Restarting system\n", "reboot: Restarting system"),
        ("[ 5.0] the last line\n", "the last line"),
        ("", "nothing on its console"),
    ],
)  # fmt: skip
def test_last_words_say_why_it_ended(tmp_path: Path, console: str, words: str) -> None:
    path = tmp_path / "serial.log"
    path.write_text(console)
    assert last_words(path) == words


def test_a_machine_that_never_spoke(tmp_path: Path) -> None:
    assert last_words(tmp_path / "none") == "nothing on its console"


def test_the_two_machines_differ_where_they_must() -> None:
    a, b = (layout.command(node, Path("x"), Path("k"), Path("i"), Path("d"), halted=True) for node in NODES)
    assert len(a) == len(b)
    differing = {one for one, two in zip(a, b, strict=True) if one != two}
    assert sum("mac=" in word for word in differing) == len(layout.NICS)
    assert any("systemd.machine_id=" in word for word in differing)
    assert any("serial=" in word for word in differing)
    for nic in layout.NICS:
        assert len(layout.tap("a", nic)) <= 15  # IFNAMSIZ
