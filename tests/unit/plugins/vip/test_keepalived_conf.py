import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from middlewared.plugins.vip.keepalived_conf import (
    Dumped,
    Heard,
    Router,
    apart,
    dumped,
    fold,
    heard,
    obeyed,
    render,
    routers,
    stays_out,
    weight,
)
from middlewared.ports import Vrrp, VrrpInstance

BOTH = VrrpInstance("eth0", ("192.0.2.10/24", "2001:db8::10/64", "192.0.2.11/24"), 29, 254, 100)
FIFO, WEIGHTS = Path("/run/x/notify"), Path("/run/x/weights")


def test_each_family_of_an_interface_is_a_router_of_its_own() -> None:
    assert routers([BOTH]) == (
        Router("eth0", 4, 29, 100, ("192.0.2.10/24", "192.0.2.11/24")),
        Router("eth0", 6, 29, 100, ("2001:db8::10/64",)),
    )


def test_unicast_needs_both_ends_of_the_family() -> None:
    own = ("192.0.2.1/24", "2001:db8::1/64")
    instance = VrrpInstance("eth0", BOTH.addresses, 29, 254, 100, own, ("192.0.2.2/24",))
    four, six = routers([instance])
    assert (four.local, four.peer) == ("192.0.2.1", "192.0.2.2")
    assert (six.local, six.peer) == ("", "")


def test_the_base_moves_router_ids_and_wraps_at_255() -> None:
    assert routers([VrrpInstance("eth0", ("192.0.2.10/24",), 250, 1, 100)], 10)[0].router_id == 5


@pytest.mark.parametrize(
    ("instances", "why"),
    [
        ([VrrpInstance("a b", ("192.0.2.10/24",), 1, 100, 100)], "cannot be the interface"),
        ([VrrpInstance("..", ("192.0.2.10/24",), 1, 100, 100)], "cannot be the interface"),
        ([VrrpInstance("eth0\n}", ("192.0.2.10/24",), 1, 100, 100)], "cannot be the interface"),
        ([VrrpInstance("eth0", ("192.0.2.10/24; x",), 1, 100, 100)], "does not appear to be"),
        ([VrrpInstance("eth0", ("192.0.2.10/24",), 1, 255, 100)], "no priority"),
        (
            [VrrpInstance(name, ("192.0.2.10/24",), 1, 100, 100) for name in ("eth0", "eth1")],
            "eth1 and eth0 have the same virtual router id 1",
        ),
    ],
)
def test_what_keepalived_must_not_be_given(instances: list[VrrpInstance], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        routers(instances)


def test_the_configuration_in_full() -> None:
    instance = VrrpInstance(
        "eth0", ("192.0.2.10/24", "2001:db8::10/128"), 29, 254, 100, ("192.0.2.1/24",), ("192.0.2.2/24",)
    )
    assert (
        render(routers([instance]), FIFO, WEIGHTS)
        == """\
global_defs {
    router_id middlewared
    vrrp_version 3
    vrrp_notify_fifo /run/x/notify
    dynamic_interfaces allow_if_changes
    vrrp_no_swap
    vrrp_garp_master_repeat 3
    vrrp_garp_master_delay 1
    vrrp_garp_master_refresh 60
    vrrp_garp_lower_prio_repeat 3
    vrrp_garp_lower_prio_delay 1
}
track_file eth0 {
    file "/run/x/weights/eth0"
    weight 1
}
vrrp_sync_group eth0 {
    group {
        eth0:4
        eth0:6
    }
    sync_group_tracking_weight
}
vrrp_instance eth0:4 {
    state BACKUP
    nopreempt
    interface eth0
    virtual_router_id 29
    priority 100
    advert_int 0.10
    track_file {
        eth0
    }
    unicast_src_ip 192.0.2.1
    unicast_peer {
        192.0.2.2 min_ttl 255 max_ttl 255
    }
    virtual_ipaddress {
        169.254.112.29/32 dev lo scope host no_track
    }
    virtual_ipaddress_excluded {
        192.0.2.10/24 dev eth0
    }
}
vrrp_instance eth0:6 {
    state BACKUP
    nopreempt
    interface eth0
    virtual_router_id 29
    priority 100
    advert_int 0.10
    track_file {
        eth0
    }
    virtual_ipaddress {
        fe80::112:1d/128 dev lo no_track
    }
    virtual_ipaddress_excluded {
        2001:db8::10/128 dev eth0 preferred_lft forever
    }
}
"""
    )


def test_priority_and_participation_are_not_in_the_configuration() -> None:
    other = VrrpInstance("eth0", BOTH.addresses, 29, 1, 100)
    assert render(routers([BOTH]), FIFO, WEIGHTS) == render(routers([other]), FIFO, WEIGHTS)


def test_an_advert_interval_fits_into_its_12_bits() -> None:
    slow = VrrpInstance("eth0", ("192.0.2.10/24",), 1, 100, 1_000_000)
    assert "advert_int 40.95\n" in render(routers([slow]), FIFO, WEIGHTS)


def test_families_that_differ_are_not_put_together() -> None:
    wanted = routers([BOTH])
    four = {"eth0:4": Dumped(Vrrp.MASTER, 29, 10, frozenset())}
    six = {"eth0:6": Dumped(Vrrp.MASTER, 29, 10, frozenset())}
    assert apart({}, wanted) == frozenset()
    assert apart(four, wanted) == {"eth0"}
    assert apart(four | {"eth0:6": Dumped(Vrrp.BACKUP, 29, 10, frozenset())}, wanted) == {"eth0"}
    assert apart(four | six, wanted) == frozenset()
    assert apart(four, wanted[:1]) == frozenset()
    assert "vrrp_sync_group" not in render(wanted, FIFO, WEIGHTS, {"eth0"})


@given(st.integers(1, 254))
def test_a_weight_makes_the_priority(priority: int) -> None:
    assert 100 + int(weight(priority)) == priority
    assert not stays_out(weight(priority))


def test_who_stays_out_has_less_than_every_priority() -> None:
    assert 100 + int(weight(None)) < -99
    assert 1 + int(weight(None)) < -253 - 1  # keepalived: below -253 is FAULT
    assert stays_out(weight(None))
    assert stays_out("")
    assert stays_out("?")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('INSTANCE "eth0:4" MASTER 254', Heard("eth0:4", Vrrp.MASTER)),
        ('INSTANCE "eth0:6" BACKUP 240', Heard("eth0:6", Vrrp.BACKUP)),
        ('INSTANCE "bond0.12:4" FAULT 240', Heard("bond0.12:4", Vrrp.FAULT)),
        ('INSTANCE "eth0:4" STOP 240', Heard("eth0:4", Vrrp.STOP)),
        ('INSTANCE "eth0:4" DELETED 240', Heard("eth0:4", Vrrp.STOP)),
        ('INSTANCE "eth0:4" MASTER_RX_LOWER_PRI 240', None),
        ('GROUP "eth0" MASTER 0', None),
        ("", None),
    ],
)
def test_what_keepalived_says(line: str, expected: Heard | None) -> None:
    assert heard(line) == expected


