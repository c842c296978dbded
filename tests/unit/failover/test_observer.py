import dataclasses

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


def numbers(config: PairConfig, node: str) -> dict[str, int]:
    return {one.interface: one.router_id for one in vrrp_instances(config, node, leading=node == "A")}


def test_both_controllers_number_their_routers_alike() -> None:
    a, b = numbers(CONFIG, "A"), numbers(CONFIG, "B")
    assert a == b
    assert a.keys() == {"eth0", "eth2"}
    assert all(1 <= number <= 255 for number in a.values())


def test_an_interface_that_is_added_renumbers_no_other_one() -> None:
    added = InterfaceConfig("eno1", True, None, ("192.0.2.30/24",))
    more = dataclasses.replace(CONFIG, interfaces=(added, *CONFIG.interfaces))
    assert numbers(more, "A").items() > numbers(CONFIG, "A").items()


def test_many_interfaces_all_have_numbers_of_their_own() -> None:
    many = tuple(InterfaceConfig(f"vlan{number}", True, None, (f"192.0.2.{number}/24",)) for number in range(255))
    found = numbers(dataclasses.replace(CONFIG, interfaces=many), "B")
    assert sorted(found.values()) == list(range(1, 256))


def test_adverts_go_between_the_own_addresses_that_the_store_knows() -> None:
    own = {"A": ("192.0.2.1/24",), "B": ("192.0.2.2/24",)}
    known = dataclasses.replace(CONFIG.interfaces[0], own_addresses=own)
    config = dataclasses.replace(CONFIG, interfaces=(known, CONFIG.interfaces[2]))
    on_a, on_b = (vrrp_instances(config, node, leading=False) for node in "AB")
    assert (on_a[0].own, on_a[0].others) == (own["A"], own["B"])
    assert (on_b[0].own, on_b[0].others) == (own["B"], own["A"])
    assert (on_a[1].own, on_a[1].others) == ((), ())


def test_the_leader_is_the_most_eager_and_otherwise_a_before_b() -> None:
    def priority(node: str, leading: bool) -> int:
        return vrrp_instances(CONFIG, node, leading=leading)[0].priority

    assert priority("A", True) == priority("B", True) > priority("A", False) > priority("B", False)


def test_patience_does_not_make_the_speaker_slow() -> None:
    """It is the MASTER's with its own links; a dead one is noticed all the same."""
    patient = dataclasses.replace(CONFIG, timeout_s=60)
    assert vrrp_instances(patient, "A", leading=True) == vrrp_instances(CONFIG, "A", leading=True)
