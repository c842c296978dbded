"""The fault model: everything that may happen to the pair, and how a seed draws a plan of it.

    power           a controller loses power, and comes back; or an operator reboots it
    freeze          a controller stands still and then goes on as if nothing were; or its daemon or keeper alone
    crash           SIGKILL of a daemon or a keeper
    cable           heartbeat, a LAN cable, a cable to the shelf: out and in again, once or flapping
    loss            one direction of a wire loses everything; the carrier stays
    delay           a wire is slow, or lets datagrams overtake one another; the way to the disks is slow
    disk            a disk fails, hangs, is pulled, replaced by a blank one, or refuses reservation commands
    shelf           the target restarts and has forgotten every reservation
    pool            importing fails, hangs or takes long; exporting hangs; services do not start or stop
    keeper          fenced is not started again
    clock           a wall clock jumps
    operator        calls anything at any moment; changes the configuration
    upgrade         a controller runs another version, or wants a reboot; or both are upgraded in order
    boot            a controller does not finish booting; its heartbeat interface or a NIC is gone

The seed draws which kinds occur at all, how often, and how long they last (swarm testing): a run with many kinds of
faults at once hides what one with few of them shows.
"""

import dataclasses
import random
from collections.abc import Callable

_WHO_ALL = ("a", "b", "master", "standby")
_LINKS = ("heartbeat", "lan-a", "lan-b", "disks-a", "disks-b")


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """Commands (commands.py) with their times in ms since the start of the run; the later ones undo the first."""

    lines: tuple[tuple[float, str], ...]

    def __str__(self) -> str:
        return " ; ".join(f"{at_ms / 1000:.3f}s {line}" for at_ms, line in self.lines)


@dataclasses.dataclass(frozen=True, slots=True)
class Draw:
    """What a kind draws from: chance, the controllers that it may hit, and how long things last."""

    rng: random.Random
    who: tuple[str, ...]
    disks: int
    typical_ms: float

    def one(self, *choices: str) -> str:
        return self.rng.choice(choices)

    def node(self) -> str:
        return self.rng.choice(self.who)

    def span_ms(self) -> float:
        """Log-uniform around what is typical in this run."""
        return float(self.typical_ms * 10 ** self.rng.uniform(-1.5, 0.7))

    def disk(self) -> int:
        return self.rng.randrange(self.disks)


Lines = list[tuple[float, str]]


def _power(draw: Draw) -> Lines:
    node = draw.node()
    if draw.rng.random() < 0.3:
        return [(0, f"reboot {node}")]
    return [(0, f"kill {node}"), (draw.span_ms(), f"boot {node}")]


def _freeze(draw: Draw) -> Lines:
    node, what = draw.node(), draw.one("", "", "-daemon", "-keeper")
    return [(0, f"freeze{what} {node}"), (draw.span_ms(), f"thaw{what} {node}")]


def _crash(draw: Draw) -> Lines:
    return [(0, f"kill-{draw.one('daemon', 'keeper')} {draw.node()}")]


def _cable(draw: Draw) -> Lines:
    link = draw.one(*(link for link in _LINKS if link[-2:] not in ("-a", "-b") or link[-1] in _ends(draw)))
    lines: Lines = []
    at_ms = 0.0
    for _ in range(1 if draw.rng.random() < 0.7 else draw.rng.randint(2, 5)):
        lines.append((at_ms, f"cut {link}"))
        at_ms += draw.span_ms()
        lines.append((at_ms, f"heal {link}"))
        at_ms += draw.span_ms() / 5
    return lines


def _loss(draw: Draw) -> Lines:
    wire, node = draw.one("heartbeat", "eth0"), draw.node()
    return [(0, f"lose {wire} {node}"), (draw.span_ms(), f"carry {wire} {node}")]


def _delay(draw: Draw) -> Lines:
    wire, span_ms = draw.one("heartbeat", "eth0"), draw.span_ms()
    match draw.rng.randrange(3):
        case 0:
            return [(0, f"slow {wire} {draw.one('20', '80', '300')}"), (span_ms, f"slow {wire} 0")]
        case 1:
            return [(0, f"shuffle {wire}"), (span_ms, f"order {wire}")]
    node = draw.node()
    return [(0, f"slow-disks {node} {draw.one('5', '20', '60', '120')}"), (span_ms, f"slow-disks {node} 0")]


def _disk(draw: Draw) -> Lines:
    disk, span_ms = draw.disk(), draw.span_ms()
    begin, end = draw.rng.choice(
        [
            ("fail-disk", "repair-disk"),
            ("hang-disk", "free-disk"),
            ("pull-disk", "push-disk"),
            ("refuse-disk", "accept-disk"),
        ]
    )
    if begin == "pull-disk" and draw.rng.random() < 0.4:
        end = "replace-disk"
    return [(0, f"{begin} {disk}"), (span_ms, f"{end} {disk}")]


def _shelf(draw: Draw) -> Lines:
    return [(0, "restart-shelf")]


def _pool(draw: Draw) -> Lines:
    node = draw.node()
    name, value = draw.rng.choice(
        [
            ("import_fails", "yes"),
            ("import_hangs", "yes"),
            ("import_ms", "700"),
            ("export_hangs", "yes"),
            ("export_ms", "400"),
            ("service_hangs", "yes"),
        ]
    )
    usual = "0" if name.endswith("_ms") else "no"
    return [(0, f"set {node} {name} {value}"), (draw.span_ms(), f"set {node} {name} {usual}")]


