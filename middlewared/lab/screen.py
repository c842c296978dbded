"""What the lab prints: the screen of `lab up`, a line for each thing that happens, and the tables of `lab status`."""

import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from middlewared.lab.places import (
    NODES,
    PASSWORD,
    USER,
    Places,
    default_directory,
)

_BOLD, _DIM, _GREEN, _YELLOW, _RED, _CYAN = "1", "2", "32", "33", "31", "36"
_COLOURS = {
    "MASTER": _GREEN,
    "BACKUP": _CYAN,
    "CHANGING": _YELLOW,
    "FAULT": _RED,
    "frozen": _YELLOW,
    "off": _RED,
    "cut": _RED,
    "failed": _RED,
}


class Screen:
    """A terminal, or a file: then without colours (https://no-color.org)."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._coloured = out.isatty() and not os.environ.get("NO_COLOR")

    def welcome(self, places: Places) -> None:
        """The screen of `lab up`."""
        layout = places.layout
        program, control = _program("middlewared"), _program("midctl")
        where = "" if places.directory == default_directory() else f" --dir {places.directory}"
        rows = [
            ("controller A", f"http://{layout.addresses['a']['eth0']}:{layout.port}", f"{places.node('a')}"),
            ("controller B", f"http://{layout.addresses['b']['eth0']}:{layout.port}", f"{places.node('b')}"),
            ("virtual IP", f"http://{layout.virtual[0]}:{layout.port}", "whoever is MASTER"),
        ]
        url = f"ws://{layout.virtual[0]}:{layout.port}"
        hints = [
            ("status", "both controllers, links and disks"),
            ("kill a", "power loss: B takes over"),
            ("boot a", "A comes back, as BACKUP"),
            ("cut heartbeat", "nobody moves; `heal` mends it"),
            ("--help", "everything else that can break"),
        ]
        width = max(len(hint) for hint, _ in hints)
        commands = [(f"{hint:{width}}{where if hint != '--help' else ''}", note) for hint, note in hints]
        width += len(where)
        self._print("")
        self._print(f"  {self._paint('middlewared lab', _BOLD)}: two controllers and a shelf of {layout.disks} disks")
        self._print("")
        for name, address, note in rows:
            self._print(f"    {name:14}{self._paint(f'{address:27}', _BOLD)} {self._paint(note, _DIM)}")
        self._print(f"    {'login':14}{self._paint(f'{USER} / {PASSWORD}', _BOLD)}")
        self._print("")
        self._print("  What to try next, in another terminal:")
        self._print("")
        inside = f"{program} lab exec client " if layout.kind == "netns" else ""
        self._print(f"    {inside}{control} --url {url} --user {USER} --password {PASSWORD} system failover status")
        for command, note in commands:
            self._print(f"    {program} lab {command:{width}}   {self._paint(note, _DIM)}")
        self._print("")
        self._print(f"  {self._paint('Ctrl-C ends the lab.', _DIM)}")
        self._print("")

    def news(self, text: str) -> None:
        """One line of what happened, with the time."""
        now_s = time.time()
        clock = f"{time.strftime('%H:%M:%S', time.localtime(now_s))}.{int(now_s * 1000) % 1000:03d}"
        words = text.split(" ")
        painted = " ".join(self._paint(word, _COLOURS.get(word.rstrip(","), "")) for word in words)
        self._print(f"  {self._paint(clock, _DIM)}  {painted}")

    def status(self, status: dict[str, Any], answers: dict[str, tuple[str, list[str]] | None]) -> None:
        """The tables of `lab status`; `answers` are the daemons' own words: (role, reasons)."""
        controllers = status["controllers"]
        rows = [_controller_row(node, controllers[node], answers.get(node)) for node in NODES]
        self._table(("", "power", "role", "middlewared", "fenced", "pools", "virtual IP"), rows)
        for node in NODES:
            answer = answers.get(node)
            if answer is not None and answer[1]:
                self._print(f"  {node.upper()}: failover would not work: {', '.join(answer[1])}")
            for name, value in controllers[node]["properties"].items():
                self._print(f"  {node.upper()}: {name} = {value}")
        self._print("")
        links = [(name, "up" if up else "cut") for name, up in status["links"].items()]
        self._table(("link", "state"), links)
        self._print("")
        self._table(("disk", "state", "reserved by"), _folded([_disk_row(disk) for disk in status["disks"]]))
        self._print("")
        self._print(f"  {status['directory']}, up for {status['uptime_s']:.0f} s")

    def _table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
        self._print("  " + self._paint("  ".join(f"{cell:{w}}" for cell, w in zip(header, widths, strict=True)), _DIM))
        for row in rows:
            cells = [self._paint(f"{cell:{w}}", _COLOURS.get(cell, "")) for cell, w in zip(row, widths, strict=True)]
            self._print("  " + "  ".join(cells).rstrip())

    def _paint(self, text: str, colour: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._coloured and colour else text

    def _print(self, line: str) -> None:
        print(line.rstrip() if not self._coloured else line, file=self._out, flush=True)


def _controller_row(node: str, controller: dict[str, Any], answer: tuple[str, list[str]] | None) -> list[str]:
    pools = [f"{pool['name']} {pool['status']}" for pool in controller["pools"] if pool["imported"]]
    return [
        node.upper(),
        controller["power"],
        answer[0] if answer is not None else controller["role"],
        _process(controller["middlewared"]),
        _process(controller["fenced"]),
        ", ".join(pools) or "-",
        ", ".join(address.partition("/")[0] for address in controller["virtual_addresses"]) or "-",
    ]


def _folded(rows: list[list[str]]) -> list[list[str]]:
    """Neighbours, by their numbers, of which the same is to be said share a row."""
    folded: list[list[str]] = []
    for row in rows:
        if folded and folded[-1][1:] == row[1:] and int(folded[-1][0].rpartition("-")[2]) + 1 == int(row[0]):
            folded[-1][0] = f"{folded[-1][0].partition('-')[0]}-{row[0]}"
        else:
            folded.append(row)
    return folded


def _process(pid: int | None) -> str:
    return "-" if pid is None else f"pid {pid}"


def _disk_row(disk: dict[str, Any]) -> list[str]:
    pulled = " and ".join(node.upper() for node in disk["pulled"])
    state = "failed" if disk["failed"] else f"pulled for {pulled}" if pulled else "ok"
    return [str(disk["lun"]), state, (disk["holder"] or "-").upper()]


def _program(name: str) -> str:
    """How the reader can call it from here: by its name if that is on the path, else by its file."""
    beside = Path(sys.argv[0]).parent / name
    if shutil.which(name) or not beside.exists():
        return name
    relative = os.path.relpath(beside)
    return relative if not relative.startswith("..") else str(beside)
