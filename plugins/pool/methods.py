"""The `pool.*` methods."""

from typing import Any

from middlewared.plugin import Call, Plugin, method
from middlewared.ports import Pool
from middlewared.rpc import query


class Pools(Plugin):
    @method("pool.query")
    async def query(self, call: Call, filters: list[Any], options: dict[str, Any]) -> Any:
        pools = sorted(await self.context.ports.pools.pools(), key=lambda pool: pool.name)
        return query.apply([_to_wire(pool) for pool in pools], filters, options)


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