@given(st.text())
def test_nonsense_is_no_news(line: str) -> None:
    assert heard(line) is None


def row(name: str, state: int, *addresses: str) -> dict[str, object]:
    """As keepalived 2.2.7 writes it, shortened."""
    return {
        "data": {"iname": name, "vrid": 29, "state": state, "adver_int": 0.1, "evips": list(addresses)},
        "stats": {"advert_rcvd": 3, "addr_list_err": 0},
    }


def test_a_dump_is_compared_with_what_was_wanted() -> None:
    text = json.dumps(
        [
            row("eth0:4", 2, "192.0.2.11/24 dev eth0 scope global set", "192.0.2.10/24 dev eth0 scope global set"),
            row("eth0:6", 1, "2001:db8::10/64 dev eth0 scope global preferred_lft forever"),
        ]
    )
    dump = dumped(text)
    assert {name: one.state for name, one in dump.items()} == {"eth0:4": Vrrp.MASTER, "eth0:6": Vrrp.BACKUP}
    assert obeyed(dump, routers([BOTH]))
    assert not obeyed(dump, routers([BOTH])[:1])
    assert not obeyed({}, routers([BOTH]))
    for end in range(len(text)):
        with pytest.raises(ValueError):  # noqa: PT011  json's own, or ours: half a dump in any case
            dumped(text[:end])


@pytest.mark.parametrize("text", ["{}", "[1]", "[{}]", '[{"data": {"iname": "eth0:4"}}]'])
def test_something_else_is_no_dump(text: str) -> None:
    if text == "{}":
        assert dumped(text) == {}
        return
    with pytest.raises(ValueError, match="lacks"):
        dumped(text)


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ((Vrrp.MASTER, Vrrp.MASTER), Vrrp.MASTER),
        ((Vrrp.MASTER, Vrrp.BACKUP), Vrrp.BACKUP),
        ((Vrrp.MASTER, Vrrp.FAULT), Vrrp.FAULT),
        ((Vrrp.BACKUP, Vrrp.FAULT), Vrrp.FAULT),
        ((Vrrp.MASTER, Vrrp.STOP), Vrrp.STOP),
        ((Vrrp.FAULT, Vrrp.STOP), Vrrp.STOP),
    ],
)
def test_two_families_one_state(states: tuple[Vrrp, Vrrp], expected: Vrrp) -> None:
    assert fold({"eth0.5:4": states[0], "eth0.5:6": states[1], "eth1:6": Vrrp.BACKUP}) == {
        "eth0.5": expected,
        "eth1": Vrrp.BACKUP,
    }
