"""Broken replication: a change that one controller has alone, twice, or not at all, and nobody says so."""

from tests.mutants.entry import Mutant, Plan, change

REPLICATION_PY = "plugins/failover/replication.py"
DATABASE = "middlewared/store/database.py"
CHANGELOG = "middlewared/store/changelog.py"

WRITES = Plan("3 write a; 4 write a; 8 end")
WRITES_ALONE = Plan("3 cut heartbeat; 4 write a; 5 heal heartbeat; 12 end")
TWO_LINES = Plan("3 cut heartbeat; 4 write a; 4.5 kill a; 7 write b; 8 boot a; 10 heal heartbeat; 16 end")

REPLICATION: tuple[Mutant, ...] = (
    Mutant(
        "acknowledged-alone",
        "A client hears of its change before the standby has it.",
        change(REPLICATION_PY, "why = await self._wait_for(position)", 'why = ""'),
        (WRITES,),
    ),
    Mutant(
        "behind-and-silent",
        "No alert says that the standby lacks changes that clients were told of.",
        change(REPLICATION_PY, "position.seq)\n            self._tell(why)", "position.seq)"),
        (WRITES_ALONE,),
    ),
    Mutant(
        "never-caught-up",
        "A standby that comes back is not brought up to date.",
        change(
            REPLICATION_PY,
            "            self._acknowledge(theirs, theirs)\n        self.wake()",
            "            self._acknowledge(theirs, theirs)",
        ),
        (WRITES_ALONE,),
    ),
    Mutant(
        "standby-logs-nothing",
        "The standby makes the changes, and leaves them out of its own log.",
        change(CHANGELOG, "    append(connection, entry)\n    return", "    return"),
        (WRITES,),
    ),
    Mutant(
        "overwritten-without-a-copy",
        "What only a former MASTER has goes when it gets the other's configuration.",
        change(DATABASE, "if keep is not None and not contains", "if False and not contains"),
        (TWO_LINES,),
    ),
)
