"""How long a client finds nobody on the virtual IP: ours in network namespaces, and keepalived alone beside it.

Both pairs stand on the same kind of switch, with the same advert interval, in one run and in turn; the client asks on
new connections, one after the other, and counts from the last answer before to the first one after. Nobody else asks
meanwhile: whoever polled a controller that is taking over would slow down what is measured. Needs root.

BENCH_RUNS says how often, 10 unless set.
"""

import asyncio
import contextlib
import itertools
import os
import shutil
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from bench.lab import BenchError, Lab
from bench.moves import spread
from bench.table import Row
from middlewared.lab.netns.layout import CLIENT, CLIENT_ADDRESS, NETNS, PREFIX
from middlewared.lab.netns.namespaces import Network, missing
from middlewared.lab.places import NODES, other
from middlewared.lab.process import die_with_parent
from middlewared.plugins.failover.passage import RUNNING

RUNS = int(os.environ.get("BENCH_RUNS", "10"))
_TAKEOVER_RATIO_MAX = 1.15
_SWITCHOVER_MS_MAX = 100.0
_IMPORT = frozenset({"IMPORTING"})  # how long a pool takes is the pool's affair, and not in the budgets
_EXPORT_AND_IMPORT = _IMPORT | {"EXPORTING"}
_ADDRESS, _PORT = NETNS.virtual[0], NETNS.port
_CONNECT_S = 0.005  # a kernel answers in less; the error of a gap is not larger
_ANSWER_S = 0.1
_PAUSE_S = 0.002
_JOIN_S = 1.0
_PATIENCE_S = 20.0
_STEADY = 10  # answers before and after
_ETH_P_ALL, _VRRP = 0x0003, 112  # <linux/if_ether.h>; the protocol in an IP header (RFC 9568)
_FRAME_BYTES, _FRAME_BYTES_MIN = 128, 34  # Ethernet's and IP's headers
_SENDERS = {own["eth0"] for own in NETNS.addresses.values()}
_REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"
_ADVERT_S = 0.1
_PRIORITY = {"a": 240, "b": 238}  # as ours; and in real time, as ours: a busy machine delays neither
_STOCK = "bench"  # prefix of the namespaces of keepalived alone
_ECHO = (
    "import socket;s=socket.socket();s.setsockopt(socket.SOL_SOCKET,socket.SO_REUSEADDR,1);"
    f"s.setsockopt(0,15,1);s.bind(('{_ADDRESS}',{_PORT}));s.listen(99)\n"  # 15: IP_FREEBIND
    "while 1:\n c=s.accept()[0];c.recv(99);c.sendall(b'x');c.close()"
)
_CONF = """
global_defs {{
    router_id {node}
    vrrp_version 3
    vrrp_no_swap
    vrrp_rt_priority 50
}}
vrrp_instance bench {{
    state BACKUP
    nopreempt
    interface eth0
    virtual_router_id 7
    priority {priority}
    advert_int {advert_s}
    unicast_src_ip {own}
    unicast_peer {{
        {peer}
    }}
    virtual_ipaddress {{
        {address}/24
    }}
}}
"""


class Adverts(threading.Thread):
    """Hears a pair's VRRP adverts on its switch."""

    def __init__(self, network: Network) -> None:
        super().__init__(daemon=True)
        self._network = network
        self._last_s = 0.0

    def run(self) -> None:
        self._network.enter("switch")
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL)) as wire:
            while True:
                frame, (_, _, kind, *_) = wire.recvfrom(_FRAME_BYTES)
                sender = socket.inet_ntoa(frame[26:30]) if len(frame) >= _FRAME_BYTES_MIN else ""
                if kind != socket.PACKET_OUTGOING and frame[23] == _VRRP and sender in _SENDERS:
                    self._last_s = time.monotonic()

    async def phase(self, after_s: float) -> None:
        """Until so long after an advert. A death goes unnoticed the longer the sooner it follows one."""
        before_s, deadline_s = self._last_s, time.monotonic() + _PATIENCE_S
        while self._last_s == before_s:
            if time.monotonic() > deadline_s:
                raise BenchError("no VRRP advert is heard")
            await asyncio.sleep(_PAUSE_S)
        await asyncio.sleep(self._last_s + after_s - time.monotonic())


