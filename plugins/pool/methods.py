"""The `pool.*` and `pool.dataset.*` methods."""

import asyncio
import errno
import time
from collections.abc import Callable, Sequence
from typing import Any

from middlewared.auth.identity import NODE
from middlewared.errors import CallError, ValidationErrors, invalid, not_found
from middlewared.plugin import Call, Context, Plugin, method
from middlewared.plugins.pool.keys import KeyRing
from middlewared.plugins.pool.material import material
from middlewared.plugins.pool.watcher import DatasetWatcher
from middlewared.ports import Dataset, Pool, PortError
from middlewared.rpc import query

_PUSH_TIMEOUT_S = 5.0


class Pools(Plugin):
    @method("pool.query")
    async def query(self, call: Call, filters: list[Any], options: dict[str, Any]) -> Any:
        pools = sorted(await self.context.ports.pools.pools(), key=lambda pool: pool.name)
        return query.apply([_to_wire(pool) for pool in pools], filters, options)


class Datasets(Plugin):
    """Encrypted datasets: opened here, their keys kept in the memory of both controllers."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.ring = KeyRing()
        self.wall_s: Callable[[], float] = time.time
        self._watcher = DatasetWatcher(context, self.ring)
        self._pushing: set[asyncio.Task[bool]] = set()

    async def start(self) -> None:
        """From now on the other controller is told the keys whenever it connects, and what stays shut is an alert."""
        self.context.peer.on_connected = self._push_soon
        self._watcher.start()

    async def stop(self) -> None:
        await self._watcher.stop()
        for task in self._pushing:
            task.cancel()
        await asyncio.gather(*self._pushing, return_exceptions=True)

    @method("pool.dataset.encryption")
    async def encryption(self, call: Call) -> Sequence[dict[str, Any]]:
        keys = self.ring.keys
        return [
            {
                "id": dataset.name,
                "pool": dataset.name.partition("/")[0],
                "locked": dataset.locked,
                "key_format": dataset.key_format.upper(),
                "key_location": dataset.key_location,
                "key_held": dataset.name in keys,
            }
            for dataset in sorted(await self._roots(), key=lambda dataset: dataset.name)
        ]

    @method("pool.dataset.unlock")
    async def unlock(self, call: Call, id: str, key: str) -> dict[str, Any]:
        """Whether the other controller has the key too; if not, it gets it when it connects."""
        self._refuse_on_standby()
        formats = {dataset.name: dataset.key_format for dataset in await self._roots()}
        if id not in formats:
            raise not_found(f"No imported pool has an encrypted dataset {id} with a key of its own")
        try:
            material(key, formats[id])
        except ValueError as error:
            raise invalid("key", str(error)) from error
        try:
            await self.context.ports.pools.unlock(id, key)
        except PortError as error:
            raise CallError(str(error), errno.EINVAL) from error
        return {"id": id, "peer_has_key": await self._keep(id, key)}

    @method("pool.dataset.forget_key")
    async def forget_key(self, call: Call, id: str) -> bool:
        """Whether the other controller has forgotten it too."""
        self._refuse_on_standby()
        if id not in self.ring.keys:
            raise not_found(f"No key of {id} is kept")
        return await self._keep(id, None)

    @method("pool.dataset.receive_keys")
    async def receive_keys(self, call: Call, keys: list[dict[str, Any]]) -> None:
        if call.credential != NODE:
            raise CallError("Only the other controller hands keys over", errno.EACCES)
        if self.ring.merge(keys):
            self._use()

    @method("pool.dataset.push_keys")
    async def push_keys(self, call: Call) -> None:
        if self.ring.to_wire() and not await self._push():
            raise CallError("The other controller did not take the keys of encrypted datasets; see the alerts")

    # -------------------------------------------------------------------------------------- keys

    async def _roots(self) -> Sequence[Dataset]:
        return [dataset for dataset in await self.context.ports.pools.datasets() if dataset.has_key]

    def _refuse_on_standby(self) -> None:
        """Datasets open where the pools are; the store's guard names the active controller."""
        if self.context.store.guard is not None:
            self.context.store.guard()

    async def _keep(self, dataset: str, key: str | None) -> bool:
        self.ring.put(dataset, key, int(self.wall_s() * 1000))
        self._use()
        return await self._push()

    def _use(self) -> None:
        self.context.ports.pools.hold_keys(self.ring.keys)
        self._watcher.look()

    async def _push(self) -> bool:
        """Hand the whole ring to the other controller. A failure is an alert, and mended by the next connection."""
        rows = self.ring.to_wire()
        if not rows or not self.context.peer.paired:
            return False
        try:
            await self.context.peer.call(
                "pool.dataset.receive_keys", [rows], timeout_s=_PUSH_TIMEOUT_S, connect_timeout_s=0
            )
        except CallError as error:
            self._watcher.peer_lacks_keys(error.message)
            return False
        except ValidationErrors:  # its text quotes what is wrong: a key
            self._watcher.peer_lacks_keys("it refused them; do both controllers run the same version?")
            return False
        self._watcher.peer_lacks_keys("")
        return True

    def _push_soon(self) -> None:
        task = asyncio.get_running_loop().create_task(self._push())
        self._pushing.add(task)
        task.add_done_callback(self._pushing.discard)


def _to_wire(pool: Pool) -> dict[str, Any]:
    """Sizes are only known where the pool is imported."""
    return {
        "id": pool.guid,
        "name": pool.name,
        "guid": pool.guid,
        "imported": pool.imported,
        "status": pool.status,
        "healthy": pool.imported and pool.status == "ONLINE",
        "size": pool.size_bytes if pool.imported else None,
        "allocated": pool.allocated_bytes if pool.imported else None,
        "free": pool.size_bytes - pool.allocated_bytes if pool.imported else None,
    }
