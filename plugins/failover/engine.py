"""The failover engine: `step(state, event, now_ms) -> (state, actions)`. Pure; no clock, no I/O, no surprise.

An event is first absorbed into the state, then `_decide` looks at the whole state and begins what is due. So it does
not matter in which order the world tells its news.

Becoming MASTER:  [ASKING] FENCING IMPORTING STARTING OPENING
Giving up:        CLOSING STOPPING EXPORTING VERIFYING RELEASING

What a failing phase leads to stands in `_FAILED`; a missed deadline is a failure. Whoever may hold reservations and
cannot prove that its pools are exported resets the machine (DESIGN S3).
"""

from collections.abc import Callable
from dataclasses import replace

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
    Wish,
)
from middlewared.plugins.failover.state import Lost, Phase, Role, State
from middlewared.ports import FenceCode

Step = tuple[State, tuple[Action, ...]]

_GIVES_WAY = "The network links of this controller are down, and the other could lead: it gives the role back at once."
_NEXT = {
    Phase.ASKING: Phase.FENCING,
    Phase.FENCING: Phase.IMPORTING,
    Phase.IMPORTING: Phase.STARTING,
    Phase.STARTING: Phase.OPENING,
    Phase.CLOSING: Phase.STOPPING,
    Phase.STOPPING: Phase.EXPORTING,
    Phase.EXPORTING: Phase.VERIFYING,
    Phase.VERIFYING: Phase.RELEASING,
}


def step(state: State, event: Event, now_ms: int) -> Step:
    """Absorb one event, then begin whatever is due."""
    before = state.role
    state, actions = _absorb(state, event, now_ms)
    if state.role is Role.MASTER and before is not Role.MASTER and state.election.lost is not None:
        state = replace(state, lost_since_ms=now_ms)  # what was lost as BACKUP is not yet lost as MASTER
    for then in (_decide, _participation):
        if not any(isinstance(action, Reset) for action in actions):
            state, more = then(state, now_ms)
            actions += more
    return state, actions


def next_wake_ms(state: State) -> int | None:
    """When `step` wants a Tick even if nothing else happens."""
    since_ms, grace_ms = state.lost_since_ms, _grace_ms(state) if state.role is Role.MASTER else None
    gives_way_ms = None if since_ms is None or grace_ms is None else since_ms + grace_ms
    due = (state.deadline_ms, state.retry_at_ms, gives_way_ms)
    return min((at for at in due if at is not None), default=None)


# ------------------------------------------------------------------------------------------ absorbing events


def _absorb(state: State, event: Event, now_ms: int) -> Step:
    match event:
        case Discovered():
            return _discovered(state, event)
        case Configured(config):
            return replace(state, config=config), ()
        case Elected(election):
            same = election.lost is state.election.lost and state.lost_since_ms is not None
            since = state.lost_since_ms if same else now_ms  # a link that returned has ended the loss of the link
            return replace(state, election=election, lost_since_ms=None if election.lost is None else since), ()
        case PeerChanged(peer):
            return replace(state, peer=peer), ()
        case PoolsChanged(suspended, late):
            state = replace(state, suspended=suspended)
            return _import_late(state, now_ms) if late and state.role is Role.MASTER else (state, ())
        case FenceLost():
            if state.fenced and state.phase is not Phase.RELEASING:
                return state, (Reset("the reservations on the disks were lost"),)
            return state, ()
        case Done():
            return _done(state, event, now_ms)
        case Asked():
            return _asked(state, event, now_ms)
        case Tick():
            return _tick(state, now_ms)


def _discovered(state: State, found: Discovered) -> Step:
    """The first look around: a daemon that was restarted carries on where the former one was (DESIGN S5)."""
    if state.role is not Role.BOOTING:
        return state, ()
    if found.imported and not found.held:
        return state, (Reset("pools are imported here, but the reservations are not held"),)
    if found.held and found.complete and found.open:
        return replace(state, role=Role.MASTER, fenced=True, cause="middlewared was restarted"), ()
    if found.held and found.imported:
        return replace(state, role=Role.TAKING, fenced=True, cause="middlewared was restarted during a takeover"), ()
    if found.held:
        resting = replace(state, role=Role.YIELDING, fenced=True, cause="reservations without pools were left behind")
        return resting, (CloseTraffic(),)
    return replace(state, role=Role.BACKUP, cause="start"), (CloseTraffic(),)


