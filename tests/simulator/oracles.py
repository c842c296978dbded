"""What must hold, whatever the engine believes. They look at disks, kernels, traffic and copies, never at the engine's
opinion of them.

O0  no program fails
O1  never two writers: each accepted write comes from the controller that holds the disk's reservation (or, with
    more than half of the disks in hand, is about to take this one, too), and no write of an older import lands after
    one of a newer; and nobody stays admitted to the disks of a MASTER
O2  who lost the disks, or imported without them, is reset within RESET_MS of its running time; who has neither is not
O3  traffic is let in only where the disks are held and the pool is imported, and never in two places for long
O4  after the heal both stores hold the same, log included: each acknowledged change of the configuration once and in
    order, unless it was set aside with an alert; and when it is acknowledged the standby has it, or an alert says not
O5  empty reasons mean that the MASTER's death leads to a takeover (rehearse.py asks, in a forked world)
O6  after the heal there is exactly one MASTER within the bound, and it stays
O7  trouble on the standby's side, and daemon restarts, never depose or reset a MASTER
"""

from typing import TYPE_CHECKING, Any

from middlewared.lab.places import NIC_ADDRESS, NODES
from middlewared.plugins.fencing.logic import HOST_IDS
from middlewared.plugins.fencing.scsi_pr import host_of, is_parked

if TYPE_CHECKING:
    from tests.simulator.world import World

RESET_MS = 2500.0  # lost_ms, the sweep that finds it, and the keeper's slowest proof, with the keeper running
TWICE_MS = 2500.0  # of two open firewalls: the same bound, seen from outside
ADMITTED_MS = 3500.0  # until a MASTER has found and evicted another's key: twice lost_ms, and time to do it
IDLE_MS = 5000.0  # who has had neither disks nor pools for so long has nothing that a reset would protect
WATCH_MS = 50.0
_NOBODY = "nobody"
_NODE_OF = {HOST_IDS["A"]: "a", HOST_IDS["B"]: "b"}


def _owner(key: int) -> str:
    """Whose reservation a key stands for; a parked one belongs to nobody, and so may nobody write."""
    return _NOBODY if is_parked(key) else _NODE_OF[host_of(key)]


