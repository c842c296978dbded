"""What it costs that a change is on both controllers, and how long a full copy takes: two processes, one disk, TLS."""

import asyncio
import contextlib
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import apsw

from bench.helpers import helper, line
from bench.lab import PATIENCE_S, BenchError
from bench.table import Row
from middlewared.peer import pairing
from middlewared.peer.link import PeerLink
from middlewared.plugins.failover.replication import Replicator
from middlewared.settings import PeerSettings
from middlewared.store.database import Store, Transaction
from middlewared.store.lineage import Position

_ROUNDS = 5
_WRITES = 40  # a round
_WRITERS = 50
_COPIES = 3
_STORE_MB = 100
_CHUNK_BYTES = 100_000
_LAG_S = 0.005


class _Leader:
    """This process: it writes, and lets the standby follow."""

    def __init__(self, store: Store, link: PeerLink) -> None:
        self.store = store
        self.link = link
        self.behind = ""
        self.replicator = Replicator(store, link, lambda: True, self._theirs, self._tell)
        link.on_facts = lambda facts: self.replicator.look()
        link.on_lost = self.replicator.look
        self._count = 0

    def _theirs(self) -> Position | None:
        facts = self.link.peer_facts
        return None if facts is None else Position(facts["epoch"], facts["seq"])

    def _tell(self, why: str) -> None:
        self.behind = why

    async def write(self) -> None:
        self._count += 1
        sql, values = "INSERT INTO alert_dismissed (uuid, at_ms) VALUES (?, ?)", (f"{self._count:032}", 0)
        await self.store.write(lambda t: t.execute(sql, values))

    async def current(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not self.replicator.is_current:
                await asyncio.sleep(0.01)


async def measure_replication() -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        async with _pair(Path(folder)) as leader:
            return [await _one_writer(leader), await _many_writers(leader), await _full_copy(leader, Path(folder))]


@contextlib.asynccontextmanager
async def _pair(folder: Path) -> AsyncIterator[_Leader]:
    for node in "AB":
        pem = pairing.generate_certificate(node)
        pairing.write_private(folder / f"{node}.pem", pem)
        (folder / f"{node}.crt").write_bytes(pairing.public_part(pem))
    store = await Store.open(folder / "A" / "store.db")
    async with helper("bench.standby", str(folder)) as standby:
        address = (await line(standby)).strip()
        settings = PeerSettings(
            listen="127.0.0.1:0",
            connect=address,
            certificate=str(folder / "A.pem"),
            peer_certificate=str(folder / "B.crt"),
        )
        leader = _Leader(store, PeerLink(settings, "A"))
        leader.link.set_facts({})
        await leader.link.start()
        await leader.write()
        await leader.current()
        yield leader
        await leader.link.stop()
        await leader.replicator.stop()
    await store.close()


async def _in_turns(leader: _Leader, writers: int) -> tuple[list[float], list[float]]:
    """Milliseconds a write, local and replicated, in rounds that take turns."""
    local_ms: list[float] = []
    replicated_ms: list[float] = []
    for _ in range(_ROUNDS):
        for times_ms, replicate in ((local_ms, None), (replicated_ms, leader.replicator.replicate)):
            leader.store.replicate = replicate
            start_s = time.perf_counter()
            for _ in range(_WRITES // writers or 1):
                await asyncio.gather(*(leader.write() for _ in range(writers)))
            count = (_WRITES // writers or 1) * writers
            times_ms.append((time.perf_counter() - start_s) * 1000 / count)
            leader.replicator.wake()
            await leader.current()
    if leader.behind:
        raise BenchError(f"the standby did not follow: {leader.behind}")
    return local_ms, replicated_ms


async def _one_writer(leader: _Leader) -> Row:
    local_ms, replicated_ms = await _in_turns(leader, 1)
    return _row("a replicated change, one writer", local_ms, replicated_ms)


async def _many_writers(leader: _Leader) -> Row:
    local_ms, replicated_ms = await _in_turns(leader, _WRITERS)
    return _row(f"a replicated change, {_WRITERS} writers at once", local_ms, replicated_ms)


def _row(what: str, local_ms: list[float], replicated_ms: list[float]) -> Row:
    ratio = statistics.median(ours / alone for ours, alone in zip(replicated_ms, local_ms, strict=True))
    local = f"a local one, {statistics.median(local_ms):.2f} ms"
    return Row(what, f"{statistics.median(replicated_ms):.2f} ms each", local, ratio)


async def _full_copy(leader: _Leader, folder: Path) -> Row:
    """Against SQLite's own backup of the same store to a file on the same disk, durable."""
    leader.store.replicate = None

    def fill(transaction: Transaction) -> None:
        for _ in range(10):
            sql = "INSERT INTO privilege (name, groups) VALUES (hex(randomblob(16)), hex(randomblob(?)))"
            transaction.execute(sql, (_CHUNK_BYTES // 2,))

    for _ in range(_STORE_MB):
        await leader.store.write(fill)
    size_mb = len((await leader.store.snapshot()).data) / 1e6
    times_s, backups_s, lags_s = [], [], []
    for _ in range(_COPIES):
        lag = asyncio.create_task(_worst_lag(lags_s))
        start_s = time.perf_counter()
        await leader.replicator.push()
        times_s.append(time.perf_counter() - start_s)
        lag.cancel()
        backups_s.append(await asyncio.to_thread(_backup, leader.store.path, folder / "copy.db"))
    took_s = statistics.median(times_s)
    return Row(
        f"full copy of a store of {size_mb:.0f} MB",
        f"{took_s:.2f} s, {size_mb / took_s:.0f} MB/s; our loop stood still {max(lags_s) * 1000:.0f} ms at worst",
        f"SQLite's backup to a file, {statistics.median(backups_s):.2f} s",
        statistics.median(ours / alone for ours, alone in zip(times_s, backups_s, strict=True)),
    )


async def _worst_lag(worst_s: list[float]) -> None:
    """How late the loop comes back to somebody who sleeps for a moment."""
    while True:
        start_s = time.perf_counter()
        await asyncio.sleep(_LAG_S)
        worst_s.append(time.perf_counter() - start_s - _LAG_S)


def _backup(source: Path, target: Path) -> float:
    target.unlink(missing_ok=True)
    ours, copy = apsw.Connection(str(source)), apsw.Connection(str(target))
    start_s = time.perf_counter()
    with copy.backup("main", ours, "main") as backup:
        backup.step(-1)
    took_s = time.perf_counter() - start_s
    copy.close()
    ours.close()
    return took_s
