"""What is wrong now: the book of active alerts. The daemon finds conditions and sets or clears them by key.

Alerts are in memory: after a start the daemon finds out again what holds. That an administrator dismissed one is in the
store, for the pair; it ends when the condition ends.
"""

import asyncio
import enum
import errno
import logging
import time
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from middlewared.bus import Bus, Event
from middlewared.errors import CallError, not_found
from middlewared.store.database import Store

log = logging.getLogger(__name__)

ALERTS_MAX = 1000
COLLECTION = "alert.list"
_NAMESPACE = uuid.UUID("a7e3e1f2-5d3b-5c7a-9a64-0f1c2f0f7a11")


class AlertLevel(enum.StrEnum):
    """How bad it is, from least to worst."""

    INFO = "INFO"
    NOTICE = "NOTICE"
    WARNING = "WARNING"
    ERROR = "ERROR"
    CRITICAL = "CRITICAL"
    ALERT = "ALERT"
    EMERGENCY = "EMERGENCY"


_SEVERITY = {level: number for number, level in enumerate(AlertLevel)}


@dataclass(frozen=True, slots=True)
class Alert:
    """A condition that holds now. `key` names it; `node` is the controller concerned, A or B."""

    key: str
    level: AlertLevel
    text: str
    node: str
    since_s: float
    last_seen_s: float

    @property
    def uuid(self) -> str:
        """The same for the same key, on both controllers and after every restart."""
        return str(uuid.uuid5(_NAMESPACE, self.key))


class Alerts:
    """The book. Belongs to the event loop; emits `alert.list` events when something a reader sees has changed."""

    def __init__(self, bus: Bus, store: Store, *, wall_s: Callable[[], float] = time.time) -> None:
        self._bus = bus
        self._store = store
        self._wall_s = wall_s
        self._alerts: dict[str, Alert] = {}
        self._dismissed = self._read_dismissed()
        self._forgetting: set[asyncio.Task[None]] = set()
        store.on_commit(self._on_commit)

    def set(self, key: str, level: AlertLevel | str, text: str, node: str) -> None:
        """The condition `key` holds. Saying so again only moves `last_occurrence`, without an event."""
        now_s = self._wall_s()
        before = self._alerts.get(key)
        if before is None and len(self._alerts) >= ALERTS_MAX:
            log.error("too many alerts are active; not shown: %s", text)
            return
        since_s = before.since_s if before is not None else now_s
        alert = Alert(key, AlertLevel(level), text, node, since_s, now_s)
        self._alerts[key] = alert
        if before is None:
            self._emit("added", alert)
        elif (before.level, before.text, before.node) != (alert.level, alert.text, alert.node):
            self._emit("changed", alert)

    def clear(self, key: str) -> None:
        """The condition no longer holds (or never did)."""
        alert = self._alerts.pop(key, None)
        if alert is None:
            return
        self._bus.emit(Event(COLLECTION, "removed", id=alert.uuid))
        if alert.uuid in self._dismissed:
            self._forget_dismissal(alert.uuid)

    def clear_except(self, prefix: str, keys: Collection[str]) -> None:
        """Clear every alert whose key begins with `prefix` and is not among `keys`."""
        for key in [key for key in self._alerts if key.startswith(prefix) and key not in keys]:
            self.clear(key)

    def list(self) -> list[dict[str, Any]]:
        """The active alerts as the API shows them, the worst first, then the newest."""
        alerts = sorted(self._alerts.values(), key=lambda alert: (-_SEVERITY[alert.level], -alert.since_s, alert.key))
        return [self._to_wire(alert) for alert in alerts]

    async def dismiss(self, alert_uuid: str) -> None:
        """An administrator has seen it: it stays in the list, marked. Raises ValidationErrors if it is not active."""
        self._find(alert_uuid)
        at_ms = int(self._wall_s() * 1000)
        await self._store.write(
            lambda t: t.execute(
                "INSERT OR REPLACE INTO alert_dismissed (uuid, at_ms) VALUES (?, ?)", (alert_uuid, at_ms)
            )
        )

    async def restore(self, alert_uuid: str) -> None:
        """Undo a dismissal. Raises ValidationErrors if the alert is not active."""
        self._find(alert_uuid)
        await self._delete_dismissal(alert_uuid)

    async def close(self) -> None:
        if self._forgetting:
            await asyncio.gather(*self._forgetting, return_exceptions=True)

    def _find(self, alert_uuid: str) -> Alert:
        for alert in self._alerts.values():
            if alert.uuid == alert_uuid:
                return alert
        raise not_found(f"Alert {alert_uuid} does not exist")

    def _emit(self, msg: Any, alert: Alert) -> None:
        self._bus.emit(Event(COLLECTION, msg, self._to_wire(alert), alert.uuid))

    def _to_wire(self, alert: Alert) -> dict[str, Any]:
        return {
            "id": alert.uuid,
            "uuid": alert.uuid,
            "key": alert.key,
            "level": alert.level.value,
            "node": alert.node,
            "text": alert.text,
            "formatted": alert.text,
            "datetime": datetime.fromtimestamp(alert.since_s, UTC),
            "last_occurrence": datetime.fromtimestamp(alert.last_seen_s, UTC),
            "dismissed": alert.uuid in self._dismissed,
        }

    def _read_dismissed(self) -> frozenset[str]:
        return frozenset(row["uuid"] for row in self._store.query("SELECT uuid FROM alert_dismissed"))

    def _on_commit(self, tables: frozenset[str]) -> None:
        if "alert_dismissed" not in tables:
            return
        before, self._dismissed = self._dismissed, self._read_dismissed()
        for alert in self._alerts.values():
            if (alert.uuid in before) != (alert.uuid in self._dismissed):
                self._emit("changed", alert)

    def _forget_dismissal(self, alert_uuid: str) -> None:
        task = asyncio.get_running_loop().create_task(self._forget(alert_uuid))
        self._forgetting.add(task)
        task.add_done_callback(self._forgetting.discard)

    async def _forget(self, alert_uuid: str) -> None:
        try:
            await self._delete_dismissal(alert_uuid)
        except CallError as error:
            # The standby may not write; there the row goes when the condition ends on the active controller, or stays
            # and keeps quiet an alert that somebody dismissed before.
            if error.errno == errno.EIO:
                log.warning("alert %s stays dismissed: %s", alert_uuid, error)

    async def _delete_dismissal(self, alert_uuid: str) -> None:
        await self._store.write(lambda t: t.execute("DELETE FROM alert_dismissed WHERE uuid = ?", (alert_uuid,)))
