"""Changes that the simulator cannot notice, each with the reason: another layer guards, or no oracle looks there."""

from tests.mutants.entry import Equivalent, change
from tests.mutants.failover import ENGINE
from tests.mutants.fencing import HOLDER, TAKEOVER
from tests.mutants.verdict import NEVER, REASONS

EQUIVALENT: tuple[Equivalent, ...] = (
    Equivalent(
        "verify-skipped",
        change(ENGINE, "Phase.EXPORTING: Phase.VERIFYING,", "Phase.EXPORTING: Phase.RELEASING,"),
        "The simulated kernel's exports tell the truth, so looking again finds nothing new (tests/unit has liars).",
    ),
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
        "failed-export-goes-on",
        change(ENGINE, "Phase.EXPORTING: _reset,", "Phase.EXPORTING: _go_on,"),
        "VERIFYING finds the pools still imported, and resets; without that, too, it is export-failure-goes-on.",
    ),
    Equivalent(
        "fence-lost-ignored-by-the-engine",
        change(ENGINE, "if state.fenced and state.phase is not Phase.RELEASING:", "if state.fenced and now_ms < 0:"),
        "A keeper that lost the disks resets the machine itself; one that forgot them, too, is fence-lost-ignored.",
    ),
    Equivalent(
        "imported-without-held-not-reset",
        change(ENGINE, "if found.imported and not found.held:", "if found.imported and found.held and now_ms < 0:"),
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
        "bare-preempt-without-reset",
        change(
            TAKEOVER,
            "            await path.lun_reset(timeout_ms)\n    if reply.status not in",
            "            pass\n    if reply.status not in",
        ),
        "The simulated shelf knows PREEMPT AND ABORT, so the fallback never runs (tests/unit/fencing).",
    ),
    Equivalent(
        "no-failover-never-holds",
        change(REASONS, "lambda mine, other: mine.disabled", NEVER),
        "While failover is disabled the standby does not take part in the election, so DISAGREE_VIP holds, too.",
    ),
    Equivalent(
        "no-licence-never-holds",
        change(REASONS, "lambda mine, other: not mine.licensed or (other is not None and not other.licensed)", NEVER),
        "A standby without a licence does not take part in the election, so DISAGREE_VIP holds, too.",
    ),
    Equivalent(
        "no-system-ready-never-holds",
        change(REASONS, "lambda mine, other: other is not None and not other.ready", NEVER),
        "A standby that has not finished booting does not take part in the election, so DISAGREE_VIP holds, too.",
    ),
)
