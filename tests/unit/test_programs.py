"""Running other programs: bounded in time and in what they print."""

import asyncio
import time

import pytest

from middlewared import programs
from middlewared.ports import PortError


async def test_what_a_program_prints() -> None:
    assert await programs.output("cat", timeout_ms=5000, stdin="hello") == "hello"


async def test_how_it_ended() -> None:
    ended = await programs.run("sh", "-c", "echo out; echo why >&2; exit 3", timeout_ms=5000)
    assert ended == programs.Ended(3, "out\n", "why\n")


async def test_a_failure_is_told_by_its_first_line() -> None:
    with pytest.raises(PortError, match=r"^`sh -c .*`: no such pool$"):
        await programs.output("sh", "-c", "printf 'no such pool\\nmore' >&2; exit 1", timeout_ms=5000)


async def test_a_missing_program() -> None:
    with pytest.raises(PortError, match=r"^nowhere-to-be-found cannot be run: No such file or directory$"):
        await programs.output("nowhere-to-be-found", timeout_ms=5000)


async def test_one_that_hangs_is_killed() -> None:
    before_s = time.monotonic()
    with pytest.raises(PortError, match=r"did not end within 100 ms"):
        await programs.output("sleep", "60", timeout_ms=100)
    assert time.monotonic() - before_s < 30


async def test_one_that_prints_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "OUTPUT_BYTES_MAX", 100_000)
    with pytest.raises(PortError, match=r"printed more than 100000 bytes"):
        await programs.output("cat", "/dev/zero", timeout_ms=20_000)


async def test_one_that_does_not_read_its_input() -> None:
    ended = await programs.run("true", timeout_ms=5000, stdin="x" * 1_000_000)
    assert ended.status == 0


async def test_cancelling_kills_it() -> None:
    task = asyncio.create_task(programs.run("sleep", "60", timeout_ms=60_000))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
