"""The driver against a stand-in for libnftables that answers as 1.0.6 does; the real one is tried in tests/netns."""

import asyncio
import contextlib
import threading
from typing import Any, cast

import pytest

from middlewared.plugins.firewall import nftables
from middlewared.plugins.firewall.libnftables import Answer, Nftables
from middlewared.plugins.firewall.nftables import NftablesFirewall
from middlewared.ports import PortError

ABSENT = "Error: No such file or directory; did you mean table ‘filter’ in family ip?"
FORBIDDEN = "Error: Operation not permitted (you must be root)"
CHAIN = '{"chain": {"name": "virtual"}}, {"rule": {"chain": "virtual"}}, {"rule": {"chain": "virtual"}}'
OPEN = f'{{"nftables": [{{"set": {{"name": "open", "elem": ["ipv4", "ipv6"]}}}}, {CHAIN}]}}'
SHUT = f'{{"nftables": [{{"set": {{"name": "open"}}}}, {CHAIN}]}}'


class StandIn:
    """Remembers what it is given to load, and says what it is told to. `hold` makes loading hang until it is set."""

    def __init__(self) -> None:
        self.shows, self.refuses = Answer("", ABSENT), ""
        self.loads: list[str] = []
        self.hold: threading.Event | None = None

    def connect(self) -> Nftables:
        return cast(Nftables, self)

    def show(self, what: str) -> Answer:
        return self.shows

    def load(self, rules: str) -> Answer:
        if self.hold is not None:
            self.hold.wait()
        self.loads.append(rules)
        return Answer("", self.refuses)

    def loaded(self) -> str:
        text, self.loads = "".join(self.loads), []
        return text


@pytest.fixture
def nft() -> StandIn:
    return StandIn()


@pytest.fixture
def firewall(nft: StandIn) -> NftablesFirewall:
    return NftablesFirewall(nft.connect)


async def test_after_a_boot_it_begins_blocked(nft: StandIn, firewall: NftablesFirewall) -> None:
    assert not await firewall.allowed()
    assert nft.loaded().endswith("flush set inet middlewared open\n")


async def test_what_was_open_stays_open(nft: StandIn, firewall: NftablesFirewall) -> None:
    nft.shows = Answer(OPEN)
    assert await firewall.allowed()
    await firewall.configure(["192.0.2.10/24"])
    assert await firewall.allowed()
    assert "flush set" not in nft.loaded()


async def test_who_cannot_read_the_rules_guesses_nothing(nft: StandIn, firewall: NftablesFirewall) -> None:
    nft.shows = Answer("", FORBIDDEN)
    with pytest.raises(PortError, match="cannot be read: Error: Operation not permitted"):
        await firewall.allowed()
    nft.shows = Answer("{")
    with pytest.raises(PortError, match="does not show its rules"):
        await firewall.allowed()
    assert nft.loaded() == ""


@pytest.mark.parametrize(
    "left",
    [Answer("", ABSENT), Answer('{"nftables": []}'), Answer('{"nftables": [{"chain": {"name": "virtual"}}]}')],
    ids=["no table", "an empty table", "an empty chain"],
)
@pytest.mark.parametrize("was_open", [True, False])
async def test_rules_that_are_missing_are_put_back_as_they_were_in_one_transaction(
    nft: StandIn, firewall: NftablesFirewall, left: Answer, was_open: bool
) -> None:
    await firewall.configure(["192.0.2.10/24"])
    await (firewall.allow() if was_open else firewall.block())
    nft.loads.clear()
    nft.shows = left
    assert await firewall.allowed() is was_open
    (rules,) = nft.loads
    assert "ip daddr { 192.0.2.10 } drop" in rules
    assert ("add element" in rules) is was_open


async def test_who_opened_or_closed_behind_our_back_is_overruled(nft: StandIn, firewall: NftablesFirewall) -> None:
    await firewall.block()
    nft.loads.clear()
    nft.shows = Answer(OPEN)
    assert not await firewall.allowed()
    assert nft.loaded().endswith("flush set inet middlewared open\n")
    await firewall.allow()
    nft.loads.clear()
    nft.shows = Answer(SHUT)
    assert await firewall.allowed()
    assert "add element" in nft.loaded()


async def test_an_order_to_open_that_failed_is_not_remembered(nft: StandIn, firewall: NftablesFirewall) -> None:
    await firewall.block()
    nft.refuses = "Error: Could not process rule: Device or resource busy"
    with pytest.raises(PortError, match="does not take its rules: Error: Could not process rule"):
        await firewall.allow()
    nft.refuses = ""
    nft.loads.clear()
    assert not await firewall.allowed()
    assert "add element" not in nft.loaded()


async def test_an_order_to_close_that_failed_is_remembered(nft: StandIn, firewall: NftablesFirewall) -> None:
    await firewall.allow()
    nft.refuses = "Error: Could not process rule: Device or resource busy"
    with pytest.raises(PortError):
        await firewall.block()
    nft.refuses, nft.shows = "", Answer(OPEN)
    nft.loads.clear()
    assert not await firewall.allowed()
    assert nft.loaded().endswith("flush set inet middlewared open\n")


async def test_addresses_whose_configuration_failed_are_guarded_by_the_next_rules(
    nft: StandIn, firewall: NftablesFirewall
) -> None:
    await firewall.configure(["192.0.2.10/24"])
    nft.refuses = "Error: Could not process rule: Device or resource busy"
    with pytest.raises(PortError):
        await firewall.configure(["192.0.2.11/24"])
    nft.refuses = ""
    nft.loads.clear()
    await firewall.block()
    assert "ip daddr { 192.0.2.10, 192.0.2.11 } drop" in nft.loaded()


async def test_what_is_no_address_is_refused_and_forgotten(nft: StandIn, firewall: NftablesFirewall) -> None:
    with pytest.raises(PortError, match="traffic cannot be filtered"):
        await firewall.configure(["192.0.2.10 } accept"])
    assert nft.loaded() == ""
    await firewall.block()


async def test_nothing_is_asked_of_a_packet_filter_that_hangs_before_it_has_come_back(
    nft: StandIn, firewall: NftablesFirewall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nftables, "_CALL_MS", 20)
    nft.hold = threading.Event()
    with pytest.raises(PortError, match="did not answer within 20 ms"):
        await firewall.allow()
    with pytest.raises(PortError, match="did not answer"):
        await firewall.block()
    assert nft.loads == []
    monkeypatch.setattr(nftables, "_CALL_MS", 5_000)
    nft.hold.set()
    await until_blocked(firewall)
    assert ["flush set" in rules for rules in nft.loads] == [False, True]  # the late one first


async def until_blocked(firewall: NftablesFirewall) -> None:
    """As the failover engine does: again and again."""
    async with asyncio.timeout(5):
        while True:
            with contextlib.suppress(PortError):
                await firewall.block()
                return
            await asyncio.sleep(0)


async def test_without_the_library_the_doctor_names_the_package() -> None:
    def connect() -> Any:
        return Nftables("libnftables.so.none")

    found = await NftablesFirewall(connect).examine()
    assert [(one.ok, one.detail, one.remedy) for one in found] == [
        (False, "libnftables is not installed: apt-get install libnftables1", "apt-get install libnftables1")
    ]


async def test_without_the_right_to_filter_the_doctor_says_so(nft: StandIn, firewall: NftablesFirewall) -> None:
    nft.shows = Answer("", FORBIDDEN)
    found = await firewall.examine()
    assert [(one.ok, one.detail) for one in found] == [(False, FORBIDDEN)]
