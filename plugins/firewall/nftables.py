"""Firewall over nftables. The rules are the kernel's: they outlive middlewared, and are asked of nobody else."""

import asyncio
from collections.abc import Callable, Iterable, Sequence

from middlewared import programs
from middlewared.plugins.firewall.nft_rules import TABLE, allowing, blocking, guarding, is_open
from middlewared.ports import Finding, Firewall, PortError

_NFT_MS = 1_500  # below the failover engine's deadline for the phase
_LIST = ("nft", "-j", "list", "table", "inet", TABLE)


class NftablesFirewall(Firewall):
    """Keeps no state but the list of addresses: whether traffic is let in, the kernel alone knows."""

    def __init__(self) -> None:
        self._addresses: tuple[str, ...] = ()
        self._turn = asyncio.Lock()

    # ------------------------------------------------------------------------------------------ Driver

    async def start(self) -> None:
        """Where no table is, as after a boot, traffic is blocked from the first address on."""
        await self.allowed()

    async def stop(self) -> None:
        """The rules stay."""

    async def examine(self) -> Sequence[Finding]:
        try:
            version = (await programs.output("nft", "--version", timeout_ms=_NFT_MS)).strip()
        except PortError as error:
            return [Finding("nftables", ok=False, detail=str(error), remedy="apt-get install nftables")]
        try:
            ended = await programs.run("nft", "-j", "list", "tables", timeout_ms=_NFT_MS)
        except PortError as error:
            return [Finding("nftables", ok=False, detail=str(error), remedy="look into the kernel's messages")]
        if ended.status != 0:
            remedy = "run as root, on a kernel with nf_tables"
            return [Finding("nftables", ok=False, detail=ended.stderr.strip() or version, remedy=remedy)]
        return [Finding("nftables", ok=True, detail=version)]

    # ------------------------------------------------------------------------------------------ Firewall

    async def configure(self, addresses: Sequence[str]) -> None:
        async with self._turn:
            before = self._addresses
            # Should it fail, whatever is loaded next guards all that may be here.
            self._addresses = tuple({*before, *addresses})
            await self._load(_rules(guarding, addresses))
            self._addresses = tuple(addresses)

    async def block(self) -> None:
        async with self._turn:
            await self._load(_rules(blocking, self._addresses))

    async def allow(self) -> None:
        async with self._turn:
            await self._load(allowing())

    async def allowed(self) -> bool:
        """Somebody else may have removed the table (`nft flush ruleset`). Then it is put back, and blocks."""
        async with self._turn:
            ended = await programs.run(*_LIST, timeout_ms=_NFT_MS)
            if ended.status == 0:
                try:
                    return is_open(ended.stdout)
                except ValueError as error:
                    raise PortError(f"nft does not show its rules: {error}") from error
            if "No such file or directory" not in ended.stderr:
                raise PortError(f"the rules of the packet filter cannot be read: {ended.stderr.strip()}")
            await self._load(_rules(blocking, self._addresses))
            return False

    async def _load(self, rules: str) -> None:
        await programs.output("nft", "-f", "-", timeout_ms=_NFT_MS, stdin=rules)


def _rules(render: Callable[[Iterable[str]], str], addresses: Iterable[str]) -> str:
    try:
        return render(addresses)
    except ValueError as error:
        raise PortError(f"traffic cannot be filtered: {error}") from error
