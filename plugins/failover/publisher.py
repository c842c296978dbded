"""Tells the world: facts to the other controller, status, reasons and alerts to whoever listens here."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from middlewared.alerts import Alerts
from middlewared.bus import Bus, Event
from middlewared.peer.link import PeerLink
from middlewared.plugins.failover import reasons
from middlewared.plugins.failover.evidence import evidence
from middlewared.plugins.failover.facts import Facts
from middlewared.plugins.failover.status import Status, status
from middlewared.plugins.failover.wire import to_wire

_CRITICAL = {"NO_PONG", "NO_FENCED", "DISAGREE_VIP", "MISMATCH_DISKS"}
_PASSING = {"LOC_FAILOVER_ONGOING", "REM_FAILOVER_ONGOING"}  # shown by the status; an alert would only flicker


class Publisher:
    """Remembers what was last said, and speaks only when it differs."""

    def __init__(self, bus: Bus, peer: PeerLink, alerts: Alerts, *, wall_s: Callable[[], float] = time.time) -> None:
        self._bus = bus
        self._peer = peer
        self._alerts = alerts
        self._wall_s = wall_s
        self._since: dict[str, datetime] = {}  # of every row that holds, also of those that a failover here hides
        self._facts: tuple[Facts, Facts | None] | None = None
        self.status = Status.UNKNOWN
        self.reasons: list[str] = []
        self._reboot: dict[str, Any] | None = None

    def publish(self, mine: Facts, other: Facts | None) -> None:
        """Compare with what was said before; emit what changed."""
        if self._facts == (mine, other):
            return
        if self._facts is None or self._facts[0] != mine:
            self._peer.set_facts(to_wire(mine))
        self._facts = (mine, other)
        now = status(mine, other)
        if now is not self.status:
            self.status = now
            self._bus.emit(Event("failover.status", "changed", {"status": now.value}))
        self._keep_time(mine, other)
        codes = reasons.codes(mine, other)
        if codes != self.reasons:
            self.reasons = codes
            self._bus.emit(Event("failover.disabled.reasons", "changed", {"disabled_reasons": list(codes)}))
            self._alert(mine.node)
        reboot = reboot_info(mine, other)
        if self._reboot is not None and reboot != self._reboot:
            self._bus.emit(Event("failover.reboot.info", "changed", reboot, id=None))
        self._reboot = reboot

    def explain(self) -> list[dict[str, Any]]:
        """The reasons that hold, in the table's order, each with what makes it hold and since when (datetime)."""
        if self._facts is None:
            return []
        mine, other = self._facts
        return [
            {
                "code": code,
                "concerns": reasons.BY_CODE[code].concerns.value,
                "evidence": evidence(code, mine, other, self._since[code]),
                "since": self._since[code],
                "description": reasons.BY_CODE[code].description,
                "remedy": reasons.BY_CODE[code].remedy,
            }
            for code in self.reasons
        ]

    def _keep_time(self, mine: Facts, other: Facts | None) -> None:
        now = datetime.fromtimestamp(self._wall_s(), UTC)
        holding = [row.code for row in reasons.TABLE if row.holds(mine, other)]
        self._since = {code: self._since.get(code, now) for code in holding}

    def _alert(self, node: str) -> None:
        lasting = [code for code in self.reasons if code not in _PASSING]
        self._alerts.clear_except("failover.reason.", [f"failover.reason.{code}" for code in lasting])
        if self.status is Status.SINGLE:
            return
        for code in lasting:
            row = reasons.BY_CODE[code]
            level = "CRITICAL" if code in _CRITICAL else "WARNING"
            self._alerts.set(f"failover.reason.{code}", level, f"{row.description} {row.remedy}", node)


def reboot_info(mine: Facts, other: Facts | None) -> dict[str, Any]:
    """The `failover.reboot.info` object (PROTOCOL 6.4)."""

    def one(facts: Facts) -> dict[str, Any]:
        required = [{"code": code, "reason": text} for code, text in sorted(facts.reboot_reasons.items())]
        return {"boot_id": facts.boot_id, "reboot_required_reasons": required}

    return {"this_node": one(mine), "other_node": None if other is None else one(other)}
