import json

import pytest

from middlewared.plugins.firewall.nft_rules import allowing, blocking, guarding, shown

FRAME = """\
add table inet middlewared
add set inet middlewared open { type nf_proto; }
add chain inet middlewared virtual { type filter hook prerouting priority raw; policy accept; }
"""


def test_addresses_of_both_families_are_guarded() -> None:
    assert guarding(["2001:db8::10/64", "192.0.2.11/24", "192.0.2.10/24", "192.0.2.10/32"]) == FRAME + (
        "flush chain inet middlewared virtual\n"
        "add rule inet middlewared virtual meta nfproto @open accept\n"
        "add rule inet middlewared virtual ip daddr { 192.0.2.10, 192.0.2.11 } drop\n"
        "add rule inet middlewared virtual icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept\n"
        "add rule inet middlewared virtual ip6 daddr { 2001:db8::10 } drop\n"
    )


def test_nothing_to_guard_is_no_rule_with_an_empty_set() -> None:
    assert "drop" not in guarding([])


def test_blocking_brings_the_rules_along() -> None:
    assert blocking(["192.0.2.10/24"]) == guarding(["192.0.2.10/24"]) + "flush set inet middlewared open\n"


def test_allowing_only_adds() -> None:
    assert allowing() == (
        "add table inet middlewared\n"
        "add set inet middlewared open { type nf_proto; }\n"
        "add element inet middlewared open { ipv4, ipv6 }\n"
    )


@pytest.mark.parametrize("address", ["192.0.2.10 } accept", "", "eth0", "192.0.2.0.1"])
def test_what_is_no_address_never_reaches_nft(address: str) -> None:
    with pytest.raises(ValueError, match="does not appear to be"):
        guarding([address])


def listing(*items: dict[str, object]) -> str:
    """As nft 1.0.6 shows it, shortened."""
    table = {"table": {"family": "inet", "name": "middlewared", "handle": 1}}
    return json.dumps({"nftables": [{"metainfo": {"json_schema_version": 1}}, table, *items]})


SET: dict[str, object] = {"family": "inet", "name": "open", "table": "middlewared", "type": "nf_proto", "handle": 1}
CHAIN: dict[str, object] = {
    "chain": {"family": "inet", "table": "middlewared", "name": "virtual", "hook": "prerouting"}
}
RULE: dict[str, object] = {"rule": {"family": "inet", "table": "middlewared", "chain": "virtual", "expr": []}}


def test_open_is_what_the_kernel_has_in_its_set() -> None:
    assert shown(listing({"set": {**SET, "elem": ["ipv4", "ipv6"]}})).is_open
    assert not shown(listing({"set": SET})).is_open
    assert not shown(listing({"set": {**SET, "name": "other", "elem": ["ipv4"]}})).is_open
    assert not shown(listing()).is_open


def test_addresses_are_guarded_while_no_rule_of_theirs_is_missing() -> None:
    assert shown(listing(CHAIN, RULE, RULE)).guards(["192.0.2.10/24"])
    assert shown(listing(CHAIN, RULE, RULE, RULE, RULE)).guards([])  # of a former life, not configured anew yet
    assert not shown(listing(CHAIN, RULE)).guards(["192.0.2.10/24"])
    assert not shown(listing(CHAIN, RULE, RULE)).guards(["192.0.2.10/24", "2001:db8::10/64"])
    assert not shown(listing(RULE, RULE)).guards(["192.0.2.10/24"])
    other = {"rule": {"chain": "other"}}
    assert not shown(listing(CHAIN, RULE, other)).guards(["192.0.2.10/24"])


@pytest.mark.parametrize("listed", ["", "[]", "{}", '{"nftables": [{"set": {}}]}', '{"nftables": 1}'])
def test_something_else_is_no_listing(listed: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  json's own, or ours
        shown(listed)
