from dataclasses import replace

from middlewared.plugins.failover.observer import InterfaceConfig, PairConfig, vrrp_instances

CONFIG = PairConfig(
    disabled=False,
    master_node=None,
    timeout_s=0,
    interfaces=(
        InterfaceConfig("eth0", True, 1, ("192.0.2.10/24",)),
        InterfaceConfig("eth1", False, None, ()),
        InterfaceConfig("eth2", True, 2, ("192.0.2.20/24",)),
    ),
)


def test_both_controllers_number_their_routers_alike() -> None:
    a = [(one.interface, one.router_id) for one in vrrp_instances(CONFIG, "A", leading=True)]
    b = [(one.interface, one.router_id) for one in vrrp_instances(CONFIG, "B", leading=False)]
    assert a == b == [("eth0", 1), ("eth2", 3)]


def test_the_leader_is_the_most_eager_and_otherwise_a_before_b() -> None:
    def priority(node: str, leading: bool) -> int:
        return vrrp_instances(CONFIG, node, leading=leading)[0].priority

    assert priority("A", True) == priority("B", True) > priority("A", False) > priority("B", False)


def test_patience_does_not_make_the_speaker_slow() -> None:
    """It is the MASTER's with its own links; a dead one is noticed all the same."""
    patient = replace(CONFIG, timeout_s=60)
    assert vrrp_instances(patient, "A", leading=True) == vrrp_instances(CONFIG, "A", leading=True)
