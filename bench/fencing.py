"""Taking disks from a dead controller on a real SCSI target (tgt, libiscsi), without a keeper around it."""

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from bench.lab import BenchError
from bench.table import Row
from middlewared.lab.target import ScsiTarget, TargetDisk, missing
from middlewared.plugins.fencing import scsi_pr
from middlewared.plugins.fencing.iscsi import IscsiSource
from middlewared.plugins.fencing.scsi_pr import make_key
from middlewared.plugins.fencing.takeover import read_all, take_all
from middlewared.plugins.fencing.transport import command
from middlewared.ports import FenceCode, PortError

_COUNTS = (4, 24, 96)
_RUNS = 11
_COMMANDS = 500
_TIMEOUT_MS = 5_000
_PORTAL = "127.0.0.1:33261"
_DISK_BYTES = 1 << 20
_HOSTS = {"a": 0xA000_0001, "b": 0xB000_0001}


async def measure_fencing() -> list[Row]:
    why = missing()
    if why:
        return [Row("reservations on a real target", f"not measured: {why}")]
    rows = []
    try:
        for count in _COUNTS:
            rows += await _measure(count)
    except PortError as error:
        raise BenchError(str(error)) from error
    return rows


async def _measure(count: int) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        disks = [TargetDisk(lun, f"BENCH{lun:03}", _DISK_BYTES) for lun in range(1, count + 1)]
        target = ScsiTarget(Path(folder), disks, (_PORTAL,))
        sources = {host: IscsiSource(target.portals, f"iqn.2026-11.org.middlewared.bench:{host}") for host in _HOSTS}
        await target.start()
        try:
            for source in sources.values():
                await source.start()
            rows = [await _takeovers(sources, count)]
            if count == _COUNTS[0]:
                rows.insert(0, await _one_command(sources["a"]))
            return rows
        finally:
            for source in sources.values():
                await source.stop()
            await target.kill()


async def _takeovers(sources: dict[str, IscsiSource], count: int) -> Row:
    """Each takes all disks from the other, in turn; the first ones are for warming up."""
    times_ms = []
    for run in range(_RUNS + 2):
        host = "ab"[run % 2]
        disks = list(sources[host].disks().values())
        if len(disks) != count:
            raise BenchError(f"{len(disks)} of {count} disks were found")
        start_s = time.perf_counter()
        readings, unread = await read_all(disks, _TIMEOUT_MS)
        taken = await take_all(disks, readings, unread, make_key(_HOSTS[host], run + 1), _TIMEOUT_MS)
        times_ms.append((time.perf_counter() - start_s) * 1000)
        if taken.result.code is not FenceCode.OK or len(taken.held) != count:
            raise BenchError(f"the disks were not taken: {taken.result.message}")
        await asyncio.sleep(0.05)  # what the one left to do does not burden the next
    del times_ms[:2]
    return Row(
        f"reservations of {count} disks on a tgt target, taken over",
        f"{statistics.median(times_ms):.1f} ms, at worst {max(times_ms):.1f} ms",
        value=statistics.median(times_ms),
        unit="ms",
    )


async def _one_command(source: IscsiSource) -> Row:
    path = next(iter(source.disks().values())).paths[0]
    times_ms = []
    for generation in range(1, _COMMANDS):
        start_s = time.perf_counter()
        await command(path, *scsi_pr.register_and_ignore(make_key(_HOSTS["a"], generation)), timeout_ms=_TIMEOUT_MS)
        times_ms.append((time.perf_counter() - start_s) * 1000)
    await command(path, *scsi_pr.register_and_ignore(0), timeout_ms=_TIMEOUT_MS)
    return Row(
        "one PERSISTENT RESERVE OUT to a tgt target",
        f"{statistics.median(times_ms):.3f} ms, at worst {max(times_ms):.1f} ms",
        value=statistics.median(times_ms),
        unit="ms",
    )
