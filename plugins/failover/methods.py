"""The `failover.*` methods."""

import asyncio
import errno
import logging
import time
from pathlib import Path
from typing import Any

from middlewared.errors import CallError, ValidationErrors, invalid
from middlewared.plugin import Call, Context, Plugin, method
from middlewared.plugins.failover import rehearsal
from middlewared.plugins.failover.belongings import Belongings
from middlewared.plugins.failover.controller import FailoverController
from middlewared.plugins.failover.events import Wish
from middlewared.plugins.failover.history import History, OpenHistory, Remembers
from middlewared.plugins.failover.passage import Recorder
from middlewared.plugins.failover.publisher import reboot_info
from middlewared.plugins.failover.remote import call_remote
from middlewared.plugins.failover.state import Role
from middlewared.plugins.failover.syncing import PairSync
from middlewared.ports import PortError
from middlewared.rpc import query
from middlewared.store.database import Transaction

log = logging.getLogger(__name__)

_HISTORY_TIMEOUT_S = 2.0
_HISTORY_PAGE_ROWS = 200  # of the largest rows, within one frame of the peer link
_REHEARSE_TIMEOUT_S = 10.0


class Failover(Plugin):
    def __init__(self, context: Context, open_history: OpenHistory | None = None, *, with_files: bool = True) -> None:
        """`open_history`: where past failovers are kept, if not in a file of this controller. `with_files` False: no
        files belong to the pair."""
        super().__init__(context)
        self.controller = FailoverController(context)
        self._sync = PairSync(context, self.controller, Belongings(context.settings) if with_files else None)
        self._open_history = open_history or self._open_file
        self._history: Remembers | None = None
        self._rehearsing = asyncio.Lock()  # one at a time: each reads all disks

    async def start(self) -> None:
        history = self._history = await self._open_history()
        if history.damaged:
            text = "The history of failovers before now is lost: its file was damaged, or cannot be used. See the log."
            self.context.alerts.set("failover.history", "WARNING", text, self.context.settings.node)
        clock_s = asyncio.get_running_loop().time
        recorder = Recorder(history.next_number, history.keep, clock_s=clock_s, wall_s=time.time)
        self.controller.on_step = recorder.follow
        await self._sync.start()
        await self.controller.start()

    async def stop(self) -> None:
        await self.controller.stop()
        if self._history is not None:
            await self._history.close()

    async def _open_file(self) -> History:
        settings = self.context.settings
        return await History.open(Path(settings.state_dir) / "history.db", settings.node, self.context.bus)

    # -------------------------------------------------------------------------------------- questions

    @method("failover.status")
    async def status(self, call: Call) -> str:
        return self.controller.publisher.status.value

    @method("failover.status_refresh")
    async def status_refresh(self, call: Call) -> None:
        self.controller.look()

    @method("failover.disabled.reasons")
    async def disabled_reasons(self, call: Call) -> list[str]:
        return list(self.controller.publisher.reasons)

    @method("failover.disabled_reasons")
    async def disabled_reasons_by_older_name(self, call: Call) -> list[str]:
        return list(self.controller.publisher.reasons)

    @method("failover.in_progress")
    async def in_progress(self, call: Call) -> bool:
        other = self.controller.other
        return self.controller.mine().ongoing or (other is not None and other.ongoing)

    @method("failover.licensed")
    async def licensed(self, call: Call) -> bool:
        return self.controller.mine().licensed

    @method("failover.node")
    async def node(self, call: Call) -> str:
        return self.context.settings.node

    @method("failover.hardware")
    async def hardware(self, call: Call) -> str:
        return self.context.ports.platform.identity().hardware

    @method("failover.get_ips")
    async def get_ips(self, call: Call) -> list[str]:
        api = self.context.settings.api
        addresses = [item.split("/")[0] for item in self.controller.observer.config.virtual_addresses]
        hosts = [f"[{address}]" if ":" in address else address for address in addresses]
        plain = [f"http://{host}{'' if api.port == 80 else f':{api.port}'}" for host in hosts]
        secure = [f"https://{host}{'' if api.port_tls == 443 else f':{api.port_tls}'}" for host in hosts]
        return plain + (secure if api.port_tls else [])

    @method("failover.reboot.info")
    async def reboot_info(self, call: Call) -> dict[str, Any]:
        return reboot_info(self.controller.mine(), self.controller.other)

    @method("failover.explain")
    async def explain(self, call: Call) -> list[dict[str, Any]]:
        return self.controller.publisher.explain()

    @method("failover.history")
    async def history(self, call: Call, filters: list[Any], options: dict[str, Any]) -> Any:
        rows = [] if self._history is None else await self._history.rows()
        if call.credential.kind != "NODE":  # the other controller wants ours alone, and asks nobody in turn
            rows += await self._history_of_other()
        once = {row["id"]: row for row in rows}  # a row may have moved to the next page meanwhile
        newest_first = sorted(once.values(), key=lambda row: (row["started_at"], row["id"]), reverse=True)
        return query.apply(newest_first, filters, options)

    async def _history_of_other(self) -> list[dict[str, Any]]:
        """Page by page; what does not come in time is left out."""
        rows: list[dict[str, Any]] = []
        if not self.context.peer.connected:
            return rows
        try:
            async with asyncio.timeout(_HISTORY_TIMEOUT_S):
                while len(rows) % _HISTORY_PAGE_ROWS == 0:
                    options = {"limit": _HISTORY_PAGE_ROWS, "offset": len(rows)}
                    page = await self.context.peer.call("failover.history", [[], options])
                    if not page:
                        break
                    rows += page
        except (CallError, TimeoutError) as error:
            log.warning("the other controller's history is not shown: %s", error or "no answer in time")
        return rows

    @method("failover.rehearse")
    async def rehearse(self, call: Call) -> dict[str, Any]:
        mine = self.controller.mine()
        if mine.role not in (Role.MASTER, Role.YIELDING) or call.credential.kind == "NODE":
            async with self._rehearsing:
                seen = await rehearsal.look(self.context.ports, self.context.store, self._encrypted_there())
            return rehearsal.result(mine.node, rehearsal.checks(mine, self.controller.other, seen))
        try:
            answer = await self.context.peer.call("failover.rehearse", [], timeout_s=_REHEARSE_TIMEOUT_S)
        except CallError as error:
            return rehearsal.unreachable(mine, str(error))
        return dict(answer)

    async def _encrypted_there(self) -> list[dict[str, Any]]:
        """The encrypted datasets of the other controller's imported pools; none while it cannot be reached."""
        if self.controller.other is None:
            return []
        try:
            return list(await self.context.peer.call("pool.dataset.encryption", [], timeout_s=rehearsal.PORT_TIMEOUT_S))
        except CallError as error:
            raise PortError(f"the other controller cannot tell its encrypted datasets: {error}") from error

    # -------------------------------------------------------------------------------------- configuration

    @method("failover.config")
    async def config(self, call: Call) -> dict[str, Any]:
        config, facts = self.controller.observer.config, self.controller.mine()
        if config.disabled:
            master = (config.master_node or "A") == facts.node
        else:
            master = facts.role in (Role.MASTER, Role.YIELDING)
        return {"id": 1, "disabled": config.disabled, "timeout": config.timeout_s, "master": master}

    @method("failover.update")
    async def update(self, call: Call, data: dict[str, Any]) -> dict[str, Any]:
        config = self.controller.observer.config
        disabled = data.get("disabled", config.disabled)
        if config.disabled and not disabled:
            self._check_can_enable()
        node = config.master_node
        if "master" in data and data["master"] is not None:
            if not disabled and data["master"] is not (await self.config(call))["master"]:
                raise invalid(
                    "failover_update.master",
                    "Can only be chosen while failover is disabled; to move the role now use failover.become_passive",
                )
            settings = self.context.settings
            node = settings.node if data["master"] else settings.other_node
        timeout_s = data.get("timeout", config.timeout_s)

        def change(tx: Transaction) -> None:
            tx.execute(
                "UPDATE failover_config SET disabled = ?, master_node = ?, timeout_s = ? WHERE id = 1",
                (int(disabled), node, timeout_s),
            )

        if (disabled, node, timeout_s) != (config.disabled, config.master_node, config.timeout_s):
            await self.context.store.write(change)
        return await self.config(call)

    @method("failover.control")
    async def control(self, call: Call, action: str, options: dict[str, Any]) -> bool:
        """True when the call changed anything."""
        disable = action == "DISABLE"
        if self.controller.observer.config.disabled == disable:
            return False
        data: dict[str, Any] = {"disabled": disable}
        if disable:
            data["master"] = options["active"] == (self.controller.mine().role is Role.MASTER)
        await self.update(call, data)
        return True

    def _check_can_enable(self) -> None:
        if not any(interface.critical for interface in self.controller.observer.config.interfaces):
            raise ValidationErrors(
                [
                    (
                        "failover_update.disabled",
                        "Mark at least one interface as critical for failover first",
                        errno.EINVAL,
                    )
                ]
            )

    # -------------------------------------------------------------------------------------- changing roles

    @method("failover.force_master")
    async def force_master(self, call: Call) -> bool:
        """True when this controller became MASTER, False when it already was."""
        changed = await self._wish(Wish.FORCE_MASTER, f"force_master by {call.credential.username}")
        config = self.controller.observer.config
        if changed and config.disabled and config.master_node != self.context.settings.node:
            await self.update(call, {"disabled": True, "master": True})
        return changed

    @method("failover.become_passive")
    async def become_passive(self, call: Call) -> None:
        asked_by_peer = call.credential.kind == "NODE"
        reasons = self.controller.publisher.reasons
        if reasons and not asked_by_peer:
            raise CallError(
                f"The other controller would not take over: {', '.join(reasons)}. "
                "Mend that first, or use force_master there.",
                errno.EBUSY,
            )
        await self._wish(Wish.BECOME_PASSIVE, f"become_passive by {call.credential.username}")

    async def _wish(self, wish: Wish, cause: str) -> bool:
        try:
            changed, refusal = await self.controller.wish(wish, cause)
        except TimeoutError as error:
            raise CallError(
                "It takes longer than a minute; it goes on: see failover.status.", errno.ETIMEDOUT
            ) from error
        if refusal:
            raise CallError(refusal, errno.EBUSY)
        return changed

    # -------------------------------------------------------------------------------------- the other controller

    @method("failover.sync_to_peer")
    async def sync_to_peer(self, call: Call, options: dict[str, Any]) -> None:
        await self._sync.to_peer(call, reboot=options["reboot"])

    @method("failover.sync_from_peer")
    async def sync_from_peer(self, call: Call) -> None:
        await self._sync.from_peer(call)

    @method("failover.sync")
    async def sync(self, call: Call, options: dict[str, Any]) -> None:
        """What sync_to_peer does, as a job of its own: the other controller follows its progress."""
        report = (lambda percent, text: None) if call.job is None else call.job.set_progress
        await self._sync.push(report, reboot=options["reboot"])

    @method("failover.files_wanted")
    async def files_wanted(self, call: Call, files: list[dict[str, Any]]) -> list[str]:
        return await self._sync.wanted(call, files)

    @method("failover.files_put")
    async def files_put(self, call: Call, files: list[dict[str, Any]]) -> None:
        await self._sync.put(call, files)

    @method("failover.call_remote")
    async def call_remote(self, call: Call, name: str, args: list[Any], options: dict[str, Any]) -> Any:
        return await call_remote(self.context, call, name, args, options)

    @method("failover.reboot.other_node")
    async def reboot_other_node(self, call: Call, options: dict[str, Any]) -> None:
        await self.context.peer.call("system.reboot", [options["reason"], {}])

    # -------------------------------------------------------------------------------------- upgrade

    @method("failover.upgrade_pending")
    async def upgrade_pending(self, call: Call) -> bool:
        """Whether a controller still has to reboot into what was installed."""
        other = self.controller.other
        facts = [self.controller.mine(), *([other] if other is not None else [])]
        return any("UPGRADE" in one.reboot_reasons for one in facts)

    @method("failover.upgrade_finish")
    async def upgrade_finish(self, call: Call) -> bool:
        if call.job is not None:
            call.job.set_progress(0, "Ensuring the Standby Controller is booted")
        other = self.controller.other
        if other is None or not other.ready:
            raise CallError("The other controller is not booted, or cannot be reached.", errno.EHOSTUNREACH)
        if not await self.upgrade_pending(call):
            raise CallError("There is nothing to finish: no upgrade is pending.", errno.ENOENT)
        raise CallError(
            "An upgrade is pending on a controller: it is finished by rebooting it (failover.reboot.info says which).",
            errno.EBUSY,
        )