def _import_late(state: State, now_ms: int) -> Step:
    state, actions = _enter(replace(state, role=Role.TAKING, cause="its pools appeared late"), Phase.IMPORTING, now_ms)
    return state, (CloseTraffic(), *actions)


def _done(state: State, done: Done, now_ms: int) -> Step:
    phase = state.phase
    if phase is None or done.op != state.op or state.deadline_ms is None:
        return state, ()  # late: the engine has moved on
    if not done.ok:
        return _FAILED[phase](state, done, now_ms)
    if phase is Phase.OPENING:
        refusal = _GIVES_WAY if _grace_ms(state) == 0 else ""
        return _arrived(state, Role.MASTER, changed=not refusal, refusal=refusal)
    if phase is Phase.RELEASING:
        return _released(state, now_ms)
    if phase is Phase.FENCING:
        state = replace(state, fenced=True, error="")
    return _enter(state, _NEXT[phase], now_ms)


def _asked(state: State, asked: Asked, now_ms: int) -> Step:
    wish, role = asked.wish, state.role
    if wish is Wish.FORCE_MASTER and role is Role.MASTER:
        return state, (Answer(asked.request, changed=False),)
    if wish is Wish.BECOME_PASSIVE and role is not Role.MASTER:
        return state, (Answer(asked.request, changed=False, refusal=f"This controller is not MASTER but {role}."),)
    if wish is Wish.FORCE_MASTER and _grace_ms(state) == 0:
        return state, (Answer(asked.request, changed=False, refusal=_GIVES_WAY),)
    waiting = role is Role.TAKING and state.phase is Phase.FENCING and state.deadline_ms is None
    if wish is Wish.FORCE_MASTER and not (role in (Role.BACKUP, Role.ERROR) or waiting):
        return state, (Answer(asked.request, changed=False, refusal=f"This controller is {role}: try again shortly."),)
    begun = replace(state, cause=asked.cause, request=asked.request, giving_up=False, error="", retry_at_ms=None)
    if wish is Wish.BECOME_PASSIVE:
        return _enter(replace(begun, role=Role.YIELDING), Phase.CLOSING, now_ms)
    first = Phase.ASKING if state.peer is not None and state.peer.master else Phase.FENCING
    older = () if state.request is None else (Answer(state.request, changed=False, refusal="It was asked for again."),)
    until_ms = now_ms + state.limits.force_ms + (state.limits.ask_ms if first is Phase.ASKING else 0)
    begun, actions = _enter(replace(begun, role=Role.TAKING, forced_until_ms=until_ms), first, now_ms)
    return begun, (*older, *actions)


def _tick(state: State, now_ms: int) -> Step:
    if state.deadline_ms is None or now_ms < state.deadline_ms:
        return state, ()
    overdue = Done(state.op, ok=False, detail=f"{state.phase} took too long")
    if state.phase is Phase.IMPORTING:
        # It may yet end, with nothing that says when: after the export, the verification and the release (S3).
        return _reset(state, overdue, now_ms)
    return _done(state, overdue, now_ms)


# ------------------------------------------------------------------------------------------ phases


def _enter(state: State, phase: Phase, now_ms: int) -> Step:
    """Begin a phase under a new operation number and its deadline."""
    limits = state.limits
    allowed_ms = {
        Phase.ASKING: limits.ask_ms,
        Phase.FENCING: limits.fence_ms,
        Phase.IMPORTING: limits.import_ms,
        Phase.STARTING: limits.services_ms,
        Phase.OPENING: limits.firewall_ms,
        Phase.CLOSING: limits.firewall_ms,
        Phase.STOPPING: limits.services_ms,
        Phase.EXPORTING: limits.export_ms,
        Phase.VERIFYING: limits.export_ms,
        Phase.RELEASING: limits.release_ms,
    }[phase]
    op = state.op + 1
    state = replace(state, phase=phase, op=op, deadline_ms=now_ms + allowed_ms, retry_at_ms=None)
    return state, (Perform(op, phase, state.forced and phase is Phase.FENCING),)


