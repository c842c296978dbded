"""A file over the link against the same bytes over a bare TLS socket, both from memory to memory and between the same
two processes; and how late heartbeats come meanwhile.

Once as fast as loopback goes, where cores are the limit (SHA-256 on both sides, and a file is written), and once over a
link of 1 Gbit/s, to which the kernel paces both (SO_MAX_PACING_RATE).
"""

import asyncio
import os
import socket
import ssl
import statistics
import tempfile
import time
from asyncio.subprocess import Process
from collections.abc import Callable
from pathlib import Path

from bench.helpers import helper, line
from bench.lab import PATIENCE_S, BenchError
from bench.table import Row
from middlewared.peer import pairing
from middlewared.peer.link import PeerLink
from middlewared.peer.transport import TlsWire, load_trust
from middlewared.settings import PeerSettings

INBOX = "bench"
BLOCK_BYTES = 1 << 20
HEARTBEAT_MS = 100
SIZE_BYTES = 256 << 20
_RUNS = 3
_MEMORY = "/dev/shm"  # noqa: S108 - a folder in memory; ours in it is private
_SLOWER_MAX = 1.25  # at least 80 % of what a bare socket carries
_GAP_MS_MAX = 2.0 * HEARTBEAT_MS
_SO_MAX_PACING_RATE = 47  # asm-generic/socket.h
_LINKS = {"loopback": 0, "1 Gbit/s": 125_000_000}  # bytes per second; 0: as fast as it goes


class Gaps:
    """The longest time between two signs of life of the other side."""

    def __init__(self, link: PeerLink) -> None:
        self._link = link
        self._last_s = time.monotonic()
        self.worst_ms = 0.0
        link.on_connected = self._watch

    def begin(self) -> None:
        self._last_s, self.worst_ms = time.monotonic(), 0.0

    def _watch(self) -> None:
        session = self._link._session
        if session is not None:
            receive = session._take

            def take(frame: object) -> None:
                now_s = time.monotonic()
                self.worst_ms = max(self.worst_ms, (now_s - self._last_s) * 1000)
                self._last_s = now_s
                receive(frame)  # type: ignore[arg-type]  # a frame it is

            session._take = take  # type: ignore[method-assign]  # to watch it


def write_certificates(folder: Path) -> None:
    for node in "AB":
        pem = pairing.generate_certificate(node)
        pairing.write_private(folder / f"{node}.pem", pem)
        (folder / f"{node}.crt").write_bytes(pairing.public_part(pem))


def settings_of(folder: Path, node: str, connect: str) -> PeerSettings:
    return PeerSettings(
        listen="127.0.0.1:0",
        connect=connect,
        certificate=str(folder / f"{node}.pem"),
        peer_certificate=str(folder / f"{'B' if node == 'A' else 'A'}.crt"),
        heartbeat_ms=HEARTBEAT_MS,
        timeout_ms=5 * HEARTBEAT_MS,
    )


async def measure_files() -> list[Row]:
    with tempfile.TemporaryDirectory(
        prefix="bench-", dir=_MEMORY if os.access(_MEMORY, os.W_OK) else None
    ) as directory:
        folder = Path(directory)
        write_certificates(folder)
        source = folder / "source"
        await asyncio.to_thread(source.write_bytes, os.urandom(SIZE_BYTES))
        async with helper("bench.files_far", directory, quiet=False) as far:
            address, bare_port = (await line(far)).split()
            settings = settings_of(folder, "A", address)
            link, tls = PeerLink(settings, "A"), load_trust(settings).client
            gaps = Gaps(link)
            await link.start()
            try:
                return await _measure(link, gaps, far, source, tls, int(bare_port))
            finally:
                await link.stop()


async def _measure(
    link: PeerLink, gaps: Gaps, far: Process, source: Path, tls: ssl.SSLContext, bare_port: int
) -> list[Row]:
    wire = link.transfers._wire
    if not isinstance(wire, TlsWire):
        raise BenchError("the link carries no files")
    idle_ms = await _idle_gap(link, gaps, far)
    rows = []
    dial = wire.dial_stream
    for name, rate in _LINKS.items():
        wire.dial_stream = _paced(dial, rate)  # type: ignore[method-assign]  # the same, slower
        ours_s, bare_s = [], []
        await _begin(gaps, far)
        for run in range(_RUNS):  # in turns: a busy neighbour meets both
            ours_s.append(await _send(link, source, f"{run}-{rate}"))
            bare_s.append(await asyncio.to_thread(_send_bare, tls, source, bare_port, rate))
        worst_ms = max(await _worst(far), gaps.worst_ms)
        slower = statistics.median(ours_s) / statistics.median(bare_s)
        rows += [
            Row(
                f"file of {SIZE_BYTES >> 20} MiB over the link, {name}",
                f"{SIZE_BYTES / statistics.median(ours_s) / 1e6:.0f} MB/s",
                f"bare TLS socket, {SIZE_BYTES / statistics.median(bare_s) / 1e6:.0f} MB/s",
                1 / slower,
                slower,
                _SLOWER_MAX,
                "x slower",
            ),
            Row(
                f"heartbeats meanwhile (every {HEARTBEAT_MS} ms), {name}",
                f"at worst {worst_ms:.0f} ms apart",
                f"without a transfer, {idle_ms:.0f} ms",
                value=worst_ms,
                budget=_GAP_MS_MAX,
                unit="ms",
            ),
        ]
    return rows


async def _idle_gap(link: PeerLink, gaps: Gaps, far: Process) -> float:
    async with asyncio.timeout(PATIENCE_S):
        while not link.connected:
            await asyncio.sleep(0.01)
    await _begin(gaps, far)
    await asyncio.sleep(2.0)
    return max(await _worst(far), gaps.worst_ms)


async def _begin(gaps: Gaps, far: Process) -> None:
    await _ask(far, "begin")
    gaps.begin()


async def _worst(far: Process) -> float:
    return float(await _ask(far, "worst"))


async def _ask(far: Process, what: str) -> str:
    if far.stdin is None:
        raise BenchError("the helper takes no questions")
    far.stdin.write(f"{what}\n".encode())
    await far.stdin.drain()
    return await line(far)


async def _send(link: PeerLink, source: Path, name: str) -> float:
    start_s = time.perf_counter()
    await link.transfers.send(source, INBOX, name)
    return time.perf_counter() - start_s


def _paced(dial: Callable[[], ssl.SSLSocket], rate: int) -> Callable[[], ssl.SSLSocket]:
    def paced() -> ssl.SSLSocket:
        stream = dial()
        if rate:
            stream.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, rate)
        return stream

    return paced


def _send_bare(tls: ssl.SSLContext, source: Path, port: int, rate: int) -> float:
    """As many bytes, out of a buffer into a buffer."""
    data = memoryview(source.read_bytes())
    with tls.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname="peer") as bare:
        if rate:
            bare.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, rate)
        start_s = time.perf_counter()
        for at in range(0, len(data), BLOCK_BYTES):
            bare.sendall(data[at : at + BLOCK_BYTES])
        bare.recv(1)
        return time.perf_counter() - start_s
