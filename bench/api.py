"""The API under load: one call after another, many connections, a crowd of subscribers."""

import asyncio
import contextlib
import json
import resource
import statistics
import sys
import time
from asyncio.subprocess import PIPE
from dataclasses import replace
from typing import Any

from bench.helpers import helper, line
from bench.lab import PATIENCE_S, BenchError, Lab
from bench.load import Task, task_text
from bench.table import Row
from middlewared.lab.places import NIC_ADDRESS, PORT

_ROUNDS = 5
_ROUND_S = 1.0
_MANY = 100
_CALL_RATIO_MAX = 1.5
_SUBSCRIBERS = 10_000
_CROWDS = 4
_CHANGES = 5
_DELIVERY_MS_MAX = 250.0
_DESCRIPTORS_SPARE = 500
_HOST = NIC_ADDRESS["a"]["eth0"]


async def measure_calls(lab: Lab) -> list[Row]:
    """failover.status against an echo, in turns, so that both meet the same neighbours on the machine."""
    token = await _token(lab)
    async with helper("bench.echo") as echo:
        bare = Task("127.0.0.1", int(await line(echo)), "/", "", 1, _ROUND_S)
        ours = Task(_HOST, PORT, "/api/current", token, 1, _ROUND_S)
        one = [(await _load(ours), await _load(bare)) for _ in range(_ROUNDS)]
        ours, bare = replace(ours, connections=_MANY), replace(bare, connections=_MANY)
        many = [(await _load(ours), await _load(bare)) for _ in range(_ROUNDS)]
    latency = statistics.median(mine["p50_us"] / other["p50_us"] for mine, other in one)
    load = statistics.median(other["calls_s"] / mine["calls_s"] for mine, other in many)
    return [
        Row(
            "failover.status, one connection, p50",
            f"{_median(one, 0, 'p50_us'):.0f} µs",
            f"bare aiohttp echo, {_median(one, 1, 'p50_us'):.0f} µs",
            latency,
            latency,
            _CALL_RATIO_MAX,
            "x",
        ),
        Row(
            f"failover.status, {_MANY} connections",
            f"{_median(many, 0, 'calls_s'):,.0f} calls/s",
            f"bare aiohttp echo, {_median(many, 1, 'calls_s'):,.0f}/s",
            load,
            load,
            _CALL_RATIO_MAX,
            "x",
        ),
    ]


async def measure_events(lab: Lab) -> list[Row]:
    """From telling the room that something changes to the last subscriber's socket having been read."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    each = min(_SUBSCRIBERS, descriptors - _DESCRIPTORS_SPARE) // _CROWDS
    few = f" (RLIMIT_NOFILE is {descriptors})" if each * _CROWDS < _SUBSCRIBERS else ""
    words = (_HOST, str(PORT), await _token(lab), str(each), "failover.disabled.reasons", "MISMATCH_VERSIONS")
    times_ms: list[float] = []
    async with contextlib.AsyncExitStack() as stack:
        crowds = [await stack.enter_async_context(helper("bench.crowd", *words)) for _ in range(_CROWDS)]
        await asyncio.gather(*(line(crowd) for crowd in crowds))
        for change in range(_CHANGES + 1):  # the first warms up
            start_s = time.monotonic()
            await lab.tell("set", node="a", key="version", value=("0.1.0", "0.2.0")[change % 2 == 0])
            seen = [json.loads(text) for text in await asyncio.gather(*(line(crowd) for crowd in crowds))]
            times_ms += [(max(crowd["last_s"] for crowd in seen) - start_s) * 1000] if change else []
    await lab.until_healthy()
    worst_ms = max(times_ms)
    return [
        Row(
            f"an event to {each * _CROWDS:,} subscribers{few}",
            f"{statistics.median(times_ms):.0f} ms, at worst {worst_ms:.0f} ms",
            value=statistics.median(times_ms),
            budget=_DELIVERY_MS_MAX,
            unit="ms",
        )
    ]


async def _token(lab: Lab) -> str:
    """Passwords are slow by design: everybody here logs in with one token."""
    async with lab.client("a") as client:
        return str(await client.call("auth.generate_token", 3600, {}, False, False))


async def _load(task: Task) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "bench.load", stdin=PIPE, stdout=PIPE)
    output, _ = await asyncio.wait_for(process.communicate(task_text(task).encode()), PATIENCE_S)
    if process.returncode != 0:
        raise BenchError("the load generator failed")
    return dict(json.loads(output))


def _median(rounds: list[tuple[dict[str, Any], dict[str, Any]]], which: int, key: str) -> float:
    return float(statistics.median(pair[which][key] for pair in rounds))
