"""Machines in network namespaces: each runs its drivers in a thread of its own that has entered the namespace."""

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from middlewared.lab.netns.namespaces import Network
from middlewared.lab.places import Places
from middlewared.plugins.vip.keepalived import KeepalivedVirtualIps
from middlewared.ports import Vrrp, VrrpInstance
from support.lab import Lab

T = TypeVar("T")

VIP, VIP6 = "192.0.2.10/24", "2001:db8::10/64"
OWN = {"a": ("192.0.2.1/24", "2001:db8::1/64"), "b": ("192.0.2.2/24", "2001:db8::2/64")}
_WAIT_S = 10.0


class Machine:
    """A thread inside a namespace, with an event loop: what it runs, and starts, is inside."""

    def __init__(self, network: Network, name: str) -> None:
        self.network, self.name = network, name
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name)
        self._entered: Future[None] = Future()
        self._thread.start()
        self._entered.result(_WAIT_S)

    def _run(self) -> None:
        try:
            self.network.enter(self.name)
        except BaseException as error:
            self._entered.set_exception(error)
            return
        self._entered.set_result(None)
        self._loop.run_forever()
        self._loop.close()

    async def do(self, work: Callable[[], Awaitable[T]]) -> T:
        """Await something inside."""

        async def bounded() -> T:
            async with asyncio.timeout(_WAIT_S):
                return await work()

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(bounded(), self._loop))

    async def make(self, build: Callable[[], T]) -> T:
        """Build something inside: a socket, a driver."""

        async def built() -> T:
            return build()

        return await self.do(built)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_WAIT_S)


class ClientLab(Lab):
    """A lab whose virtual address is asked for by the client, from its own namespace."""

    def __init__(self, places: Places, client: Machine) -> None:
        super().__init__(places)
        self._client = client

    async def answers_on_vip(self) -> str | None:
        return await self._client.do(super().answers_on_vip)


class Controller(Machine):
    """A machine with keepalived under our driver. `history` holds every state of eth0 that the driver showed."""

    driver: KeepalivedVirtualIps

    def __init__(self, network: Network, name: str, directory: Path) -> None:
        super().__init__(network, name)
        self.directory = directory / name / "vrrp"
        self.history: list[Vrrp | None] = []

    async def start(self) -> None:
        """A new driver, as of a new daemon."""
        self.driver = await self.make(lambda: KeepalivedVirtualIps(self.directory))
        self.driver.on_change(self._record)
        await self.do(self.driver.start)
        self._record()

    async def stop(self) -> None:
        await self.do(self.driver.stop)

    async def configure(self, *addresses: str, unicast: bool = False, priority: int = 0, advert_ms: int = 100) -> None:
        await self.do(lambda: self.driver.configure(self.instances(addresses, unicast, priority, advert_ms)))

    def instances(
        self, addresses: Sequence[str], unicast: bool = False, priority: int = 0, advert_ms: int = 100
    ) -> list[VrrpInstance]:
        own, others = (OWN[self.name], OWN["b" if self.name == "a" else "a"]) if unicast else ((), ())
        wanted = priority or {"a": 240, "b": 238}[self.name]
        return [VrrpInstance("eth0", tuple(addresses), 7, wanted, advert_ms, own, others)] if addresses else []

    async def participate(self, wanted: bool) -> None:
        await self.do(lambda: self.driver.participate(wanted))

    def state(self) -> Vrrp | None:
        return self.driver.states().get("eth0")

    async def until(self, state: Vrrp | None) -> None:
        """Wait for eth0 to be in this state."""
        reached = asyncio.Event()
        loop = asyncio.get_running_loop()

        def look() -> None:
            if self.state() is state:
                loop.call_soon_threadsafe(reached.set)

        self.driver.on_change(look)
        look()
        async with asyncio.timeout(_WAIT_S):
            await reached.wait()

    async def addresses(self) -> set[str]:
        return set(await self.network.addresses(self.name, "eth0"))

    def pids(self) -> tuple[int, int]:
        """keepalived's parent and its speaker."""
        parent, speaker = ((self.directory / name).read_text() for name in ("keepalived.pid", "vrrp.pid"))
        return int(parent), int(speaker)

    def kill(self) -> None:
        """Both at once, without a word to anybody."""
        for pid in self.pids():
            os.kill(pid, signal.SIGKILL)

    def bury(self) -> None:
        """End what is left, by the pids that keepalived wrote."""
        with contextlib.suppress(OSError, ValueError):
            for pid in self.pids():
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if os.fsencode(self.directory / "keepalived.conf") in words:
                    os.kill(pid, signal.SIGKILL)

    def _record(self) -> None:
        state = self.state()
        if not self.history or self.history[-1] is not state:
            self.history.append(state)


class Client:
    """Asks a virtual address every millisecond who it is; both controllers answer (IP_FREEBIND binds ahead of it)."""

    PORT = 7
    _IP_FREEBIND = 15  # <linux/in.h>

    def __init__(self) -> None:
        self.answers: list[tuple[float, str]] = []
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._ended = threading.Event()

    async def start(self, controllers: Mapping[str, Machine], client: Machine, address: str) -> None:
        host = address.split("/")[0]
        for name, machine in controllers.items():
            serving = await machine.make(lambda: self._bound(host))
            self._spawn(self._serve, serving, name.encode())
        asking = await client.make(lambda: self._connected(host))
        self._spawn(self._ask, asking)

    def gap_ms(self, since_s: float) -> float:
        """The longest time without an answer since then (time.monotonic)."""
        times = [at for at, _ in self.answers if at >= since_s - 0.05]
        return max(((late - early) * 1000 for early, late in itertools.pairwise(times)), default=0.0)

    def owners(self, since_s: float) -> Iterator[str]:
        return iter(dict.fromkeys(who for at, who in self.answers if at >= since_s))

    def stop(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(_WAIT_S)
        for one in self._sockets:
            one.close()

    def _bound(self, host: str) -> socket.socket:
        made = self._made()
        made.setsockopt(socket.SOL_IP, self._IP_FREEBIND, 1)
        made.bind((host, self.PORT))
        return made

    def _connected(self, host: str) -> socket.socket:
        made = self._made()
        made.connect((host, self.PORT))
        return made

    def _made(self) -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sockets.append(made)
        return made

    def _spawn(self, work: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=work, args=args)
        thread.start()
        self._threads.append(thread)

    def _serve(self, serving: socket.socket, name: bytes) -> None:
        serving.settimeout(0.05)
        while not self._ended.is_set():
            with contextlib.suppress(OSError):  # nobody asked, or the address is not here
                _, whom = serving.recvfrom(64)
                serving.sendto(name, whom)

    def _ask(self, asking: socket.socket) -> None:
        asking.settimeout(0.001)
        while not self._ended.is_set():
            with contextlib.suppress(OSError):
                asking.send(b"?")
                self.answers.append((time.monotonic(), asking.recv(64).decode()))
