"""Broken verdicts: failover is said to work when it would not, or a status that is not so."""

from tests.mutants.entry import Mutant, Plan, Scenario, change

REASONS = "plugins/failover/reasons.py"
STATUS = "plugins/failover/status.py"
NEVER = "lambda mine, other: False"

VERDICT: tuple[Mutant, ...] = (
    Mutant(
        "no-pong-never-holds",
        "A controller that does not answer is no reason.",
        change(REASONS, "lambda mine, other: other is None", NEVER),
        (Plan("3 freeze-daemon b; 8 end"),),
    ),
    Mutant(
        "no-fenced-never-holds",
        "A standby without its keeper is no reason.",
        change(REASONS, "lambda mine, other: _unfenced(mine) or (other is not None and _unfenced(other))", NEVER),
        (Plan("3 set b keeper off; 8 end"),),
    ),
    Mutant(
        "no-fenced-of-the-other-ignored",
        "Only this controller's keeper counts.",
        change(
            REASONS,
            "_unfenced(mine) or (other is not None and _unfenced(other))",
            "_unfenced(mine)",
        ),
        (Plan("3 set b keeper off; 8 end"),),
    ),
    Mutant(
        "mismatch-disks-never-holds",
        "A standby that does not see the disks is no reason.",
        change(
            REASONS,
            "mine.too_few_disks or (other is not None and (other.too_few_disks or mine.disks != other.disks))",
            "False",
        ),
        (Plan("3 cut disks-b; 8 end"),),
    ),
    Mutant(
        "too-few-disks-ignored",
        "So many failed disks that a takeover would be refused are no reason, if both see the same.",
        change(
            REASONS,
            "mine.too_few_disks or (other is not None and (other.too_few_disks or mine.disks != other.disks))",
            "other is not None and mine.disks != other.disks",
        ),
        (Plan("3 hang-disk 0; 7 end"),),
    ),
    Mutant(
        "disagree-vip-never-holds",
        "A standby that could not speak for the virtual address is no reason.",
        change(REASONS, "        _disagree_vip,\n", f"        {NEVER},\n"),
        (Plan("3 cut lan-b; 8 end"),),
    ),
    Mutant(
        "disagree-vip-without-a-standby",
        "It is enough that somebody speaks for the virtual address.",
        change(REASONS, "if states != {Vrrp.MASTER, Vrrp.BACKUP}:", "if Vrrp.MASTER not in states:"),
        (Plan("3 cut lan-b; 8 end"),),
    ),
    Mutant(
        "disagree-vip-whoever-leads",
        "It does not matter whether the one who speaks for the addresses is the MASTER.",
        change(REASONS, "if (interface.vrrp is Vrrp.MASTER) != (mine.role is Role.MASTER):", "if False:"),
        (
            Scenario("055-daemon-killed-while-giving-up"),
            Scenario("112-reason-failover-ongoing"),
        ),
    ),
    Mutant(
        "licence-of-the-other-ignored",
        "Only this controller's licence counts.",
        change(REASONS, "not mine.licensed or (other is not None and not other.licensed)", "not mine.licensed"),
        (Scenario("105-reason-no-license"),),
    ),
    Mutant(
        "no-licence-never-holds",
        "A missing licence is no reason.",
        change(REASONS, "not mine.licensed or (other is not None and not other.licensed)", "False"),
        (Scenario("105-reason-no-license"),),
    ),
    Mutant(
        "no-failover-never-holds",
        "That an administrator disabled failover is no reason.",
        change(REASONS, "lambda mine, other: mine.disabled", NEVER),
        (Scenario("104-reason-no-failover"),),
    ),
    Mutant(
        "no-system-ready-never-holds",
        "A standby that has not finished booting is no reason.",
        change(REASONS, "lambda mine, other: not mine.ready or (other is not None and not other.ready)", NEVER),
        (Scenario("102-reason-no-system-ready"),),
    ),
    Mutant(
        "no-carrier-never-holds",
        "A heartbeat cable that is out is no reason.",
        change(REASONS, "lambda mine, other: mine.heartbeat_exists and not mine.heartbeat_carrier", NEVER),
        (Scenario("114-reason-no-carrier-on-heartbeat"),),
    ),
    Mutant(
        "mismatch-versions-never-holds",
        "Two controllers with different software are no reason.",
        change(REASONS, "lambda mine, other: other is not None and mine.version != other.version", NEVER),
        (Scenario("108-reason-mismatch-versions"),),
    ),
    Mutant(
        "ongoing-failover-does-not-stand-alone",
        "While a failover runs here, the other local reasons are told too.",
        change(REASONS, "    if mine.ongoing:\n        holding", "    if False:\n        holding"),
        (Scenario("033-an-isolated-master"),),
    ),
    Mutant(
        "failover-of-the-other-ignored",
        "That the other controller is busy with a failover is no reason.",
        change(REASONS, "lambda mine, other: other is not None and other.ongoing", NEVER),
        (Scenario("112-reason-failover-ongoing"),),
    ),
    Mutant(
        "rival-on-the-disks-not-a-master",
        "A standby that hears nothing says UNKNOWN, although it sees on the disks that the other one leads.",
        change(STATUS, "    if mine.rival_moving:", "    if False:"),
        (Scenario("030-heartbeat-cut"),),
    ),
    Mutant(
        "nobody-leads-and-nobody-says-so",
        "Two controllers at rest with failover disabled call themselves standbys.",
        change(STATUS, "if other.ready and other.role in (Role.ERROR, Role.BACKUP) and mine.disabled:", "if False:"),
        (Scenario("065-disable-failover-and-keep-the-master"),),
    ),
    Mutant(
        "failed-takeover-hidden",
        "A controller whose takeover failed calls itself standby.",
        change(
            STATUS,
            "            return Status.ERROR\n        case Role.BOOTING",
            "            return Status.BACKUP\n        case Role.BOOTING",
        ),
        (Scenario("210-importing-fails"),),
    ),
    Mutant(
        "single-without-virtual-address-not-seen",
        "Two controllers without a virtual address call themselves a pair.",
        change(STATUS, "if not mine.licensed or not mine.virtual:", "if not mine.licensed:"),
        (Scenario("101-reason-no-vip"),),
    ),
    Mutant(
        "own-boot-not-said",
        "A controller that is still booting does not say so of itself.",
        change(
            REASONS,
            "not mine.ready or (other is not None and not other.ready)",
            "other is not None and not other.ready",
        ),
        (Plan("3 set b hold_boot yes; 3.5 kill-daemon b; 6 kill a; 9 end"), Scenario("102-reason-no-system-ready")),
    ),
)
