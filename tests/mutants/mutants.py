"""The list of broken versions that the simulator has to notice."""

from tests.mutants.entry import Mutant
from tests.mutants.failover import FAILOVER
from tests.mutants.fencing import FENCING
from tests.mutants.replication import REPLICATION
from tests.mutants.verdict import VERDICT

MUTANTS: tuple[Mutant, ...] = (*FAILOVER, *FENCING, *REPLICATION, *VERDICT)
