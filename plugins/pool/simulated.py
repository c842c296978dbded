"""Pools on the lab's shelf, as this controller's simulated kernel has them."""

from collections.abc import Collection, Mapping, Sequence

from middlewared.machine import SimulatedMachine
from middlewared.ports import Dataset, Listener, Pool, Pools, PortError

_TIMEOUT_MS = 3_600_000  # the caller sets the real deadline; this one bounds what it forgot


class SimulatedPools(Pools):
    def __init__(self, machine: SimulatedMachine) -> None:
        self._machine = machine

    async def pools(self) -> Sequence[Pool]:
        rows = await self._machine.call("pool_list")
        return [
            Pool(
                name=row["name"],
                guid=row["guid"],
                imported=row["imported"],
                status=row["status"],
                size_bytes=row["size_bytes"],
                allocated_bytes=row["allocated_bytes"],
            )
            for row in rows
        ]

    def look(self) -> None:
        """Nothing: the lab's pool is known as soon as its disks are seen."""

    async def imported(self) -> Sequence[Pool]:
        return [pool for pool in await self.pools() if pool.imported]

    async def trouble(self, guid: str) -> str:
        return str(await self._machine.call("pool_trouble", guid=guid))

    async def import_pool(self, guid: str) -> None:
        await self._machine.call("pool_import", timeout_ms=_TIMEOUT_MS, guid=guid)

    async def export_pool(self, guid: str) -> None:
        await self._machine.call("pool_export", timeout_ms=_TIMEOUT_MS, guid=guid)

    async def datasets(self) -> Sequence[Dataset]:
        return ()

    async def unlock(self, dataset: str, key: str) -> None:
        raise PortError(f"{dataset}: the lab's pool has no encrypted datasets")

    def hold_keys(self, keys: Mapping[str, str]) -> None: ...

    def keys_held(self) -> Collection[str]:
        return ()

    def on_change(self, listener: Listener) -> None:
        self._machine.on_change("pools", listener)
