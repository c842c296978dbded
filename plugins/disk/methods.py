"""The `disk.*` methods."""

from typing import Any

from middlewared.plugin import Call, Plugin, method
from middlewared.rpc import query


class Disks(Plugin):
    @method("disk.query")
    async def query(self, call: Call, filters: list[Any], options: dict[str, Any]) -> Any:
        fence = self.context.ports.fencing.state()
        failed = frozenset(fence.disks_failed)
        rows = [
            {
                "identifier": f"{{serial}}{disk.serial}",
                "name": disk.name,
                "serial": disk.serial,
                "model": disk.model,
                "size": disk.size_bytes,
                "paths": disk.paths,
                "reserved": fence.running and fence.held and disk.serial not in failed,
            }
            for disk in sorted(self.context.ports.disks.disks(), key=lambda disk: disk.name)
        ]
        return query.apply(rows, filters, options)
