"""VRRPv3 after RFC 9568 section 6, for one virtual router, as a pure state machine.

    step(state, event, now_ms) -> (state, actions)

Added to the RFC, as keepalived does: a MASTER is never preempted by a BACKUP of higher priority (`nopreempt`), FAULT
while the link is down, STOP while the router does not take part. No router here owns its addresses (priority 255).
"""

from dataclasses import dataclass, replace

from middlewared.ports import Vrrp


@dataclass(frozen=True, slots=True)
class Router:
    """The configuration of one virtual router. `address` is our own primary address: it breaks ties."""

    router_id: int
    priority: int  # 1..254
    advert_ms: int
    address: int

    def skew_ms(self, advert_ms: int) -> float:
        """Skew_Time of 6.1: the higher the priority, the shorter."""
        return (256 - self.priority) * advert_ms / 256

    def down_ms(self, advert_ms: int) -> float:
        """Active_Down_Interval of 6.1: so much silence is the MASTER's death."""
        return 3 * advert_ms + self.skew_ms(advert_ms)


@dataclass(frozen=True, slots=True)
class State:
    router: Router
    phase: Vrrp = Vrrp.STOP
    link_up: bool = True
    participating: bool = False
    due_at_ms: float | None = None  # BACKUP: when the MASTER counts as dead; MASTER: when the next advert is due


@dataclass(frozen=True, slots=True)
class Advert:
    """An advertisement arrived. Priority 0: its sender stops being MASTER."""

    priority: int
    advert_ms: int
    address: int


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed; `due_at_ms` says when the next one is of use."""


@dataclass(frozen=True, slots=True)
class LinkChanged:
    up: bool


@dataclass(frozen=True, slots=True)
class Participate:
    wanted: bool


@dataclass(frozen=True, slots=True)
class Configured:
    """New parameters for the same router: it keeps its state."""

    router: Router


Event = Advert | Tick | LinkChanged | Participate | Configured


@dataclass(frozen=True, slots=True)
class SendAdvert:
    priority: int


@dataclass(frozen=True, slots=True)
class TakeAddresses:
    """Configure the virtual addresses and tell the network (gratuitous ARP)."""


@dataclass(frozen=True, slots=True)
class DropAddresses:
    pass


Action = SendAdvert | TakeAddresses | DropAddresses
Step = tuple[State, tuple[Action, ...]]


def step(state: State, event: Event, now_ms: float) -> Step:
    """One event. `now_ms` is monotonic."""
    match event:
        case Advert():
            return _advert(state, event, now_ms)
        case Tick():
            return _tick(state, now_ms)
        case LinkChanged(up):
            return _settle(replace(state, link_up=up), now_ms)
        case Participate(wanted):
            return _settle(replace(state, participating=wanted), now_ms)
        case Configured(router):
            return replace(state, router=router), ()


def _settle(state: State, now_ms: float) -> Step:
    """Follow the wish to take part and the link."""
    if not state.participating or not state.link_up:
        phase = Vrrp.FAULT if state.participating else Vrrp.STOP
        actions: tuple[Action, ...] = ()
        if state.phase is Vrrp.MASTER:
            # 6.4.3, shutdown: priority 0 spares the others the wait. Over a dead link it would reach nobody.
            actions = (SendAdvert(0), DropAddresses()) if state.link_up else (DropAddresses(),)
        return replace(state, phase=phase, due_at_ms=None), actions
    if state.phase in (Vrrp.STOP, Vrrp.FAULT):
        return _backup(state, state.router.advert_ms, now_ms), ()
    return state, ()


def _tick(state: State, now_ms: float) -> Step:
    if state.due_at_ms is None or now_ms < state.due_at_ms:
        return state, ()
    if state.phase is Vrrp.BACKUP:  # 6.4.2: Active_Down_Timer fired
        master = replace(state, phase=Vrrp.MASTER, due_at_ms=now_ms + state.router.advert_ms)
        return master, (SendAdvert(state.router.priority), TakeAddresses())
    return _assert_mastership(state, now_ms)  # 6.4.3: Adver_Timer fired


def _advert(state: State, advert: Advert, now_ms: float) -> Step:
    router = state.router
    if state.phase is Vrrp.BACKUP:  # 6.4.2
        if advert.priority == 0:
            return replace(state, due_at_ms=now_ms + router.skew_ms(advert.advert_ms)), ()
        return _backup(state, advert.advert_ms, now_ms), ()  # nopreempt: a lower priority is obeyed too
    if state.phase is Vrrp.MASTER:  # 6.4.3
        if (advert.priority, advert.address) > (router.priority, router.address) and advert.priority != 0:
            return _backup(state, advert.advert_ms, now_ms), (DropAddresses(),)
        asserted, actions = _assert_mastership(state, now_ms)
        if advert.priority == 0:  # the sender is leaving
            return asserted, actions
        return asserted, (*actions, TakeAddresses())  # it has to give way, and may have announced the addresses
    return state, ()


def _backup(state: State, advert_ms: int, now_ms: float) -> State:
    return replace(state, phase=Vrrp.BACKUP, due_at_ms=now_ms + state.router.down_ms(advert_ms))


def _assert_mastership(state: State, now_ms: float) -> Step:
    return replace(state, due_at_ms=now_ms + state.router.advert_ms), (SendAdvert(state.router.priority),)
