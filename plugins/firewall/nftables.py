"""Firewall over nftables. The rules are the kernel's: they outlive middlewared, and are asked of nobody else."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence

from middlewared.plugins.firewall.libnftables import Answer, Nftables
from middlewared.plugins.firewall.nft_rules import TABLE, Shown, allowing, blocking, guarding, shown
from middlewared.plugins.firewall.removals import Removals
from middlewared.ports import Finding, Firewall, PortError
from middlewared.workers import Lane, Workers

log = logging.getLogger(__name__)

_CALL_MS = 1_500  # below the failover engine's deadline for the phase
_LOOK_AGAIN_MS = 200  # after rules that were removed could not be put back
_ABSENT = "No such file or directory"
_PLATFORM_STACK = 0


class NftablesFirewall(Firewall):
    """Whether traffic is let in, the kernel alone knows; kept here is only what to put back if somebody removes it."""

    def __init__(self, connect: Callable[[], Nftables] = Nftables) -> None:
        self._connect = connect
        self._connection: Nftables | None = None
        # One thread: changes follow one another, and what comes back late was not overtaken by what was asked later.
        self._lane = Lane(Workers(1, stack_bytes=_PLATFORM_STACK), late_max=1)
        self._addresses: tuple[str, ...] = ()
        self._open: bool | None = None  # as ordered, or found at first
        self._turn = asyncio.Lock()
        self._removed = asyncio.Event()
        self._removals = Removals(self._removed.set)
        self._mending: asyncio.Task[None] | None = None

    # ------------------------------------------------------------------------------------------ Driver

    async def start(self) -> None:
        """Where no table is, as after a boot, traffic is blocked from the first address on."""
        self._removals.start()
        await self.allowed()
        self._mending = asyncio.create_task(self._mend())

    async def stop(self) -> None:
        """The rules stay."""
        self._removals.stop()
        if self._mending is not None:
            self._mending.cancel()
            await asyncio.gather(self._mending, return_exceptions=True)

    async def examine(self) -> Sequence[Finding]:
        try:
            answer = await self._do(lambda nft: nft.show("tables"))
        except PortError as error:
            return [Finding("nftables", ok=False, detail=str(error), remedy="apt-get install libnftables1")]
        if answer.complaint:
            remedy = "run as root, on a kernel with nf_tables"
            return [Finding("nftables", ok=False, detail=answer.complaint, remedy=remedy)]
        return [Finding("nftables", ok=True, detail="the packet filter answers")]

    # ------------------------------------------------------------------------------------------ Firewall

    async def configure(self, addresses: Sequence[str]) -> None:
        rules = _rules(guarding, addresses)
        async with self._turn:
            # Should it fail, whatever is loaded next guards all that may be here.
            self._addresses = tuple({*self._addresses, *addresses})
            await self._load(rules)
            self._addresses = tuple(addresses)

    async def block(self) -> None:
        async with self._turn:
            self._open = False
            await self._load(_rules(blocking, self._addresses))

    async def allow(self) -> None:
        async with self._turn:
            await self._load(allowing())
            self._open = True

    async def allowed(self) -> bool:
        """Somebody else may have removed the rules (`nft flush ruleset`). Then they are put back as they were; block
        if nobody knows here how they were."""
        async with self._turn:
            found = await self._look()
            if self._open is None and found is not None:
                self._open = found.is_open
            wanted = bool(self._open)
            if found is None or found.is_open != wanted or not found.guards(self._addresses):
                await self._load(_rules(blocking, self._addresses) + (allowing() if wanted else ""))
                log.warning(
                    "packet filter: the rules were made anew; traffic is %s", "let in" if wanted else "kept out"
                )
            return wanted

    # ------------------------------------------------------------------------------------------ inside

    async def _mend(self) -> None:
        """Put back what somebody removes, as long as this process lives."""
        while True:
            await self._removed.wait()
            self._removed.clear()
            try:
                await self.allowed()
            except PortError as error:
                log.error("packet filter: rules may be missing: %s", error)
                self._removed.set()
                await asyncio.sleep(_LOOK_AGAIN_MS / 1000)

    async def _look(self) -> Shown | None:
        """What is there; None: no table. Raises PortError."""
        answer = await self._do(lambda nft: nft.show(f"table inet {TABLE}"))
        if _ABSENT in answer.complaint:
            return None
        if answer.complaint:
            raise PortError(f"the rules of the packet filter cannot be read: {answer.complaint}")
        try:
            return shown(answer.output)
        except ValueError as error:
            raise PortError(f"nft does not show its rules: {error}") from error

    async def _load(self, rules: str) -> None:
        answer = await self._do(lambda nft: nft.load(rules))
        if answer.complaint:
            raise PortError(f"the packet filter does not take its rules: {answer.complaint}")

    async def _do(self, work: Callable[[Nftables], Answer]) -> Answer:
        def connected() -> Answer:
            if self._connection is None:
                self._connection = self._connect()
            return work(self._connection)

        try:
            return await self._lane.run(connected, _CALL_MS)
        except TimeoutError:
            raise PortError(f"the packet filter did not answer within {_CALL_MS} ms") from None


def _rules(render: Callable[[Iterable[str]], str], addresses: Iterable[str]) -> str:
    try:
        return render(addresses)
    except ValueError as error:
        raise PortError(f"traffic cannot be filtered: {error}") from error