def _arrived(state: State, role: Role, *, changed: bool, refusal: str = "") -> Step:
    """The end of a way up or down: tell the operator, forget the way."""
    answers = () if state.request is None else (Answer(state.request, changed, refusal),)
    state = replace(state, role=role, phase=None, forced_until_ms=None, deadline_ms=None, giving_up=False, request=None)
    return state, answers


def _released(state: State, now_ms: int) -> Step:
    if state.giving_up:
        state = replace(state, fenced=False, retry_at_ms=now_ms + state.limits.error_retry_ms)
        state, answers = _arrived(state, Role.ERROR, changed=False, refusal=state.error)
    else:
        state = replace(state, fenced=False, retry_at_ms=now_ms + state.limits.stand_aside_ms)
        state, answers = _arrived(state, Role.BACKUP, changed=True)
    return state, (CloseTraffic(), *answers)  # once more: CLOSING may have failed


def _go_on(state: State, done: Done, now_ms: int) -> Step:
    """The step helps, but nothing depends on it."""
    phase = state.phase
    if phase is None:
        return state, ()
    return _enter(state, _NEXT[phase], now_ms)


def _take_by_force(state: State, done: Done, now_ms: int) -> Step:
    """The living MASTER did not hand over, and an operator said: force."""
    return _enter(state, Phase.FENCING, now_ms)


def _fencing_failed(state: State, done: Done, now_ms: int) -> Step:
    if done.code is FenceCode.PEER_ALIVE:
        # It is alive and holds the disks (S4): wait for it to give way, as long as the election is ours.
        later = now_ms + state.limits.fence_retry_ms
        return replace(state, error=done.detail, deadline_ms=None, retry_at_ms=later), ()
    if done.code is FenceCode.OK:  # no answer: we may hold something, so take the whole way down
        return _give_up(state, done, now_ms)
    state = replace(state, error=done.detail, retry_at_ms=now_ms + state.limits.error_retry_ms)
    return _arrived(state, Role.ERROR, changed=False, refusal=done.detail)


def _give_up(state: State, done: Done, now_ms: int) -> Step:
    """A takeover failed with reservations in hand: everything back, provably, then ERROR."""
    state = replace(state, role=Role.YIELDING, giving_up=True, fenced=True, error=done.detail, cause=done.detail)
    return _enter(state, Phase.CLOSING, now_ms)


def _reset(state: State, done: Done, now_ms: int) -> Step:
    """It cannot be proved that nothing here writes any more (S3)."""
    return replace(state, deadline_ms=None), (Reset(f"{state.phase} failed: {done.detail}"),)


_FAILED: dict[Phase, Callable[[State, Done, int], Step]] = {
    Phase.ASKING: _take_by_force,
    Phase.FENCING: _fencing_failed,
    Phase.IMPORTING: _give_up,
    Phase.STARTING: _go_on,
    Phase.OPENING: _give_up,
    Phase.CLOSING: _go_on,
    Phase.STOPPING: _go_on,
    Phase.EXPORTING: _reset,
    Phase.VERIFYING: _reset,
    Phase.RELEASING: _reset,
}


# ------------------------------------------------------------------------------------------ deciding


def _decide(state: State, now_ms: int) -> Step:
    """Begin what the whole picture calls for; at most one thing."""
    if state.config is None:
        return state, ()
    match state.role:
        case Role.TAKING if state.phase is None:  # found at start with the fence held
            return _enter(state, Phase.IMPORTING, now_ms)
        case Role.YIELDING if state.phase is None:  # likewise, with nothing imported
            return _enter(state, Phase.CLOSING, now_ms)
        case Role.TAKING if state.phase is Phase.FENCING and state.deadline_ms is None:
            return _retry_fencing(state, now_ms)
        case Role.ERROR if _due(state, now_ms):
            return _decide(replace(state, role=Role.BACKUP, retry_at_ms=None, cause="trying again"), now_ms)
        case Role.BACKUP:
            return _maybe_take(state, now_ms)
        case Role.MASTER if state.suspended and _replaceable(state):
            # It serves nobody, and cannot export: the other takes over from a dead controller, not from a stuck one.
            return replace(state, cause="its pools are suspended"), (Reset("a pool is suspended, the other can lead"),)
        case Role.MASTER:
            return _maybe_yield(state, now_ms)
        case _:
            return state, ()