def _keeper(draw: Draw) -> Lines:
    node = draw.node()
    return [(0, f"set {node} keeper off"), (draw.span_ms(), f"set {node} keeper on")]


def _clock(draw: Draw) -> Lines:
    return [(0, f"clock {draw.one(*_WHO_ALL)} {draw.one('-86400', '-3', '5', '100000')}")]


def _operator(draw: Draw) -> Lines:
    node = draw.node()
    calls = (
        "failover.force_master",
        "failover.become_passive",
        "failover.control '\"DISABLE\"' '{\"active\": true}'",
        "failover.control '\"DISABLE\"' '{\"active\": false}'",
        "failover.control '\"ENABLE\"' '{\"active\": true}'",
        "failover.update '{\"timeout\": 1}'",
        "failover.update '{\"timeout\": 0}'",
        "failover.sync_to_peer '{\"reboot\": false}'",
        "failover.sync_to_peer '{\"reboot\": true}'",
        "failover.sync_from_peer",
        "failover.status_refresh",
    )
    return [(0, f"call {node} {draw.one(*calls)}")]


def _change(draw: Draw) -> Lines:
    return [(draw.rng.uniform(0, 300), f"write {draw.one('a', 'b', 'master', 'master')}") for _ in range(3)]


def _upgrade(draw: Draw) -> Lines:
    node, span_ms = draw.node(), draw.span_ms()
    match draw.rng.randrange(3 if draw.who == ("a", "b") else 2):
        case 0:
            return [(0, f"set {node} reboot_reasons upgrade"), (span_ms, f"reboot {node}")]
        case 2:  # in order: the standby, a switchover, the other
            return [
                (0, "set standby version 0.2.0"),
                (0, "reboot standby"),
                (span_ms, "call master failover.become_passive"),
                (2 * span_ms, "set standby version 0.2.0"),
                (2 * span_ms, "reboot standby"),
            ]
    return [(0, f"set {node} version 0.2.0"), (span_ms, f"set {node} version 0.1.0")]


def _boot(draw: Draw) -> Lines:
    node = draw.node()
    name, value, usual = draw.rng.choice(
        [
            ("hold_boot", "yes", "no"),
            ("heartbeat_nic", "absent", "present"),
            ("nics", "eth0", "eth0,eth1"),
            ("nics", "eth1", "eth0,eth1"),
            ("licensed", "no", "yes"),
        ]
    )
    return [(0, f"set {node} {name} {value}"), (draw.span_ms(), f"set {node} {name} {usual}")]


KINDS: dict[str, Callable[[Draw], Lines]] = {
    "power": _power,
    "freeze": _freeze,
    "crash": _crash,
    "cable": _cable,
    "loss": _loss,
    "delay": _delay,
    "disk": _disk,
    "shelf": _shelf,
    "pool": _pool,
    "keeper": _keeper,
    "clock": _clock,
    "operator": _operator,
    "change": _change,
    "upgrade": _upgrade,
    "boot": _boot,
}

# What may hit the standby, or the pair, without the MASTER having the right to be troubled (O7).
HARMLESS = (
    "power",
    "freeze",
    "crash",
    "cable",
    "loss",
    "delay",
    "pool",
    "keeper",
    "clock",
    "change",
    "upgrade",
    "boot",
)


def _ends(draw: Draw) -> tuple[str, ...]:
    """Whose cables may be cut: both, or only the standby's, which cannot be named before the run."""
    return ("a", "b") if draw.who == ("a", "b") else ()


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """One run: what it draws from, the faults in the order of their beginning, and when the heal comes."""

    rates: dict[str, float]
    faults: tuple[Fault, ...]
    length_ms: float
    harmless: bool

    def describe(self) -> str:
        """The rates that the seed drew."""
        kinds = ", ".join(f"{name} {rate:.2f}" for name, rate in sorted(self.rates.items()))
        aim = "the standby only" if self.harmless else "either controller"
        return f"{len(self.faults)} faults in {self.length_ms / 1000:.0f} s at {aim}: {kinds}"


def draw_plan(seed: int, disks: int, settle_ms: float) -> Plan:
    """Everything that will happen, from the seed alone."""
    rng = random.Random(f"plan {seed}")
    harmless = rng.random() < 0.2
    kinds = [name for name in (HARMLESS if harmless else KINDS) if rng.random() < 0.5] or ["power"]
    rates = {name: rng.uniform(0.1, 1.0) for name in kinds}
    gap_ms = 10 ** rng.uniform(2.3, 4.0)
    length_ms = round(settle_ms + rng.uniform(6_000, 20_000))
    draw = Draw(rng, ("standby",) if harmless else ("a", "b"), disks, 10 ** rng.uniform(2.0, 4.2))
    faults: list[Fault] = []
    at_ms = settle_ms
    while True:
        at_ms += rng.expovariate(1 / gap_ms)
        if at_ms > length_ms or len(faults) >= 60:
            break
        kind = rng.choices(kinds, [rates[name] for name in kinds])[0]
        lines = KINDS[kind](draw)
        faults.append(Fault(tuple((round(at_ms + after_ms), line) for after_ms, line in lines)))
    return Plan(rates, tuple(faults), length_ms, harmless)
