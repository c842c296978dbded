"""The engine's events and actions in few words."""

from middlewared.plugins.failover.actions import Action, Answer, CloseTraffic, Participate, Perform, Reset
from middlewared.plugins.failover.events import (
    Asked,
    Configured,
    Discovered,
    Done,
    Elected,
    Event,
    FenceLost,
    PeerChanged,
    PoolsChanged,
    Tick,
)
from middlewared.plugins.failover.state import Config, Lost, PeerView
from middlewared.ports import FenceCode


def event(what: Event, phases: dict[int, str]) -> str:
    """`phases`: which operation number was which phase."""
    match what:
        case Discovered():
            return f"finds {_found(what)}"
        case Configured(config):
            return f"configured: {_config(config)}"
        case Elected(election):
            if election.lost is not None:
                return "lost the election: its links are down" if election.lost is Lost.LINK else "another is elected"
            return "elected" if election.elected else "nobody is elected"
        case PeerChanged(peer):
            return f"the other {_peer(peer)}"
        case PoolsChanged(late=True):
            return "a pool appeared, and it has none"
        case PoolsChanged(suspended):
            return "a pool is suspended" if suspended else "no pool is suspended"
        case FenceLost():
            return "reservations lost"
        case Done():
            return _done(what, phases.get(what.op, "?"))
        case Asked():
            return f"asked: {what.cause}"
        case Tick():
            return "time is up"


def action(what: Action, phases: dict[int, str]) -> str:
    """Empty for what a transition says already."""
    match what:
        case Perform():
            phases[what.op] = str(what.phase)
            return f"do {what.phase}{' by force' if what.forced else ''}"
        case Participate(wanted):
            return "takes part in the election" if wanted else "leaves the election"
        case CloseTraffic():
            return "keeps traffic out"
        case Reset():
            return "resets itself"
        case Answer():
            return f"answers: {what.refusal or ('done' if what.changed else 'nothing to do')}"


def _found(what: Discovered) -> str:
    pools = "every pool imported" if what.imported and what.complete else "a pool imported"
    held = "reservations held" if what.held else "no reservations"
    return f"{held}, {pools if what.imported else 'nothing imported'}, traffic {'let in' if what.open else 'kept out'}"


def _config(config: Config) -> str:
    words = ["failover enabled" if config.enabled else "failover disabled"] if config.available else ["no pair"]
    if config.designated:
        words.append("designated")
    if config.timeout_ms:
        words.append(f"patience {config.timeout_ms} ms")
    return ", ".join(words)


def _peer(peer: PeerView | None) -> str:
    if peer is None:
        return "is not reachable"
    outvoted = ", but has lost the election" if peer.outvoted else ""
    return f"{'leads' if peer.master else 'does not lead'}{'' if peer.could_lead else ', and could not'}{outvoted}"


def _done(what: Done, phase: str) -> str:
    if what.ok:
        return f"{phase} done{': ' + what.detail if what.detail else ''}"
    code = "" if what.code is FenceCode.OK else f" ({what.code.name})"
    return f"{phase} failed: {what.detail}{code}"