def _due(state: State, now_ms: int) -> bool:
    return state.retry_at_ms is None or now_ms >= state.retry_at_ms


def _entitled(state: State) -> bool:
    """The role falls to this controller: the network elected it, or there is no pair and it is the designated one."""
    config = state.config
    if config is None:
        return False
    if not config.available:
        return config.designated
    return state.election.elected and (config.enabled or config.designated)


def _retry_fencing(state: State, now_ms: int) -> Step:
    """Wait for a living MASTER to give way. If its links return before it does, it gets the addresses back: it does not
    preempt the one who was elected meanwhile, so that one leaves the election until the MASTER is heard (_maybe_take).
    """
    answers: tuple[Action, ...] = ()
    if state.forced_until_ms is not None and now_ms >= state.forced_until_ms:
        state, answers = _force_in_vain(state)
    outvoted = state.election.elected and state.peer is not None and state.peer.outvoted
    if state.forced or (_entitled(state) and not outvoted):
        state, actions = _enter(state, Phase.FENCING, now_ms) if _due(state, now_ms) else (state, ())
    else:
        aside_until_ms = now_ms + state.limits.stand_aside_ms if outvoted else None
        state = replace(state, retry_at_ms=aside_until_ms, cause="the other controller is alive and keeps the role")
        state, actions = _arrived(state, Role.BACKUP, changed=False, refusal=state.error)
    return state, answers + actions


def _force_in_vain(state: State) -> Step:
    """From here on it waits like any other that was elected, or not at all."""
    refusal = f"The disks could not be taken by force either: {state.error}."
    answers = () if state.request is None else (Answer(state.request, changed=False, refusal=refusal),)
    return replace(state, forced_until_ms=None, request=None), answers


def _maybe_take(state: State, now_ms: int) -> Step:
    pair = state.config is not None and state.config.available
    replaced = pair and state.peer is not None and state.peer.master and not state.election.elected
    if state.retry_at_ms is not None and (_due(state, now_ms) or replaced):
        state = replace(state, retry_at_ms=None)  # the other has taken over, or had its time
    if state.retry_at_ms is not None or not _entitled(state):
        return state, ()
    cause = "elected on the network" if pair else "no pair: designated"
    return _enter(replace(state, role=Role.TAKING, cause=cause, error=""), Phase.FENCING, now_ms)


def _grace_ms(state: State) -> int | None:
    """How long a MASTER that lost the election waits before it gives way; None: it stays, whatever happens."""
    config, lost = state.config, state.election.lost
    if config is None or lost is None or not config.available or (config.designated and not config.enabled):
        return None
    if lost is Lost.RIVAL:
        return state.limits.rival_grace_ms
    if state.peer is None:  # it cannot ask: perhaps the other is elected and waits for the disks
        return max(config.timeout_ms, state.limits.isolated_grace_ms)
    return config.timeout_ms if state.peer.could_lead else None


def _replaceable(state: State) -> bool:
    """The other controller would take over, if this MASTER were dead."""
    config, peer = state.config, state.peer
    return bool(config and config.available and config.enabled and peer and peer.could_lead)


def _maybe_yield(state: State, now_ms: int) -> Step:
    grace_ms = _grace_ms(state)
    if grace_ms is None or state.lost_since_ms is None or now_ms < state.lost_since_ms + grace_ms:
        return state, ()
    cause = "its network links are down" if state.election.lost is Lost.LINK else "the other controller was elected"
    return _enter(replace(state, role=Role.YIELDING, cause=cause), Phase.CLOSING, now_ms)


def _participation(state: State, now_ms: int) -> Step:
    """Who may be elected: whoever leads, or could and may lead now."""
    config = state.config
    if config is None or state.role is Role.BOOTING:
        return state, ()
    match state.role:
        case Role.MASTER | Role.TAKING:
            wanted = True
        case Role.YIELDING:  # keeps the (closed) addresses to the end, so that the other starts when the disks are free
            wanted = not state.giving_up
        case Role.BACKUP:
            wanted = config.available and (config.enabled or config.designated) and state.retry_at_ms is None
        case _:
            wanted = False
    if wanted == state.participating:
        return state, ()
    return replace(state, participating=wanted), (Participate(wanted),)