class Prober(threading.Thread):
    """Asks from inside a client's namespace while something is measured, and remembers when it was answered."""

    def __init__(self, network: Network) -> None:
        super().__init__(daemon=True)
        self._network = network
        self._answers: list[float] = []
        self._over = threading.Event()
        self._asking = threading.Event()

    def run(self) -> None:
        self._network.enter(CLIENT)
        while self._asking.wait() and not self._over.is_set():
            self._over.wait(_PAUSE_S)
            with contextlib.suppress(OSError), socket.create_connection((_ADDRESS, _PORT), _CONNECT_S) as one:
                one.settimeout(_ANSWER_S)
                one.sendall(_REQUEST)
                if one.recv(1):
                    self._answers.append(time.monotonic())

    def stop(self) -> None:
        self._over.set()
        self._asking.set()
        self.join(_PATIENCE_S)

    async def gap_ms(self, begin: Awaitable[object], until: Awaitable[None] | None = None) -> float:
        """The longest silence from before `begin`, after which nobody but the heir can answer, until the heir does.

        `until`: what to wait for before that, while it is asked already.
        """
        self._asking.set()
        await self._steady()
        if until is not None:
            await until
        first = len(self._answers) - 1
        await begin
        await self._steady()
        self._asking.clear()
        asked = self._answers[first:]
        return max(later - earlier for earlier, later in itertools.pairwise(asked)) * 1000

    async def _steady(self) -> None:
        """Until it is answered again and again."""
        wanted = len(self._answers) + _STEADY
        deadline_s = time.monotonic() + _PATIENCE_S
        while len(self._answers) < wanted:
            if time.monotonic() > deadline_s:
                raise BenchError(f"{_ADDRESS}:{_PORT} does not answer within {_PATIENCE_S:.0f} s")
            await asyncio.sleep(_PAUSE_S)


class Stock:
    """keepalived alone, as its manual page has it: a virtual address, and a program that answers on it. No fencing."""

    def __init__(self, directory: Path) -> None:
        self.network = Network(_STOCK)
        self._directory = directory
        self._powered: dict[str, list[asyncio.subprocess.Process]] = {}

    async def __aenter__(self) -> "Stock":
        await self.network.create()
        await self.network.add_machine(CLIENT)
        await self.network.plug(CLIENT, "eth0", f"{CLIENT_ADDRESS}/24")
        for node in NODES:
            await self.boot(node)
        return self

    async def __aexit__(self, *_: object) -> None:
        for node in list(self._powered):
            await self.kill(node)
        await self.network.close()

    async def boot(self, node: str) -> None:
        await self.network.add_machine(node)
        await self.network.plug(node, "eth0", f"{NETNS.addresses[node]['eth0']}/24")
        folder = self._directory / node
        shutil.rmtree(folder, ignore_errors=True)  # a pid file of before would keep keepalived from starting
        folder.mkdir()
        own, peer = (NETNS.addresses[one]["eth0"] for one in (node, other(node)))
        (folder / "keepalived.conf").write_text(
            _CONF.format(node=node, priority=_PRIORITY[node], advert_s=_ADVERT_S, own=own, peer=peer, address=_ADDRESS)
        )
        files = ("-f", str(folder / "keepalived.conf"), "-p", str(folder / "pid"), "-r", str(folder / "vrrp.pid"))
        self._powered[node] = [
            await self._start(node, "keepalived", "-n", "-P", *files),
            await self._start(node, sys.executable, "-c", _ECHO),
        ]

    async def kill(self, node: str) -> None:
        """Power loss: everything there dies at once, and the cable is dead."""
        ended = self._powered.pop(node)
        for process in ended:
            if process.returncode is None:
                process.kill()
        await self.network.unplug(node)
        for process in ended:
            await process.wait()

    async def master(self) -> str:
        """The one that has the virtual address, as soon as it is exactly one."""
        deadline_s = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline_s:
            shown = {node: await self.network.addresses(node, "eth0") for node in self._powered}
            masters = [node for node, own in shown.items() if f"{_ADDRESS}/24" in own]
            if len(masters) == 1:
                return masters[0]
            await asyncio.sleep(_PAUSE_S)
        raise BenchError(f"keepalived alone: not one MASTER, but {len(masters)}")

    async def _start(self, node: str, *command: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *self.network.command(node, *command, mortal=True),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            preexec_fn=die_with_parent,
        )


async def measure_failover() -> list[Row]:
    """Power losses of both pairs in turn, then planned switchovers of ours."""
    if why := await missing():
        return [Row("failover in network namespaces", f"not measured: {why}")]
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        async with Lab(Path(folder) / "ours", NETNS) as lab, Stock(Path(folder)) as stock:
            ours, theirs = Prober(Network(PREFIX)), Prober(stock.network)
            ours.start()
            theirs.start()
            try:
                return await _compare(lab, ours, stock, theirs)
            finally:
                ours.stop()
                theirs.stop()


