"""Many VRRP instances, one answer: is this controller elected, or has it lost?

Critical interfaces are folded by failover group: a group fails over only when none of its members holds on. An
interface without a group is a group of its own.
"""

from collections.abc import Iterable

from middlewared.plugins.failover.facts import InterfaceFacts
from middlewared.plugins.failover.state import Election, Lost
from middlewared.ports import Vrrp


def fold(interfaces: Iterable[InterfaceFacts]) -> Election:
    """Elected when every member of some group that can be is MASTER; lost when no member of some group is.

    Members whose link is down (FAULT) do not prevent an election that the others of their group have won. Nothing is
    decided while no VRRP speaker runs (states None): a crash of the speaker is no vote.
    """
    groups: dict[int | str, list[Vrrp]] = {}
    for interface in interfaces:
        if interface.critical and interface.virtual_addresses and interface.vrrp is not None:
            key = interface.group if interface.group is not None else interface.name
            groups.setdefault(key, []).append(interface.vrrp)
    elected = False
    lost: Lost | None = None
    for states in groups.values():
        able = [state for state in states if state is not Vrrp.FAULT]
        if able and all(state is Vrrp.MASTER for state in able):
            elected = True
        if not any(state is Vrrp.MASTER for state in states) and Vrrp.STOP not in states:
            lost = Lost.RIVAL if able else (lost or Lost.LINK)
    return Election(elected=elected and lost is None, lost=lost)
