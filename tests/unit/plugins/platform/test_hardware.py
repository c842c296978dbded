"""Which hardware, which controller, which serial number: from recorded DMI values."""

import json
from pathlib import Path

import pytest

from middlewared.plugins.platform import host
from middlewared.plugins.platform.hardware import (
    MANUAL,
    Enclosure,
    Host,
    RulesError,
    read_rules,
    recognise,
    serial_number,
)

# As `grep -r . /sys/class/dmi/id` printed them.
QEMU = {
    "sys_vendor": "QEMU",
    "product_name": "Standard PC (Q35 + ICH9, 2009)",
    "product_version": "pc-q35-7.2",
    "chassis_vendor": "QEMU",
    "chassis_type": "1",
    "bios_vendor": "SeaBIOS",
}
SUPERMICRO = {
    "sys_vendor": "Supermicro",
    "product_name": "Super Server",
    "product_serial": "0123456789",
    "board_name": "X11DPi-NT",
    "board_serial": "WM18CS000123",
    "chassis_serial": "C8480AH12AB3456",
}
RULES = host.rules()
OWN = read_rules(
    json.dumps(
        {
            "hardware": [
                {
                    "name": "PUMA",
                    "dmi": {"sys_vendor": "Example", "product_name": "DUO-[0-9]+"},
                    "enclosure": {"vendor": "EXAMPLE", "model": "CANISTER.*"},
                    "node": {"enclosure": "id", "A": ".*0", "B": ".*1"},
                }
            ]
        }
    )
)


@pytest.mark.parametrize(
    ("dmi", "expected"),
    [
        (QEMU, (MANUAL, "")),
        (QEMU | {"chassis_asset_tag": "middlewared-a"}, ("IXKVM", "A")),
        (QEMU | {"chassis_asset_tag": "middlewared-b"}, ("IXKVM", "B")),
        (QEMU | {"chassis_asset_tag": "middlewared-bb"}, (MANUAL, "")),
        ({"product_name": "BHYVE", "chassis_asset_tag": "middlewared-b"}, ("BHYVE", "B")),
        (SUPERMICRO, (MANUAL, "")),
        ({}, (MANUAL, "")),
    ],
)
def test_what_it_is(dmi: dict[str, str], expected: tuple[str, str]) -> None:
    assert recognise(Host(dmi), RULES) == expected


@pytest.mark.parametrize(
    ("enclosures", "expected"),
    [
        ([("EXAMPLE", "CANISTER 24", "0x500a")], ("PUMA", "")),
        ([("EXAMPLE", "CANISTER 24", "0x5000")], ("PUMA", "A")),
        ([("OTHER", "SHELF", "0x5000"), ("EXAMPLE", "CANISTER 24", "0x5001")], ("PUMA", "B")),
        ([("EXAMPLE", "CANISTER 24", "0x5000"), ("EXAMPLE", "CANISTER 24", "0x5001")], ("PUMA", "")),
        ([], (MANUAL, "")),
    ],
)
def test_enclosures_tell_too(enclosures: list[tuple[str, str, str]], expected: tuple[str, str]) -> None:
    dmi = {"sys_vendor": "Example", "product_name": "DUO-2"}
    assert recognise(Host(dmi, tuple(Enclosure(*one) for one in enclosures)), OWN) == expected


@pytest.mark.parametrize(
    ("dmi", "serial"),
    [
        ({"product_serial": "A1-00001"}, "A1-00001"),
        (SUPERMICRO, "C8480AH12AB3456"),
        ({"product_serial": "To be filled by O.E.M.", "board_serial": "Default string"}, "1f2e"),
        ({"product_serial": "System Serial Number", "chassis_serial": " None "}, "1f2e"),
        (QEMU, "1f2e"),
    ],
)
def test_its_serial_number(dmi: dict[str, str], serial: str) -> None:
    assert serial_number(dmi, "1f2e\n") == serial


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"hardware": [{}]}', '{"hardware": [{"name": "X", "dmi": {"a": "("}}]}']
)
def test_rules_that_are_none(text: str) -> None:
    with pytest.raises(RulesError, match="not a file of hardware rules"):
        read_rules(text)


def test_our_own_file_names_only_what_clients_know() -> None:
    document = json.loads(host.OWN_RULES.read_text())
    assert {item["name"] for item in document["hardware"]} <= set(document["names"])


def test_what_a_host_says(tmp_path: Path) -> None:
    for name, value in QEMU.items():
        path = tmp_path / "sys/class/dmi/id" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    device = tmp_path / "sys/class/enclosure/0:0:1:0/device"
    device.mkdir(parents=True)
    (device / "vendor").write_text("EXAMPLE \n")
    (device / "model").write_text("CANISTER 24     \n")
    (device.parent / "id").write_text("0x5000\n")
    assert host.read_host(tmp_path) == Host(QEMU, (Enclosure("EXAMPLE", "CANISTER 24", "0x5000"),))
