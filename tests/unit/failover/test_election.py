from middlewared.plugins.failover.election import fold
from middlewared.plugins.failover.facts import InterfaceFacts
from middlewared.plugins.failover.state import Election, Lost
from middlewared.ports import Vrrp


def interface(name: str, vrrp: Vrrp | None, group: int | None = None, critical: bool = True) -> InterfaceFacts:
    return InterfaceFacts(name, critical, group, ("192.0.2.10/24",), vrrp is not Vrrp.FAULT, vrrp)


def test_one_interface() -> None:
    assert fold([interface("eth0", Vrrp.MASTER)]) == Election(elected=True)
    assert fold([interface("eth0", Vrrp.BACKUP)]) == Election(lost=Lost.RIVAL)
    assert fold([interface("eth0", Vrrp.FAULT)]) == Election(lost=Lost.LINK)


def test_no_speaker_and_no_participation_are_no_vote() -> None:
    assert fold([interface("eth0", None)]) == Election()
    assert fold([interface("eth0", Vrrp.STOP)]) == Election()
    assert fold([]) == Election()


def test_only_critical_interfaces_count() -> None:
    assert fold([interface("eth0", Vrrp.MASTER, critical=False)]) == Election()


def test_a_group_holds_on_as_long_as_one_member_does() -> None:
    master_side = [interface("eth0", Vrrp.FAULT, 1), interface("eth1", Vrrp.MASTER, 1)]
    standby_side = [interface("eth0", Vrrp.MASTER, 1), interface("eth1", Vrrp.BACKUP, 1)]
    assert fold(master_side) == Election(elected=True)
    assert fold(standby_side) == Election()


def test_different_groups_fail_over_each_for_itself() -> None:
    states = [interface("eth0", Vrrp.FAULT, 1), interface("eth1", Vrrp.MASTER, 2)]
    assert fold(states) == Election(elected=False, lost=Lost.LINK)
