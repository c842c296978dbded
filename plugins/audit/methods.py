"""The `audit.*` methods."""

from typing import Any

from middlewared.plugin import Call, Plugin, method


class Audit(Plugin):
    @method("audit.query")
    async def query(self, call: Call, filters: list[Any], options: dict[str, Any]) -> Any:
        return await self.context.audit.query(filters, options)
