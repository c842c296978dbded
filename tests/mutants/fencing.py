"""Broken keepers: how the disks are taken, watched, kept and given back."""

from tests.mutants.entry import Edit, Mutant, Plan, change

GUARD = "plugins/fencing/guard.py"
HOLDER = "plugins/fencing/holder.py"
LOGIC = "plugins/fencing/logic.py"
TAKEOVER = "plugins/fencing/takeover.py"
PULSE = "plugins/fencing/pulse.py"

# The MASTER lives and writes, its daemon does not answer, and an operator says: force.
BY_FORCE = Plan("3 freeze-daemon a; 3.5 call b failover.force_master; 9 end")
# The MASTER dies, and what it wrote last has not yet reached the medium.
DYING_WRITES = "2.9 slow-disks a 240; 3 slow-disks a 3000; 3 kill a; 7 end"
# Both controllers boot at once, hear nothing of one another, and find disks that know nobody.
BOTH_TAKE = (
    "3 kill a; 3 kill b; 3.1 restart-shelf; 3.2 cut heartbeat; 3.2 lose eth0 a; 3.2 lose eth0 b; 4 boot a; 4 boot b;"
    "4.2 slow-disks a {a_ms}; 4.2 slow-disks b {b_ms}; 8 expect master a"
)
# The other is elected, and has to see that the MASTER lives.
UNHEARD = Plan("3 protect; 3.1 lose eth0 a; 6 carry eth0 a")

