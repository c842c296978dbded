"""The `alert.*` methods."""

from typing import Any

from middlewared.plugin import Call, Plugin, method


class Alert(Plugin):
    @method("alert.list")
    async def list(self, call: Call) -> list[dict[str, Any]]:
        return self.context.alerts.list()

    @method("alert.dismiss")
    async def dismiss(self, call: Call, uuid: str) -> None:
        await self.context.alerts.dismiss(uuid)

    @method("alert.restore")
    async def restore(self, call: Call, uuid: str) -> None:
        await self.context.alerts.restore(uuid)
