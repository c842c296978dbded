"""How long the virtual IP is gone: when the MASTER dies, and when it gives way in order."""

import asyncio
import statistics
import time

from bench.lab import PATIENCE_S, BenchError, Lab
from bench.table import Row
from bench.wire import Connection
from middlewared.lab.places import PASSWORD, PORT, USER, VIRTUAL_ADDRESSES, other

_RUNS = 10
_TAKEOVER_RATIO_MAX = 1.15
_SWITCHOVER_MS_MAX = 100.0
_VIRTUAL = (VIRTUAL_ADDRESSES[0], PORT)
_ATTEMPT_TIMEOUT_S = 0.2
_PAUSE_S = 0.001  # between two attempts to connect


async def measure_takeover(lab: Lab) -> list[Row]:
    """Power loss to the first answer, against power loss to the new speaker's gratuitous ARP, of the same deaths."""
    ours_ms: list[float] = []
    law_ms: list[float] = []
    for _ in range(_RUNS):
        master = await lab.until_healthy()
        heir, since = other(master).upper(), len(lab.news)
        await lab.tell("kill", node=master)
        answered_s = await asyncio.to_thread(_first_answer)
        died = await lab.until_said(f"{master.upper()} lost power", since)
        announced = await lab.until_said(f"{heir} announces {_VIRTUAL[0]}", since)
        ours_ms.append((answered_s - died.at_s) * 1000)
        law_ms.append((announced.at_s - died.at_s) * 1000)
        await lab.tell("boot", node=master)
    await lab.until_healthy()
    ratio = statistics.median(mine / law for mine, law in zip(ours_ms, law_ms, strict=True))
    return [
        Row(
            f"takeover after power loss, {_RUNS} runs",
            spread(ours_ms),
            f"VRRP alone, {spread(law_ms)}",
            ratio,
            ratio,
            _TAKEOVER_RATIO_MAX,
            "x",
        )
    ]


async def measure_switchover(lab: Lab) -> list[Row]:
    """A client's last answer from the old MASTER to its first from the new one."""
    gaps_ms: list[float] = []
    for _ in range(_RUNS):
        master = await lab.until_healthy()
        client = await asyncio.to_thread(_logged_in)
        gap = asyncio.create_task(asyncio.to_thread(_gap_s, client))
        async with lab.client(master) as api:
            await api.call("failover.become_passive")
        gaps_ms.append(await gap * 1000)
        if await lab.until_healthy() == master:
            raise BenchError("the planned switchover did not happen")
    return [
        Row(
            f"planned switchover, {_RUNS} runs",
            spread(gaps_ms),
            value=statistics.median(gaps_ms),
            budget=_SWITCHOVER_MS_MAX,
            unit="ms",
        )
    ]


def spread(times_ms: list[float]) -> str:
    """Median, least and most."""
    return f"{statistics.median(times_ms):.0f} ms ({min(times_ms):.0f} to {max(times_ms):.0f})"


def _first_answer() -> float:
    """When the virtual IP answers a call: a new connection, its websocket handshake, a method and its result."""
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        try:
            connection = Connection(_VIRTUAL, timeout_s=_ATTEMPT_TIMEOUT_S)
            try:
                connection.call("core.ping")
                return time.monotonic()
            finally:
                connection.close()
        except OSError:
            time.sleep(_PAUSE_S)
    raise BenchError(f"the virtual IP does not answer within {PATIENCE_S:.0f} s")


def _logged_in() -> Connection:
    connection = Connection(_VIRTUAL)
    if not connection.call("auth.login", USER, PASSWORD):
        raise BenchError("the lab's login was refused")
    return connection


def _gap_s(client: Connection) -> float:
    """Call until the connection is ended, then call anew until the next MASTER answers."""
    last_s = time.monotonic()
    client.socket.settimeout(_ATTEMPT_TIMEOUT_S)
    try:
        while True:
            client.call("failover.node")
            last_s = time.monotonic()
    except OSError:
        client.close()
    return _first_answer() - last_s
