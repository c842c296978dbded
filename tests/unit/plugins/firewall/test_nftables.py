"""The driver against a stand-in for nft that answers as nft 1.0.6 does; the real one is tried in tests/netns."""

from pathlib import Path

import pytest

from middlewared.plugins.firewall.nftables import NftablesFirewall
from middlewared.ports import PortError

ABSENT = "Error: No such file or directory; did you mean table ‘filter’ in family ip?"
FORBIDDEN = "Operation not permitted (you must be root)"


class StandIn:
    """`nft`: appends what it is given to load to a file, and says what `shows` and `complains` want."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        program = directory / "nft"
        program.write_text(
            f"#!/bin/sh\ncd {directory}\n"
            'if [ "$1" = --version ]; then echo "nftables v1.0.6"; exit; fi\n'
            'if [ "$1" = -f ]; then cat >> loaded; exit "$(cat load_status)"; fi\n'
            "cat shown; cat complaint >&2; [ ! -s complaint ]\n"
        )
        program.chmod(0o755)
        self.answer()

    def answer(self, shown: str = "", complaint: str = "", load_status: int = 0) -> None:
        for name, text in (("shown", shown), ("complaint", complaint), ("load_status", str(load_status))):
            (self._directory / name).write_text(text)

    def loaded(self) -> str:
        path = self._directory / "loaded"
        text = path.read_text() if path.exists() else ""
        path.unlink(missing_ok=True)
        return text


@pytest.fixture
def nft(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StandIn:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return StandIn(tmp_path)


async def test_after_a_boot_it_starts_blocked(nft: StandIn) -> None:
    nft.answer(complaint=ABSENT)
    await NftablesFirewall().start()
    assert nft.loaded().endswith("flush set inet middlewared open\n")


async def test_what_was_open_stays_open(nft: StandIn) -> None:
    nft.answer(shown='{"nftables": [{"set": {"name": "open", "elem": ["ipv4", "ipv6"]}}]}')
    firewall = NftablesFirewall()
    await firewall.start()
    assert await firewall.allowed()
    await firewall.configure(["192.0.2.10/24"])
    assert "flush set" not in nft.loaded()


async def test_who_cannot_read_the_rules_guesses_nothing(nft: StandIn) -> None:
    nft.answer(complaint=FORBIDDEN)
    with pytest.raises(PortError, match="cannot be read: Operation not permitted"):
        await NftablesFirewall().allowed()
    nft.answer(shown="{")
    with pytest.raises(PortError, match="does not show its rules"):
        await NftablesFirewall().allowed()
    assert nft.loaded() == ""


async def test_addresses_whose_configuration_failed_are_guarded_by_the_next_rules(nft: StandIn) -> None:
    firewall = NftablesFirewall()
    await firewall.configure(["192.0.2.10/24"])
    nft.answer(load_status=1)
    with pytest.raises(PortError):
        await firewall.configure(["192.0.2.11/24"])
    nft.loaded()
    nft.answer()
    await firewall.block()
    assert "ip daddr { 192.0.2.10, 192.0.2.11 } drop" in nft.loaded()


async def test_what_is_no_address_is_refused_before_nft_sees_it(nft: StandIn) -> None:
    firewall = NftablesFirewall()
    with pytest.raises(PortError, match="traffic cannot be filtered"):
        await firewall.configure(["192.0.2.10 } accept"])
    assert nft.loaded() == ""


async def test_without_nftables_the_doctor_names_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = await NftablesFirewall().examine()
    assert [(one.ok, one.remedy) for one in found] == [(False, "apt-get install nftables")]


async def test_without_the_right_to_filter_the_doctor_says_so(nft: StandIn) -> None:
    nft.answer(complaint=FORBIDDEN)
    found = await NftablesFirewall().examine()
    assert [(one.ok, one.detail) for one in found] == [(False, FORBIDDEN)]
