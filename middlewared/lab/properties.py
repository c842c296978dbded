"""What `lab set` can change of a machine: one row each, with its default, its reading and its one-line help."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from middlewared.lab.places import LAN_NICS, LabError

_YES = ("yes", "true", "on", "1", "present")
_NO = ("no", "false", "off", "0", "absent", "none")
_MS_MAX = 3_600_000
REBOOT_REASONS = {
    "UPGRADE": "An upgrade was installed.",
    "FIPS": "FIPS mode was changed.",
    "GPOSSTIG": "GPOS STIG mode was changed.",
}


@dataclass(frozen=True, slots=True)
class Property:
    """`read` turns the word of the command line into the value; ValueError says what it takes."""

    default: Any
    read: Callable[[str], Any]
    values: str  # shown in the help
    description: str


def _switch(word: str) -> bool:
    if word.lower() in _YES:
        return True
    if word.lower() in _NO:
        return False
    raise ValueError("takes yes or no")


def _milliseconds(word: str) -> int:
    if not word.isdigit() or int(word) > _MS_MAX:
        raise ValueError(f"takes milliseconds, 0 to {_MS_MAX}")
    return int(word)


def _text(word: str) -> str:
    if not 0 < len(word) <= 100:
        raise ValueError("takes 1 to 100 characters")
    return word


def _some_of(names: tuple[str, ...], fold: Callable[[str], str]) -> Callable[[str], list[str]]:
    def read(word: str) -> list[str]:
        wanted = [] if word.lower() == "none" else [fold(part.strip()) for part in word.split(",")]
        if set(wanted) - set(names):
            raise ValueError(f"takes none, or some of {','.join(fold(name) for name in names)}")
        return [name for name in names if name in wanted]

    return read


def _flag(default: bool, values: str, description: str) -> Property:
    return Property(default, _switch, values, description)


def _duration(default_ms: int, description: str) -> Property:
    return Property(default_ms, _milliseconds, "MS", description)


PROPERTIES: dict[str, Property] = {
    "version": Property("0.1.0", _text, "TEXT", "software version that the controller reports"),
    "hardware": Property("ECHOWARP", _text, "TEXT", "kind of hardware that the controller reports"),
    "licensed": _flag(True, "yes|no", "whether it has a licence for failover"),
    "heartbeat_nic": _flag(True, "present|absent", "whether the heartbeat interface hb0 exists"),
    "nics": Property(list(LAN_NICS), _some_of(LAN_NICS, str.lower), "eth0,eth1", "LAN interfaces that are fitted"),
    "link_fails": _flag(False, "yes|no", "no address can be added to an interface"),
    "reboot_reasons": Property(
        [], _some_of(tuple(REBOOT_REASONS), str.upper), "none|upgrade,fips,gposstig", "why it needs a reboot"
    ),
    "migrating_system_dataset": _flag(False, "yes|no", "the system dataset is moving to another pool"),
    "hold_boot": _flag(False, "yes|no", "the boot does not finish until released"),
    "keeper": _flag(True, "on|off", "whether the machine keeps fenced running"),
    "import_ms": _duration(0, "how long importing a pool takes"),
    "import_fails": _flag(False, "yes|no", "importing a pool fails"),
    "import_hangs": _flag(False, "yes|no", "importing a pool does not end"),
    "export_ms": _duration(0, "how long exporting a pool takes"),
    "export_fails": _flag(False, "yes|no", "exporting a pool fails: it is busy"),
    "export_hangs": _flag(False, "yes|no", "exporting a pool does not end"),
    "pool_list_fails": _flag(False, "yes|no", "the kernel cannot say which pools are imported"),
    "service_start_ms": _duration(5, "how long starting a service takes"),
    "service_hangs": _flag(False, "yes|no", "starting or stopping a service does not end"),
    "firewall_fails": _flag(False, "yes|no", "the packet filter takes no new rules"),
    "firewall_hangs": _flag(False, "yes|no", "loading rules of the packet filter does not end"),
    "vrrp_hangs": _flag(False, "yes|no", "the VRRP speaker takes no orders; it goes on as it was"),
}
POOLS = ("default", "none")


def defaults() -> dict[str, Any]:
    return {name: row.default for name, row in PROPERTIES.items()}


def read(name: str, word: str) -> Any:
    """The value that `word` means for the property. Raises LabError."""
    try:
        return PROPERTIES[name].read(word)
    except ValueError as error:
        raise LabError(f"{name} {error}") from error


def describe() -> str:
    """The table of `lab set --help`."""
    width = max(len(name) for name in PROPERTIES)
    values = max(len(row.values) for row in PROPERTIES.values())
    rows = [f"  {name:{width}}  {row.values:{values}}  {row.description}" for name, row in PROPERTIES.items()]
    room = f"  {'pools':{width}}  {'|'.join(POOLS):{values}}  (whole lab: `lab set pools none`) pools on the shelf"
    return "\n".join([*rows, room])
