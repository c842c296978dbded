"""What a daemon costs while nothing happens, and how long it and midctl take to start."""

import asyncio
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from bench.lab import PATIENCE_S, BenchError, Lab
from bench.table import Row
from bench.wire import Connection
from middlewared.lab.places import other

_IDLE_S = 10.0
_IDLE_PERCENT_MAX = 0.5
_RESIDENT_MIB_MAX = 60.0
_STARTS = 5
_START_MS_MAX = 500.0
_POLL_S = 0.002
_SHOTS = 15
_SHOT_MS_MAX = 150.0
_TICKS_S = os.sysconf("SC_CLK_TCK")


async def measure_idle(lab: Lab) -> list[Row]:
    """CPU and memory of all four daemons over the same ten seconds."""
    master = await lab.until_healthy()
    daemons = {
        f"{name}, {role}": pid
        for role, node in (("MASTER", master), ("BACKUP", other(master)))
        for name, pid in (await lab.pids(node)).items()
    }
    before_s = {name: _cpu_s(pid) for name, pid in daemons.items()}
    start_s = time.monotonic()
    await asyncio.sleep(_IDLE_S)
    elapsed_s = time.monotonic() - start_s
    percent = {name: (_cpu_s(pid) - before_s[name]) / elapsed_s * 100 for name, pid in daemons.items()}
    rows = [
        Row(f"idle {name}: CPU", f"{used:.2f} % of a core", value=used, budget=_IDLE_PERCENT_MAX, unit="%")
        for name, used in percent.items()
    ]
    resident = {name: _resident_mib(pid) for name, pid in daemons.items()}
    return rows + [
        Row(f"idle {name}: memory", f"{used:.1f} MiB", value=used, budget=_RESIDENT_MIB_MAX, unit="MiB")
        for name, used in resident.items()
    ]


async def measure_start(lab: Lab) -> list[Row]:
    """From the birth of the process (init's pause before it is not the daemon's) to its first answer."""
    node = other(await lab.until_healthy())
    times_ms = []
    for _ in range(_STARTS):
        former = (await lab.pids(node))["middlewared"]
        await lab.tell("restart-daemon", node=node)
        answered_s = await asyncio.to_thread(_first_answer, lab.places.api(node))
        pid = (await lab.pids(node))["middlewared"]
        if pid == former:
            raise BenchError("the daemon was not restarted")
        times_ms.append((answered_s - _born_s(pid)) * 1000)
        await lab.until_healthy()
    median_ms = statistics.median(times_ms)
    worst = f"{median_ms:.0f} ms, at worst {max(times_ms):.0f} ms"
    return [Row("middlewared: start to API answer", worst, value=median_ms, budget=_START_MS_MAX, unit="ms")]


async def measure_midctl(lab: Lab) -> list[Row]:
    """One call without a login (a password takes its time by design), against a Python that does nothing."""
    master = await lab.until_healthy()
    shot = [str(Path(sys.executable).with_name("midctl")), "call", "core.ping"]
    environment = os.environ | {"MIDCTL_URL": f"ws+unix://{lab.places.api(master)}"}
    pairs = [
        (await _run_ms(shot, environment), await _run_ms([sys.executable, "-c", "pass"], environment))
        for _ in range(_SHOTS)
    ]
    ours_ms, bare_ms = (statistics.median(column) for column in zip(*pairs, strict=True))
    over_ms = statistics.median(ours - bare for ours, bare in pairs)
    return [
        Row(
            "midctl call core.ping, beyond Python's own start",
            f"{ours_ms:.0f} ms",
            f"python -c pass, {bare_ms:.0f} ms",
            ours_ms / bare_ms,
            over_ms,
            _SHOT_MS_MAX,
            "ms",
        )
    ]


async def _run_ms(command: list[str], environment: dict[str, str]) -> float:
    def run() -> float:
        start_s = time.perf_counter()
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True, timeout=PATIENCE_S)
        return (time.perf_counter() - start_s) * 1000

    return await asyncio.to_thread(run)


def _first_answer(socket: Path) -> float:
    """When the restarted daemon answers. The former one may have left its socket, but nobody listens there."""
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        try:
            connection = Connection(socket, timeout_s=1.0)
            try:
                connection.call("core.ping")
                return time.monotonic()
            finally:
                connection.close()
        except OSError:
            time.sleep(_POLL_S)
    raise BenchError(f"{socket} does not answer")


def _cpu_s(pid: int) -> float:
    """Run time of all threads, in nanoseconds where the kernel has schedstat, else in ticks (proc(5))."""
    try:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9
    except FileNotFoundError:
        fields = _stat(pid)
        return (int(fields[11]) + int(fields[12])) / _TICKS_S


def _born_s(pid: int) -> float:
    """When the process began, by the monotonic clock. The kernel tells ticks (10 ms) since the boot."""
    offset_s = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
    return int(_stat(pid)[19]) / _TICKS_S - offset_s


def _stat(pid: int) -> list[str]:
    """proc(5) stat from its third field on: what is before may contain blanks."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _resident_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise BenchError(f"process {pid} has ended")
