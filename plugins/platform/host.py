"""What Linux says of this host: DMI, enclosures, boot id. What is not there is empty."""

from pathlib import Path

from middlewared.plugins.platform.hardware import Enclosure, Host, Rule, RulesError, read_rules, serial_number
from middlewared.ports import PortError

OWN_RULES = Path(__file__).with_name("hardware.json")
MORE_RULES = Path("etc/middlewared/hardware.json")
_DMI = (
    "sys_vendor", "product_name", "product_version", "product_family", "product_serial", "board_vendor", "board_name",
    "board_version", "board_serial", "board_asset_tag", "chassis_vendor", "chassis_type", "chassis_version",
    "chassis_serial", "chassis_asset_tag", "bios_vendor", "bios_version",
)  # fmt: skip
_TEXT_BYTES_MAX = 64 << 10
ENCLOSURES_MAX = 64


def read_host(root: Path = Path("/")) -> Host:
    """`root`: another place for /sys, for tests."""
    dmi = {name: text(root / "sys/class/dmi/id" / name) for name in _DMI}
    folders = sorted((root / "sys/class/enclosure").glob("*"))[:ENCLOSURES_MAX]
    return Host(
        dmi={name: value for name, value in dmi.items() if value},
        enclosures=tuple(
            Enclosure(text(folder / "device/vendor"), text(folder / "device/model"), text(folder / "id"))
            for folder in folders
        ),
    )


def serial(root: Path = Path("/")) -> str:
    """This machine's serial number, or its machine id (machine-id(5)); empty when it has neither."""
    return serial_number(read_host(root).dmi, text(root / "etc/machine-id"))


def rules(root: Path = Path("/")) -> tuple[Rule, ...]:
    """The administrator's own rules, then ours. Raises PortError naming the file that is wrong."""
    found: tuple[Rule, ...] = ()
    for path in (root / MORE_RULES, OWN_RULES):
        if path.exists():
            try:
                found += read_rules(path.read_text())
            except (OSError, RulesError) as error:
                raise PortError(f"{path}: {error}; correct it, or take it away") from error
    return found


def text(path: Path) -> str:
    """A small file without its blanks at both ends; empty when it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_TEXT_BYTES_MAX).decode(errors="replace").strip()
    except OSError:
        return ""