FENCING: tuple[Mutant, ...] = (
    Mutant(
        "standby-registers-in-advance",
        "A standby registers its key on the disks, and so is admitted to write.",
        change(
            GUARD,
            "            keys = await read_keys(disk, self._holder.timeout_ms)\n",
            "            keys = await read_keys(disk, self._holder.timeout_ms)\n"
            "            if not Reading(0, keys, None).own(self._host_id):\n"
            "                from middlewared.plugins.fencing.takeover import _register\n\n"
            "                await _register(disk, make_key(self._host_id, 1), self._holder.timeout_ms)\n",
        ),
        (Plan("8 end"),),
    ),
    Mutant(
        "preempt-without-abort",
        "A dead controller's queued writes land after its disks were taken.",
        change(TAKEOVER, "*scsi_pr.preempt(key, victim, abort=True)", "*scsi_pr.preempt(key, victim)"),
        (Plan(DYING_WRITES),),
    ),
    Mutant(
        "bare-preempt-without-reset",
        "The same, where the target knows no PREEMPT AND ABORT.",
        change(
            TAKEOVER,
            "            await path.lun_reset(timeout_ms)\n    if reply.status not in",
            "            pass\n    if reply.status not in",
        ),
        (Plan(DYING_WRITES, tgt=True),),
    ),
    Mutant(
        "not-read-back",
        "Nobody looks whether the disks were really taken.",
        change(TAKEOVER, "if settled(now, key):", "if now:"),
        # The victim shows life while the other one is between reading and evicting.
        tuple(
            Plan(f"2.9 slow-disks b {slow_ms}; 3 freeze-daemon a; 3.5 call b failover.force_master; 9 end")
            for slow_ms in (20, 30)
        ),
    ),
    Mutant(
        "living-peer-robbed",
        "A key that moves on the disks does not prevent a takeover.",
        change(
            GUARD,
            'return FenceResult(FenceCode.PEER_ALIVE, "the other controller\'s key is still moving on the disks")',
            "return None",
        ),
        (UNHEARD,),
    ),
    Mutant(
        "forgotten-disks-taken-at-once",
        "A standby takes disks that have just forgotten their reservations, while their holder registers again.",
        change(GUARD, "self._peer_forgotten(readings) or await self._peer_alive", "await self._peer_alive"),
        tuple(
            Plan(f"2 slow-disks a 120; 3 restart-shelf; {at_s} lose eth0 a; 6 carry eth0 a; 9 end")
            for at_s in (3.05, 3.1)
        ),
    ),
    Mutant(
        "peer-alive-ignored",
        "Nobody looks whether the other controller's key moves.",
        change(GUARD, "if not any(foreign.values()):", "if True:"),
        (UNHEARD,),
    ),
    Mutant(
        "movement-not-seen",
        "A key that changes does not count as moving.",
        change(LOGIC, "if keys - seen.keys:", "if keys - seen.keys and now_ms < 0:"),
        (UNHEARD,),
    ),
    Mutant(
        "a-moment-is-enough",
        "A key that did not change for an instant counts as that of a dead controller.",
        change(LOGIC, "all(seen.until_ms - seen.since_ms >= self.alive_ms for seen in shown)", "shown"),
        (Plan("3 protect; 3.1 freeze-keeper b; 3.15 lose eth0 a; 4.51 thaw-keeper b; 7 carry eth0 a"),),
    ),
    Mutant(
        "preempted-keeper-lives-on",
        "A keeper that finds its disks taken does not reset its controller.",
        (
            Edit(LOGIC, "return Finding.TAKEN", "return Finding.OURS"),
            Edit(LOGIC, "return Finding.FORGOTTEN if forgotten else Finding.GONE", "return Finding.OURS"),
            Edit(
                HOLDER,
                "        own = reading.own(self._host_id)\n",
                "        own = reading.own(self._host_id) or (1,)\n",
            ),
        ),
        (BY_FORCE,),
    ),
    Mutant(
        "lost-time-not-noticed",
        "A controller that stood still goes on as if nothing were.",
        change(PULSE, "if late_ms > self._late_ms:", "if late_ms < 0 < -self._late_ms:"),
        tuple(
            Plan(
                # What it read of a dead MASTER's disks is on its way while it stands still, and that one leads again.
                "3 call a failover.become_passive; 14 slow-disks a 400; 16 kill b;"
                f"{at} freeze a; 17.5 boot b; 24 slow-disks a 0; 25 protect; 26 thaw a; 31 end"
            )
            for at in (17.2, 17.15, 17.25, 17.3)
        ),
    ),
    Mutant(
        "keeper-reset-not-carried-out",
        "The keeper says that it lost the disks, and does not reset its controller.",
        change(GUARD, "        self._reset(reason)\n", ""),
        (BY_FORCE,),
    ),
    Mutant(
        "beat-lets-itself-back-in",
        "The heartbeat registers whatever was registered before, also after a preemption.",
        change(HOLDER, "scsi_pr.register, old, new, aptpl=aptpl", "scsi_pr.register_and_ignore, new, aptpl=aptpl"),
        # Where in its period of 200 ms the MASTER's next write is, decides.
        tuple(
            Plan(
                f"2.9 slow-disks a 60; 3 freeze-daemon a; {at} call b failover.force_master; 3.9 slow-disks a 0; 9 end"
            )
            for at in (3.6, 3.62, 3.65, 3.7)
        ),
    ),
    Mutant(
        "released-disks-are-open",
        "Whoever gives the disks up leaves them to anybody, also to one that was frozen all the time.",
        change(TAKEOVER, "path, scsi_pr.register, key, parked, aptpl", "path, scsi_pr.register, key, 0, aptpl"),
        (Plan("3 freeze a; 3.32 cut lan-b; 3.55 thaw a; 8 end"),),
    ),
    Mutant(
        "memory-not-forgotten",
        "A keeper that is restarted after a release defends what it gave up.",
        change(GUARD, "            self._memory.forget()  # first", "            # first"),
        (Plan("3 call a failover.become_passive; 12 kill-keeper a; 15 expect resets 0"),),
    ),
    Mutant(
        "memory-not-saved",
        "A keeper that is restarted does not know that it holds the disks.",
        change(
            GUARD, "        self._memory.save(self._host_id, self._holder.floor, self._holder.serials)", "        pass"
        ),
        (Plan("3 protect; 4 kill-keeper a"),),
    ),
    Mutant(
        "failures-tolerated",
        "A takeover leaves more than half of the disks behind.",
        change(LOGIC, "FAILURES_PERCENT_MAX = 10", "FAILURES_PERCENT_MAX = 60"),
        (Plan("3 refuse-disk 0; 3.1 refuse-disk 1; 4 kill a; 8 end"),),
    ),
    Mutant(
        "blind-master-stays",
        "A MASTER that does not see its disks any more keeps the role.",
        change(LOGIC, "return unseen if len(unseen) * 2 > len(waiting_ms) else []", "return []"),
        (Plan("3 cut heartbeat; 4 cut disks-a; 9 expect master b"),),
    ),
    Mutant(
        "contest-not-noticed",
        "Whoever ranks lower does not step back when both take the disks at once.",
        change(
            TAKEOVER,
            "        if rivals:\n            raise Contested",
            "        if rivals and not now:\n            raise Contested",
        ),
        tuple(Plan(BOTH_TAKE.format(a_ms=20.5, b_ms=20), seed) for seed in (1, 2)),
    ),
    Mutant(
        "nobody-gives-way",
        "Two that take the disks at once both let go, and both try again at once.",
        (
            Edit(TAKEOVER, "for one in came if one == held or host_of(one) < own)", "for one in came)"),
            Edit(GUARD, "if any(rival < self._host_id for rival in taken.rivals):", "if taken.rivals and not key:"),
        ),
        tuple(Plan(BOTH_TAKE.format(a_ms=20, b_ms=20), seed) for seed in (1, 2)),
    ),
    Mutant(
        "victim-keeps-its-key",
        "The disks are reserved without throwing out who was there.",
        change(TAKEOVER, "victims = {other for other in now.keys if other != key}", "victims: set[int] = set()"),
        (Plan("3 kill a; 6 end"),),
    ),
    Mutant(
        "shared-disks-are-enough",
        "A disk counts as taken while another controller is still registered on it.",
        (
            Edit(LOGIC, "and set(reading.keys) == {key}", "and key in reading.keys"),
            Edit(TAKEOVER, "    for victim in sorted(victims):", "    for victim in sorted(victims)[:0]:"),
            Edit(TAKEOVER, "(held.key not in victims and held.key != key)", "held.key != key"),
        ),
        (Plan("3 kill a; 6 end"),),
    ),
)
