import asyncio
import os
from pathlib import Path

import pytest

from middlewared.plugins.vip.fifo import Fifo
from middlewared.ports import PortError


class Lines:
    """What was heard; `until` waits for so many lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._more = asyncio.Event()

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        self._more.set()

    async def until(self, count: int) -> list[str]:
        async with asyncio.timeout(5):
            while len(self.lines) < count:
                self._more.clear()
                await self._more.wait()
        return self.lines


def write(path: Path, text: bytes) -> None:
    """As keepalived does; it opens the FIFO at its start, and closes it when it ends."""
    fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    try:
        os.write(fd, text)
    finally:
        os.close(fd)


async def test_lines_arrive_whole_and_in_order_over_restarts_of_the_writer(tmp_path: Path) -> None:
    lines = Lines()
    fifo = Fifo(tmp_path / "notify", lines)
    fifo.open()
    write(tmp_path / "notify", b"one\ntw")
    assert await lines.until(1) == ["one"]
    write(tmp_path / "notify", b"o\nthree\n")
    assert await lines.until(3) == ["one", "two", "three"]
    fifo.close()


async def test_what_a_former_reader_left_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    os.mkfifo(path)
    keepalived = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    os.write(keepalived, b"old\n")
    lines = Lines()
    fifo = Fifo(path, lines)
    fifo.open()
    os.write(keepalived, b"new\n")
    assert await lines.until(1) == ["new"]
    fifo.close()
    os.close(keepalived)


async def test_a_line_without_end_does_not_grow_for_ever(tmp_path: Path) -> None:
    lines = Lines()
    fifo = Fifo(tmp_path / "notify", lines)
    fifo.open()
    write(tmp_path / "notify", b"x" * 60_000 + b"\nnext\n")
    assert (await lines.until(2))[1] == "next"
    fifo.close()


async def test_something_else_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notify").write_text("")
    with pytest.raises(PortError, match="is not a FIFO"):
        Fifo(tmp_path / "notify", lambda line: None).open()
    (tmp_path / "link").symlink_to(tmp_path / "notify")
    with pytest.raises(PortError, match="cannot be opened"):
        Fifo(tmp_path / "link", lambda line: None).open()