class Oracles:
    """Told of events by the world, and looking around every WATCH_MS."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._tenures = 0
        self._tenure_on: dict[int, int] = {}  # by disk: the newest import that wrote there
        self._holder_on: dict[int, str] = {}  # by disk: whose reservation was seen last
        self._forgotten: set[int] = set()  # disks of a target that restarted, not reserved again yet
        self._unreservable: set[int] = set()  # those of them that refuse to be
        self._stood_still: dict[int, set[str]] = {}  # by disk: when the target restarted, since it was last reserved
        self._absent: dict[str, set[int]] = {node: set() for node in NODES}  # when it began its last import
        self._unfit_ms = dict.fromkeys(NODES, 0.0)
        self._open_ms = dict.fromkeys(NODES, 0.0)
        self._admitted_ms: dict[int, float] = {}  # by disk: how long another's key was there, less how long it was not
        self._idle_ms = dict.fromkeys(NODES, 0.0)
        self._twice_ms = 0.0
        self.violation = ""  # the first rule that was broken, and how
        self.protected: str | None = None  # O7: this MASTER may not change
        self.changes: list[tuple[float, str, str, str]] = []
        self.resets = 0
        self.writes = 0

    def start(self) -> None:
        self._world.later(WATCH_MS, self._watch)

    def fail(self, rule: str, text: str) -> None:
        """Ends the run."""
        if not self.violation:
            self.violation = f"{rule} {text}"
            self._world.note(f"VIOLATION {self.violation}")
            self._world.loop.stop()

    def crashed(self, text: str) -> None:
        self.fail("O0", f"a program failed: {text}")

    # ------------------------------------------------------------------------------------------ O1

    def next_tenure(self, node: str) -> int:
        """An import begins: its writes are newer than those of all imports before."""
        self._tenures += 1
        self._absent[node] = set(self._world.fabric.pulled)
        return self._tenures

    def reserved(self, lun: int) -> None:
        """A reservation command was done: remember who holds the disk.

        Where the target restarted, whoever held the disk is about to reserve it again, or somebody else will.
        """
        key = self._world.shelf.reservations(lun).holder_key
        if key:
            self._forgotten.discard(lun)
            self._unreservable.discard(lun)
        if key or lun not in self._forgotten:
            self._holder_on[lun] = _owner(key) if key else _NOBODY

    def disk_removed(self, lun: int) -> None:
        """It does not come back: nobody holds it any more."""
        for by_disk in (self._holder_on, self._tenure_on, self._admitted_ms):
            by_disk.pop(lun, None)

    def target_restarted(self) -> None:
        """A target without APTPL has forgotten all reservations.

        A controller that stands still at that moment with the pool imported may write when it goes on, if nobody has
        reserved the disks again by then, whether the target restarts once more or not: no software on either side can
        prevent it (ARCHITECTURE, what is not proven).
        Nor on a disk that refuses to be reserved again, as a takeover tolerates of a tenth of them.
        """
        still = {node for node, controller in self._world.controllers.items() if controller.frozen}
        before = {lun: nodes for lun, nodes in self._stood_still.items() if lun in self._forgotten}
        self._forgotten = {disk.lun for disk in self._world.shelf.disks}
        self._stood_still = {lun: still | before.get(lun, set()) for lun in self._forgotten}

    def landed(self, node: str, lun: int, tenure: int, unreserved: bool = False) -> None:
        """A write was accepted by the medium. `unreserved`: nobody held the disk when the target let it in."""
        self.writes += 1
        kept = self._world.shelf.reservations(lun)
        holder = _owner(kept.holder_key) if kept.holder_key else self._holder_on.get(lun)
        if unreserved and (node in self._stood_still.get(lun, ()) or lun in self._unreservable):
            return  # see `target_restarted`
        if unreserved and tenure == self._tenures:
            return  # the disk is reserved by now, but nobody has begun an import that this write could spoil
        admitted = not kept.holder_key or node in {_NODE_OF[host_of(key)] for key in kept.keys.values()}
        # A restarted target is being reserved again, or a new disk for the first time; and no newer import has written
        # anywhere.
        forgot = holder in (_NOBODY, None) and tenure >= max(self._tenure_on.values(), default=0)
        if holder != node and not forgot and not (admitted and self.holds(node)):
            self.fail("O1", f"disk {lun} accepted a write of {node}, but {holder} holds it")
        newest = self._tenure_on.get(lun, 0)
        if tenure < newest:
            self.fail("O1", f"disk {lun} accepted a write of import {tenure} of {node} after one of import {newest}")
        self._tenure_on[lun] = max(tenure, newest)

    # ------------------------------------------------------------------------------------------ O2, O3

    def holds(self, node: str) -> bool:
        """More than half of the disks in the shelf are reserved by this controller, or forgot that they were.

        One that came after the import and refuses to be held counts only while another holds it who has the pool, too:
        otherwise no reset mends that.
        """
        world, fabric = self._world, self._world.fabric
        unwilling = {lun for lun in self._absent[node] & fabric.refusing if not self._held_with_a_pool(lun)}
        disks = [disk.lun for disk in world.shelf.disks if disk.lun not in fabric.pulled | unwilling]
        mine = sum(self._holder_on.get(lun) == node for lun in disks)
        return mine * 2 > len(disks)

    def _held_with_a_pool(self, lun: int) -> bool:
        """The holder that the disk knows has the pool imported."""
        key = self._world.shelf.reservations(lun).holder_key
        kernel = self._world.controllers[_owner(key)].kernel if key and not is_parked(key) else None
        return kernel is not None and kernel.pool.imported

    def _watch(self) -> None:
        world = self._world
        world.later(WATCH_MS, self._watch)
        self._unreservable |= self._forgotten & world.fabric.refusing
        serving = [node for node in NODES if world.serves(node)]
        for node in NODES:
            self._watch_one(node, node in serving)
            self._watch_keys(node)
        self._twice_ms = self._twice_ms + WATCH_MS if len(serving) == 2 else 0.0
        if self._twice_ms > TWICE_MS:
            self.fail("O3", f"clients reach both controllers for {self._twice_ms:.0f} ms")

    def _watch_one(self, node: str, serving: bool) -> None:
        controller = self._world.controllers[node]
        kernel, keeper = controller.kernel, controller.process("keeper")
        running = controller.powered and not controller.frozen and keeper is not None and not keeper.stops
        imported = kernel is not None and kernel.pool.imported
        elected = kernel is not None and any(map(kernel.speaker.held, NIC_ADDRESS[node]))  # it may be taking the disks
        if imported or elected or node in self._holder_on.values() or not running:
            self._idle_ms[node] = 0.0
        else:
            self._idle_ms[node] += WATCH_MS
        if not imported or self.holds(node):
            self._unfit_ms[node] = 0.0
        elif running:
            self._unfit_ms[node] += WATCH_MS
        if self._unfit_ms[node] > RESET_MS:
            self.fail("O2", f"{node} has the pool imported without holding the disks, and was not reset")
        without = kernel is not None and not kernel.pools()  # no pools at all: nothing to protect
        unfit = serving and not ((imported or without) and self.holds(node))
        self._open_ms[node] = self._open_ms[node] + WATCH_MS if unfit and running else 0.0
        if self._open_ms[node] > RESET_MS:
            self.fail("O3", f"{node} lets traffic in without holding the disks or without the pool")

    def _watch_keys(self, node: str) -> None:
        """Whoever is registered beside a MASTER could write: it may be about to take over, but not for long."""
        world = self._world
        controller, fabric = world.controllers[node], world.fabric
        kernel, keeper = controller.kernel, controller.process("keeper")
        running = controller.powered and not controller.frozen and keeper is not None and not keeper.stops
        reaches = node not in fabric.cut and node not in fabric.slow_ms
        if not (running and reaches and kernel is not None and kernel.pool.imported):
            return
        for lun in fabric.luns(node):
            kept = world.shelf.reservations(lun)
            if lun in fabric.hung | fabric.refusing or not kept.holder_key or _owner(kept.holder_key) != node:
                self._admitted_ms.pop(lun, None)
                continue
            beside = any(_NODE_OF[host_of(key)] != node for key in kept.keys.values())
            lasted_ms = max(0.0, self._admitted_ms.get(lun, 0.0) + (WATCH_MS if beside else -WATCH_MS))
            self._admitted_ms[lun] = lasted_ms
            if lasted_ms > ADMITTED_MS:
                self.fail("O1", f"disk {lun} is held by {node}, and goes on admitting the other controller")

    def opened(self, node: str) -> None:
        """The firewall lets traffic in from this instant."""
        kernel = self._world.controllers[node].kernel
        if kernel is None or not kernel.pool.imported:
            if kernel is not None and not kernel.pools():
                return  # there are no pools at all: nothing to protect
            self.fail("O3", f"{node} opens without the pool")
        elif not self.holds(node):
            self.fail("O3", f"{node} opens without holding the disks")

    def was_reset(self, node: str) -> None:
        self.resets += 1
        if self.protected == node:
            self.fail("O7", f"{node} was an untroubled MASTER, and is reset")
        if self._idle_ms[node] > IDLE_MS:
            self.fail("O2", f"{node} had neither disks nor pools, and is reset")

    # ------------------------------------------------------------------------------------------ O6, O7

    def role_changed(self, node: str, before: Any, after: Any) -> None:
        self.changes.append((self._world.now_s, node, str(before), str(after)))
        if str(after) == "MASTER":
            self._world.last_master = node
        if self.protected == node and str(before) == "MASTER":
            self.fail("O7", f"{node} was an untroubled MASTER, and becomes {after}")