async def _compare(lab: Lab, ours: Prober, stock: Stock, theirs: Prober) -> list[Row]:
    alone_ms: list[float] = []
    our_adverts, their_adverts = Adverts(Network(PREFIX)), Adverts(stock.network)
    our_adverts.start()
    their_adverts.start()
    lost, planned = Gaps(_IMPORT), Gaps(_EXPORT_AND_IMPORT)
    for run in range(RUNS):
        after_s = _ADVERT_S * (run + 0.5) / RUNS  # the same phases for both pairs, and all of them
        alone = await stock.master()
        alone_ms.append(await theirs.gap_ms(stock.kill(alone), their_adverts.phase(after_s)))
        await stock.boot(alone)
        await asyncio.sleep(_JOIN_S)  # until the one that came back has heard an advert, and rests
        master = await lab.until_healthy()
        gap_ms = await ours.gap_ms(lab.tell("kill", node=master), our_adverts.phase(after_s))
        await lost.add(lab, gap_ms, other(master))
        await lab.tell("boot", node=master)
    for _ in range(RUNS):
        master = await lab.until_healthy()
        async with lab.client(master) as api:
            gap_ms = await ours.gap_ms(api.call("failover.become_passive"))
        await planned.add(lab, gap_ms, master, other(master))
    await lab.until_healthy()
    return [*_lost_rows(lost, alone_ms), *_planned_rows(planned)]


def _lost_rows(gaps: "Gaps", alone_ms: list[float]) -> list[Row]:
    alone = statistics.median(alone_ms)
    raw, ratio = (statistics.median(taken) / alone for taken in (gaps.raw_ms, gaps.rest_ms))
    compared = f"keepalived alone, {spread(alone_ms)}"
    return [
        Row(f"client's gap after power loss, {RUNS} runs", spread(gaps.raw_ms), compared, raw),
        Row("the same, import excluded", spread(gaps.rest_ms), compared, ratio, ratio, _TAKEOVER_RATIO_MAX, "x"),
        *gaps.phases(),
    ]


def _planned_rows(gaps: "Gaps") -> list[Row]:
    rest = statistics.median(gaps.rest_ms)
    return [
        Row(f"client's gap in a planned switchover, {RUNS} runs", spread(gaps.raw_ms)),
        Row(
            "the same, export and import excluded",
            spread(gaps.rest_ms),
            value=rest,
            budget=_SWITCHOVER_MS_MAX,
            unit="ms",
        ),
        *gaps.phases(),
    ]


class Gaps:
    """What the client saw, and how long each phase took meanwhile, from the controllers' own histories.

    `rest_ms` is the gap without the phases that are not budgeted: how long a pool takes is the pool's affair.
    """

    def __init__(self, excluded: frozenset[str]) -> None:
        self._excluded = excluded
        self._took_ms: dict[str, list[float]] = {}
        self.raw_ms: list[float] = []
        self.rest_ms: list[float] = []

    async def add(self, lab: Lab, gap_ms: float, *nodes: str) -> None:
        """One gap, and the last failover on those controllers."""
        excluded_ms = 0
        for node in nodes:
            for phase in await _last_phases(lab, node):
                self._took_ms.setdefault(phase["phase"], []).append(phase["duration_ms"])
                excluded_ms += phase["duration_ms"] if phase["phase"] in self._excluded else 0
        self.raw_ms.append(gap_ms)
        self.rest_ms.append(gap_ms - excluded_ms)

    def phases(self) -> list[Row]:
        return [Row(f"of that {name}", spread(took_ms)) for name, took_ms in self._took_ms.items()]


async def _last_phases(lab: Lab, node: str) -> list[dict[str, Any]]:
    """Of the last failover on a controller, as soon as it is over."""
    deadline_s = time.monotonic() + _PATIENCE_S
    async with lab.client(node) as api:
        while True:
            rows = await api.call("failover.history", [["node", "=", node.upper()]], {"limit": 1})
            if rows and rows[0]["outcome"] != RUNNING:
                return list(rows[0]["phases"])
            if time.monotonic() > deadline_s:
                raise BenchError(f"the failover on {node.upper()} does not end")
            await asyncio.sleep(_JOIN_S / 10)
