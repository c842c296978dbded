"""The `failover.fenced.*` methods: a look at the keeper of the reservations, and its work done by hand."""

import errno
from typing import Any

from middlewared.errors import CallError
from middlewared.plugin import Call, Plugin, method
from middlewared.ports import FenceCode, PortError

_RESTING = ("BACKUP", "ERROR", "SINGLE")  # nothing is under way, and nothing should be imported


class Fenced(Plugin):
    @method("failover.fenced.run_info")
    async def run_info(self, call: Call) -> dict[str, Any]:
        try:
            return {"running": True, **await self.context.ports.fencing.run_info()}
        except PortError as error:
            return {"running": False, "problem": str(error)}

    @method("failover.fenced.start")
    async def start_holding(self, call: Call, force: bool) -> int:
        """Where failover is at work, it alone takes disks: it knows whether the other controller is alive (S4)."""
        fencing = self.context.ports.fencing
        if fencing.state().held:
            return FenceCode.OK
        status = await self.context.call("failover.status")
        if status != "SINGLE" or self.context.peer.connected:
            raise CallError(
                f"This controller is part of a pair ({status}), and failover takes the disks itself. To make it the "
                "MASTER, use `system failover force_master`.",
                errno.EBUSY,
            )
        try:
            return (await fencing.acquire(force=force)).code
        except PortError as error:
            raise CallError(str(error), errno.EFAULT) from error

    @method("failover.fenced.stop")
    async def stop_holding(self, call: Call) -> None:
        """Only what is seen exported is given up (S2); not being able to see counts as imported."""
        status = await self.context.call("failover.status")
        if status not in _RESTING:
            raise CallError(
                f"This controller is {status}. To have it give up the disks, use `system failover become_passive`.",
                errno.EBUSY,
            )
        try:
            imported = [pool.name for pool in await self.context.ports.pools.pools() if pool.imported]
        except PortError as error:
            raise CallError(f"Nobody can tell whether pools are imported here: {error}", errno.EBUSY) from error
        if imported:
            raise CallError(f"{', '.join(imported)} is imported here: export it first.", errno.EBUSY)
        try:
            await self.context.ports.fencing.release()
        except PortError as error:
            raise CallError(str(error), errno.EFAULT) from error
