"""The VRRP speaker of one machine: gives the pure state machine of vrrp.py a clock and a network."""

import asyncio
import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from middlewared.lab import vrrp
from middlewared.ports import Vrrp


@dataclass(slots=True)
class _Instance:
    state: vrrp.State
    virtual: tuple[str, ...]  # "ip/prefix"
    timer: asyncio.TimerHandle | None = None


class Speaker:
    """All virtual routers of one machine, one a NIC at most.

    `send_advert(nic, advert)` puts an advert on the wire; `on_change(announce)` says that states or addresses changed,
    with the (nic, address) pairs to announce by gratuitous ARP.
    """

    def __init__(
        self,
        own_addresses: dict[str, str],
        send_advert: Callable[[str, dict[str, Any]], None],
        on_change: Callable[[list[tuple[str, str]]], None],
    ) -> None:
        self._own = {nic: int(ipaddress.ip_address(address)) for nic, address in own_addresses.items()}
        self._send_advert = send_advert
        self._on_change = on_change
        self._links: dict[str, bool] = dict.fromkeys(own_addresses, False)
        self._instances: dict[str, _Instance] = {}
        self._loop = asyncio.get_running_loop()
        self.participating = False

    def states(self) -> dict[str, Vrrp]:
        return {nic: instance.state.phase for nic, instance in self._instances.items()}

    def held(self, nic: str) -> tuple[str, ...]:
        """The virtual addresses that the NIC has now."""
        instance = self._instances.get(nic)
        return instance.virtual if instance is not None and instance.state.phase is Vrrp.MASTER else ()

    def configure(self, rows: Sequence[dict[str, Any]]) -> None:
        """Replace the instances. One whose NIC and router id stay keeps its state (a reload, not a restart)."""
        wanted = {row["interface"]: row for row in rows if row["interface"] in self._own}
        for nic in [nic for nic in self._instances if nic not in wanted]:
            self._feed(nic, vrrp.Participate(False))
            del self._instances[nic]
        announce: list[tuple[str, str]] = []
        for nic, row in wanted.items():
            announce += self._configure_one(nic, row)
        self._on_change(announce)

    def participate(self, wanted: bool) -> None:
        self.participating = wanted
        for nic in list(self._instances):
            self._feed(nic, vrrp.Participate(wanted))

    def link(self, nic: str, up: bool) -> None:
        if self._links.get(nic) == up:
            return
        self._links[nic] = up
        if nic in self._instances:
            self._feed(nic, vrrp.LinkChanged(up))

    def advert(self, nic: str, message: dict[str, Any]) -> None:
        """An advert arrived on the NIC; those of other virtual routers are not ours."""
        instance = self._instances.get(nic)
        if instance is not None and message["router_id"] == instance.state.router.router_id:
            self._feed(nic, vrrp.Advert(message["priority"], message["advert_ms"], message["address"]))

    def _configure_one(self, nic: str, row: dict[str, Any]) -> list[tuple[str, str]]:
        """Returns the addresses that a MASTER gained."""
        router = vrrp.Router(row["router_id"], row["priority"], row["advert_ms"], self._own[nic])
        virtual = tuple(row["addresses"])
        instance = self._instances.get(nic)
        if instance is not None and instance.state.router.router_id == router.router_id:
            gained = [address for address in virtual if address not in instance.virtual]
            instance.virtual = virtual
            self._feed(nic, vrrp.Configured(router))
            return [(nic, address) for address in gained] if instance.state.phase is Vrrp.MASTER else []
        if instance is not None:
            self._feed(nic, vrrp.Participate(False))
        self._instances[nic] = _Instance(vrrp.State(router, link_up=self._links[nic]), virtual)
        self._feed(nic, vrrp.Participate(self.participating))
        return []

    def _feed(self, nic: str, event: vrrp.Event) -> None:
        instance = self._instances[nic]
        before = instance.state.phase
        instance.state, actions = vrrp.step(instance.state, event, self._loop.time() * 1000)
        announce: list[tuple[str, str]] = []
        for action in actions:
            if isinstance(action, vrrp.SendAdvert):
                self._send(nic, instance.state.router, action.priority)
            elif isinstance(action, vrrp.TakeAddresses):
                announce = [(nic, address) for address in instance.virtual]
        self._arm(nic, instance)
        if announce or instance.state.phase is not before:
            self._on_change(announce)

    def _send(self, nic: str, router: vrrp.Router, priority: int) -> None:
        self._send_advert(
            nic,
            {
                "router_id": router.router_id,
                "priority": priority,
                "advert_ms": router.advert_ms,
                "address": router.address,
            },
        )

    def _arm(self, nic: str, instance: _Instance) -> None:
        if instance.timer is not None:
            instance.timer.cancel()
            instance.timer = None
        due_at_ms = instance.state.due_at_ms
        if due_at_ms is not None:
            instance.timer = self._loop.call_at(due_at_ms / 1000, self._tick, nic, instance)

    def _tick(self, nic: str, instance: _Instance) -> None:
        if self._instances.get(nic) is instance:
            self._feed(nic, vrrp.Tick())
