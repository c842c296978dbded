"""Changes that break no promise, each with the reason: another layer guards. (A transcript may show one by a line.)"""

from tests.mutants.entry import Equivalent, change
from tests.mutants.failover import ENGINE
from tests.mutants.fencing import GUARD, HOLDER
from tests.mutants.verdict import REASONS

EQUIVALENT: tuple[Equivalent, ...] = (
    Equivalent(
        "late-result-accepted-by-the-engine",
        change(ENGINE, "phase is None or done.op != state.op or state.deadline_ms is None", "phase is None"),
        "The runner ends the work of a phase when the next begins; without that, too, it is late-result-accepted.",
    ),
    Equivalent(
        "late-work-goes-on",
        change(
            "plugins/failover/runner.py",
            "                if self._work is not None:\n                    self._work.cancel()\n",
            "",
        ),
        "The engine ignores results with another operation's number.",
    ),
    Equivalent(
        "fence-lost-ignored-by-the-engine",
        change(ENGINE, "if state.fenced and state.phase is not Phase.RELEASING:", "if state.fenced and now_ms < 0:"),
        "A keeper that lost the disks resets the machine itself; one that forgot them, too, is fence-lost-ignored.",
    ),
    Equivalent(
        "imported-without-held-not-reset",
        change(ENGINE, "if found.imported and not found.held:", "if False:"),
        "Rests as BACKUP with closed traffic, is elected again, and takes or resets; a keeper that comes "
        "back knows what it holds.",
    ),
    Equivalent(
        "giving-up-takes-part",
        change(ENGINE, "wanted = not state.giving_up", "wanted = True"),
        "ERROR follows in milliseconds, and does not take part (error-takes-part).",
    ),
    Equivalent(
        "loss-found-after-a-freeze-ignored",
        change(
            HOLDER,
            "if finding in (Finding.TAKEN, Finding.GONE, Finding.FORGOTTEN):",
            "if finding in (Finding.TAKEN, Finding.GONE) and not reading.own(self._host_id):\n"
            "                    continue\n"
            "                if finding is Finding.FORGOTTEN:",
        ),
        "Disks that stay unproven for lost_ms reset the machine, too, only later.",
    ),
    Equivalent(
        "unprotected-pools-tolerated",
        change(
            REASONS, "not facts.fence_running or (facts.imported and not facts.fence_held)", "not facts.fence_running"
        ),
        "Whoever has pools imported and a keeper that does not hold the disks is reset before anybody can ask.",
    ),
    Equivalent(
        "giving-way-skipped",
        change(GUARD, "if any(rival < self._host_id for rival in taken.rivals):", "if taken.rivals and not key:"),
        "A contest leaves blank disks, and there whoever ranks lower sees the other's key and lets go again, or finds "
        "it moving; without that, too, it is nobody-gives-way.",
    ),
)
