"""Firewall over nftables. The rules are the kernel's: they outlive middlewared, and are asked of nobody else."""

import asyncio
import logging
from collections.abc import Sequence

from middlewared import programs
from middlewared.plugins.firewall.nft_rules import TABLE, is_open, render
from middlewared.ports import Finding, Firewall, PortError

log = logging.getLogger(__name__)

_NFT_MS = 1_500  # below the failover engine's deadline for the phase
_LIST = ("nft", "-j", "list", "table", "inet", TABLE)


class NftablesFirewall(Firewall):
    """Keeps no state but the list of addresses: open or not is read from the kernel before each change of it."""

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
            self._addresses = tuple(addresses)
            try:
                await self._load(is_open=await self._is_open())
            except PortError:
                self._addresses = tuple({*before, *addresses})  # what is loaded next guards all that may come
                raise

    async def block(self) -> None:
        async with self._turn:
            await self._load(is_open=False)

    async def allow(self) -> None:
        async with self._turn:
            await self._load(is_open=True)

    async def allowed(self) -> bool:
        """Somebody else may have removed the table (`nft flush ruleset`). Then it is put back, and blocks."""
        async with self._turn:
            return await self._is_open()

    async def _is_open(self) -> bool:
        ended = await programs.run(*_LIST, timeout_ms=_NFT_MS)
        if ended.status == 0:
            try:
                return is_open(ended.stdout)
            except ValueError as error:
                raise PortError(f"nft does not show its rules: {error}") from error
        if "No such file or directory" not in ended.stderr:
            raise PortError(f"the rules of the packet filter cannot be read: {ended.stderr.strip()}")
        await self._load(is_open=False)
        return False

    async def _load(self, *, is_open: bool) -> None:
        try:
            rules = render(self._addresses, is_open=is_open)
        except ValueError as error:
            raise PortError(f"traffic cannot be filtered: {error}") from error
        await programs.output("nft", "-f", "-", timeout_ms=_NFT_MS, stdin=rules)
