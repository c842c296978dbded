"""Processes beside the benchmark: each says "ready" or the like on a line, and ends when its input does."""

import asyncio
import contextlib
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator

from bench.lab import PATIENCE_S, BenchError


@contextlib.asynccontextmanager
async def helper(module: str, *words: str, quiet: bool = False) -> AsyncIterator[Process]:
    """Run a module while the block lasts; `quiet` hides its log."""
    errors = DEVNULL if quiet else None
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *words, stdin=PIPE, stdout=PIPE, stderr=errors
    )
    try:
        yield process
    finally:
        if process.stdin is not None:
            process.stdin.close()
        if quiet and process.returncode is None:  # a daemon that does not read
            process.kill()
        try:
            await asyncio.wait_for(process.wait(), PATIENCE_S)
        except TimeoutError:
            process.kill()


async def line(process: Process) -> str:
    """The next line that a helper prints."""
    if process.stdout is None:
        raise BenchError("a helper has no standard output")
    text = await asyncio.wait_for(process.stdout.readline(), PATIENCE_S)
    if not text:
        raise BenchError("a helper process failed")
    return text.decode()
