"""Broken engines: the order of the steps, what a failure leads to, and who may have the role."""

from tests.mutants.entry import Edit, Mutant, Plan, Scenario, change

ENGINE = "plugins/failover/engine.py"
WORKER = "plugins/failover/worker.py"
RUNNER = "plugins/failover/runner.py"
CONTROLLER = "plugins/failover/controller.py"
OBSERVER = "plugins/failover/observer.py"

GIVE_AWAY = Plan("3 call a failover.become_passive; 8 end")
ONLY_LINK_CUT = Plan("3 cut lan-a; 5 expect master b")
ISOLATED = Plan("3 cut heartbeat; 4 cut lan-a; 8 expect master b")
EXPORT_HANGS = Plan("3 set a export_hangs yes; 3.1 call a failover.become_passive; 40 expect master b")
IMPORT_FAILS = Plan("3 set b import_fails yes; 3.5 kill a; 6 end")

FAILOVER: tuple[Mutant, ...] = (
    Mutant(
        "release-before-verify",
        "The reservations are given up while the pools are still imported.",
        change(ENGINE, "Phase.STOPPING: Phase.EXPORTING,", "Phase.STOPPING: Phase.RELEASING,"),
        (GIVE_AWAY,),
    ),
    Mutant(
        "fencing-skipped",
        "A takeover imports without having taken the disks.",
        change(
            ENGINE,
            'cause=cause, error=""), Phase.FENCING, now_ms)',
            'cause=cause, error=""), Phase.IMPORTING, now_ms)',
        ),
        (Plan("3 kill a"),),
    ),
    Mutant(
        "fencing-skipped-after-asking",
        "After an orderly hand-over the operator's choice imports without having taken the disks.",
        change(ENGINE, "Phase.ASKING: Phase.FENCING,", "Phase.ASKING: Phase.IMPORTING,"),
        (Plan("3 call b failover.force_master; 6 expect master b"),),
    ),
    Mutant(
        "open-before-import",
        "Traffic is let in while the pools are not there.",
        change(ENGINE, "Phase.FENCING: Phase.IMPORTING,", "Phase.FENCING: Phase.OPENING,"),
        (Plan("3 kill a"),),
    ),
    Mutant(
        "late-result-accepted",
        "Work that was given up is neither ended nor are its results ignored.",
        (
            Edit(ENGINE, "phase is None or done.op != state.op or state.deadline_ms is None", "phase is None"),
            Edit(
                RUNNER,
                "                if self._work is not None:\n                    self._work.cancel()\n",
                "",
            ),
        ),
        (
            # Long overdue answers of services let the disks go in the middle of an export.
            Plan(
                "3 set a service_hangs yes; 4 call a failover.become_passive; 46 call b failover.become_passive;"
                "80 set a export_ms 6000; 81 call a failover.become_passive; 112 set a service_hangs no; 120 end"
            ),
            # A refusal of the packet filter's ends an export that goes well.
            Plan(
                "3 set b firewall_hangs yes; 3.1 set b export_ms 3000; 3.2 kill a; 8.5 set b firewall_hangs no;"
                "12 expect resets 0"
            ),
        ),
    ),
    Mutant(
        "import-failure-goes-on",
        "A failed import is followed by opening, as if the pools were there.",
        change(ENGINE, "Phase.IMPORTING: _give_up,", "Phase.IMPORTING: _go_on,"),
        (IMPORT_FAILS,),
    ),
    Mutant(
        "import-failure-not-told",
        "The worker says that importing went well when every pool failed.",
        change(WORKER, 'return _sentence(failures) if wanted and len(failures) == len(pools) else ""', 'return ""'),
        (IMPORT_FAILS,),
    ),
    Mutant(
        "export-failure-goes-on",
        "Neither a failed export nor pools that stay imported prevent the release.",
        (
            Edit(ENGINE, "Phase.EXPORTING: _reset,", "Phase.EXPORTING: _go_on,"),
            Edit(ENGINE, "Phase.VERIFYING: _reset,", "Phase.VERIFYING: _go_on,"),
        ),
        (EXPORT_HANGS,),
    ),
    Mutant(
        "failed-export-goes-on",
        "An export that failed or hangs is no end, and what verifies waits behind it.",
        change(ENGINE, "Phase.EXPORTING: _reset,", "Phase.EXPORTING: _go_on,"),
        (EXPORT_HANGS,),
    ),
    Mutant(
        "verify-skipped",
        "The reservations are given up on the word of the export, although the pools cannot be listed.",
        change(ENGINE, "Phase.EXPORTING: Phase.VERIFYING,", "Phase.EXPORTING: Phase.RELEASING,"),
        (Scenario("270-verifying-fails"),),
    ),
    Mutant(
        "no-deadlines",
        "A phase that takes too long is waited for, for ever.",
        change(ENGINE, "deadline_ms=now_ms + allowed_ms,", "deadline_ms=now_ms + 10**9 + allowed_ms,"),
        (EXPORT_HANGS,),
    ),
    Mutant(
        "export-without-deadline",
        "An export that hangs is waited for, for ever.",
        change(ENGINE, "Phase.EXPORTING: limits.export_ms,", "Phase.EXPORTING: 10**9,"),
        (EXPORT_HANGS,),
    ),
    Mutant(
        "engine-reset-not-carried-out",
        "The runner does not do the engine's reset.",
        change(RUNNER, "                self._ports.power.reset(reason)\n", "                pass\n"),
        (EXPORT_HANGS,),
    ),
    Mutant(
        "traffic-not-closed",
        "Whoever gives up lets traffic in until the disks are released.",
        change(WORKER, "        await self._ports.firewall.block()\n", ""),
        tuple(
            Plan(f"3 slow-disks a {slow_ms}; 4 call a failover.become_passive; 8.5 slow-disks a 0; 12 end")
            for slow_ms in (700, 800)
        ),
    ),
    Mutant(
        "traffic-never-closed",
        "Whoever gave up lets traffic in, and is elected again before it has the pools.",
        (
            Edit(WORKER, "        await self._ports.firewall.block()\n", ""),
            Edit(ENGINE, "return state, (CloseTraffic(), *answers)", "return state, answers"),
        ),
        (Plan("3 call a failover.become_passive; 6 set a import_ms 4000; 20 kill b; 26 end"),),
    ),
    Mutant(
        "fence-lost-ignored",
        "The engine goes on when a new keeper does not hold the disks any more, which an older one held.",
        (
            Edit(ENGINE, "if state.fenced and state.phase is not Phase.RELEASING:", "if state.fenced and now_ms < 0:"),
            Edit("plugins/fencing/guard.py", "if tenure is not None and tenure", "if tenure is not None and -tenure"),
        ),
        (Plan("3 kill-keeper a; 8 end"),),
    ),
    Mutant(
        "restart-rests-as-backup",
        "A daemon that is restarted on the MASTER does not go on as MASTER.",
        change(
            ENGINE,
            'replace(state, role=Role.MASTER, fenced=True, cause="middlewared was restarted")',
            'replace(state, role=Role.BACKUP, fenced=True, cause="middlewared was restarted")',
        ),
        (
            Plan(
                "3 call a failover.control '\"DISABLE\"' '{\"active\": true}'; 4 cut lan-a; 6 kill-daemon a;"
                "7 expect master a"
            ),
        ),
    ),
    Mutant(
        "error-is-for-ever",
        "After a takeover that failed, this controller never tries again.",
        change("plugins/failover/state.py", "error_retry_ms: int = 5_000", "error_retry_ms: int = 10**9"),
        (IMPORT_FAILS,),
    ),
    Mutant(
        "error-takes-part",
        "A controller whose takeover failed keeps the virtual addresses from the other one.",
        change(ENGINE, "        case _:\n            wanted = False", "        case _:\n            wanted = True"),
        (Plan("3 set b import_fails yes; 3.5 kill a; 5 boot a; 16 expect master a"),),
    ),
    Mutant(
        "no-standing-aside",
        "Whoever has handed over takes the role back at once.",
        change(ENGINE, "now_ms + state.limits.stand_aside_ms)", "now_ms)"),
        (Plan("3 call a failover.become_passive; 6 expect master b"),),
    ),
    Mutant(
        "never-yields",
        "A MASTER that lost the election stays, whatever happens.",
        change(
            ENGINE, "    config, lost = state.config, state.election.lost\n", "    config, lost = state.config, None\n"
        ),
        (ONLY_LINK_CUT,),
    ),
    Mutant(
        "suspended-master-stays",
        "A MASTER whose pool waits for its disks keeps the role, although the other one could lead.",
        change(ENGINE, "if state.suspended and _replaceable(state):", "if state.suspended and now_ms < 0:"),
        (Scenario("035-disks-cut-on-the-master"),),
    ),
    Mutant(
        "lost-link-tolerated",
        "A MASTER that lost its links stays, although the other one could lead.",
        change(ENGINE, "return config.timeout_ms if state.peer.could_lead else None", "return None"),
        (ONLY_LINK_CUT,),
    ),
    Mutant(
        "isolated-master-stays",
        "A MASTER without links and without the other's word stays.",
        change(ENGINE, "return max(config.timeout_ms, state.limits.isolated_grace_ms)", "return None"),
        (ISOLATED,),
    ),
    Mutant(
        "yields-to-the-unable",
        "A MASTER that lost its links gives way to one that has none either.",
        change(ENGINE, "return config.timeout_ms if state.peer.could_lead else None", "return config.timeout_ms"),
        (Plan("3 cut lan-b; 4 protect; 5 cut lan-a; 8 end"),),
    ),
    Mutant(
        "no-grace-for-rivals",
        "A MASTER gives way as soon as another one speaks for its addresses, be it for a moment.",
        change(ENGINE, "return state.limits.rival_grace_ms", "return 0"),
        (Plan("3 cut lan-b; 4 protect; 5 cut lan-a; 5.1 heal lan-a; 8 end"),),
    ),
    Mutant(
        "waiting-for-ever",
        "Whoever waits for a living MASTER's disks goes on waiting when the election is over.",
        change(ENGINE, "if state.forced or (_entitled(state) and not outvoted):", "if now_ms > 0:"),
        (Plan("3 lose eth0 a; 5 carry eth0 a; 8 end"),),
    ),
    Mutant(
        "addresses-kept",
        "A standby that was elected keeps the addresses from a living MASTER whose links are back.",
        change(ENGINE, "outvoted = state.election.elected and", "outvoted = now_ms < 0 and"),
        (Plan("2 call a failover.update '{\"timeout\": 3}'; 4 protect; 5 cut lan-a; 6 heal lan-a; 12 end"),),
    ),
    Mutant(
        "unprivileged-leader",
        "The MASTER's priority in the election is not raised.",
        change(OBSERVER, "_PRIORITY_LEADING if leading else _PRIORITY[node]", "_PRIORITY[node]"),
        (Plan("3 kill a; 5 boot a; 14 protect; 14.5 cut heartbeat; 15 lose eth0 b; 17 carry eth0 b; 20 end"),),
    ),
    Mutant(
        "peer-facts-outlive-the-link",
        "What the other controller said last counts when the link to it is lost.",
        change(
            CONTROLLER,
            "        self.other = None\n        self._post_news(PeerChanged(None))\n",
            "",
        ),
        (Plan("3 freeze-daemon b; 8 end"),),
    ),
    Mutant(
        "elected-with-a-loss",
        "A group that is won counts as election, although another one is lost.",
        change(
            "plugins/failover/election.py",
            "return Election(elected=elected and lost is None, lost=lost)",
            "return Election(elected=True, lost=lost)",
        ),
        (Plan("3 lose eth0 a; 5 carry eth0 a; 8 end"), Plan("3 freeze a; 6 thaw a; 8 end")),
    ),
    Mutant(
        "late-pool-ignored",
        "A MASTER that began without a pool leaves one that appears where it is.",
        change(CONTROLLER, "and self.worker.found_none and bool(pools)", "and False"),
        (Scenario("074-a-pool-appears-late"),),
    ),
    Mutant(
        "disks-not-asked-for-before-opening",
        "Traffic is let in where the disks were lost while the services started.",
        change(WORKER, "if not await self._held():", "if False:"),
        (
            Plan(
                "3 set b service_hangs yes; 3.1 kill a; 4 set b keeper off; 4.2 boot a; 6 set a licensed no;"
                "6.5 set b service_hangs no; 9 end"
            ),
        ),
    ),
    Mutant(
        "open-without-a-keeper",
        "A daemon that is restarted and finds no keeper leaves traffic let in.",
        change(CONTROLLER, "            await self._shut()", "            pass"),
        (Scenario("075-a-daemon-that-finds-no-keeper"),),
    ),
)
