"""Broken verdicts: failover is said to work when it would not."""

from tests.mutants.entry import Mutant, Plan, change

REASONS = "plugins/failover/reasons.py"
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
)
