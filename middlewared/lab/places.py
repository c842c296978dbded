"""Who is who in the lab: nodes, network addresses, and the files under the lab's folder."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

NODES = ("a", "b")
PORT = 6080
PORT_TLS = 6443
PORT_HEARTBEAT = 6000
HEARTBEAT_ADDRESS = {"a": "127.0.20.1", "b": "127.0.20.2"}
VIRTUAL_ADDRESSES = ("127.0.10.10", "127.0.10.11")  # the first is configured from the start, on eth0
LAN_NICS = ("eth0", "eth1")
HEARTBEAT_NIC = "hb0"
NIC_ADDRESS = {
    "a": {"eth0": "127.0.10.1", "eth1": "127.0.10.21"},
    "b": {"eth0": "127.0.10.2", "eth1": "127.0.10.22"},
}
PREFIX_LENGTH = 24
DISKS = 8

# Link name -> (node, NIC); the heartbeat cable has both controllers at its ends.
LAN_LINKS = {"lan-a": ("a", "eth0"), "lan-b": ("b", "eth0"), "lan2-a": ("a", "eth1"), "lan2-b": ("b", "eth1")}
DISK_LINKS = {"disks-a": "a", "disks-b": "b"}
LINKS = ("heartbeat", *LAN_LINKS, *DISK_LINKS)


@dataclass(frozen=True, slots=True)
class Layout:
    """A kind of lab, as its controllers' settings and an onlooker see it."""

    kind: str
    drivers: str  # of the controllers: settings.drivers
    port: int
    port_tls: int
    port_heartbeat: int
    addresses: Mapping[str, Mapping[str, str]]  # by node, by NIC
    heartbeat: Mapping[str, str]  # by node
    virtual: tuple[str, ...]  # the first is configured from the start, on eth0
    disks: int
    services: tuple[str, ...] = ("iscsi", "nfs")  # of the pair
    healthy_s_max: int = 30  # from power on to a healthy pair
    shelf: str = ""  # what serves the disks, where there is a choice: "tgt", "lio"
    paths: int = 1  # from each controller to each disk


LOOPBACK = Layout(
    "loopback", "simulated", PORT, PORT_TLS, PORT_HEARTBEAT, NIC_ADDRESS, HEARTBEAT_ADDRESS, VIRTUAL_ADDRESSES, DISKS
)

USER = "admin"
PASSWORD = "lab"  # noqa: S105  the lab's well-known login, on loopback addresses only

_UNIX_PATH_BYTES_MAX = 107  # sockaddr_un.sun_path less its terminating zero
_LONGEST_NAME = "a/middlewared.sock"
_MARKER = ".middlewared-lab"


class LabError(Exception):
    """The lab cannot do that; the message is for a human."""


def other(node: str) -> str:
    return "b" if node == "a" else "a"


def serial(node: str) -> str:
    """The controller's serial number."""
    return f"LAB-{node.upper()}"


def lan_link(node: str, nic: str) -> str:
    """The name of the link on that NIC."""
    return f"lan-{node}" if nic == "eth0" else f"lan2-{node}"


def default_directory() -> Path:
    """Private to the user, and short, because unix socket paths are."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and Path(runtime).is_dir() and os.access(runtime, os.W_OK):
        return Path(runtime) / "middlewared-lab"
    return Path(f"/tmp/middlewared-lab-{os.getuid()}")  # noqa: S108  made 0700 and its owner checked by prepare()


@dataclass(frozen=True, slots=True)
class Places:
    """Every path of one lab."""

    directory: Path
    layout: Layout = LOOPBACK

    @property
    def control(self) -> Path:
        """Where the `lab` subcommands reach the room."""
        return self.directory / "lab.sock"

    @property
    def room(self) -> Path:
        """Where the machines reach the room."""
        return self.directory / "room.sock"

    @property
    def lock(self) -> Path:
        return self.directory / "lab.lock"

    @property
    def log(self) -> Path:
        """What a detached lab prints."""
        return self.directory / "room.log"

    @property
    def writes(self) -> Path:
        """Every write that reached the shelf, accepted or refused."""
        return self.directory / "shelf-writes.jsonl"

    def node(self, node: str) -> Path:
        return self.directory / node

    def state(self, node: str) -> Path:
        """What survives a boot: the controller's own boot disk."""
        return self.node(node) / "state"

    def shelf(self, node: str) -> Path:
        return self.directory / f"shelf-{node}.sock"

    def machine(self, node: str) -> Path:
        return self.node(node) / "machine.sock"

    def handoff(self, node: str) -> Path:
        return self.node(node) / "handoff.sock"

    def heartbeat(self, node: str) -> Path:
        return self.node(node) / "heartbeat.sock"

    def keeper(self, node: str) -> Path:
        return self.node(node) / "fenced.sock"

    def api(self, node: str) -> Path:
        return self.node(node) / "middlewared.sock"

    def settings(self, node: str) -> Path:
        return self.node(node) / "middlewared.toml"

    def console(self, node: str) -> Path:
        """What the machine says last: one line before every reset."""
        return self.node(node) / "console.log"

    def notes(self, node: str) -> Path:
        """What the controller's workload was acknowledged (lab.ledger)."""
        return self.state(node) / "ledger"

    def check(self) -> None:
        """Refuse a folder whose sockets the kernel could not name."""
        length = len(os.fsencode(self.directory / _LONGEST_NAME))
        if length > _UNIX_PATH_BYTES_MAX:
            raise LabError(
                f"{self.directory}: too long by {length - _UNIX_PATH_BYTES_MAX} characters: unix socket paths end at "
                f"{_UNIX_PATH_BYTES_MAX}; choose a shorter folder with --dir"
            )

    def prepare(self) -> None:
        """Make the folder (0700). One that holds anything but a lab is refused, so that cleaning up is safe."""
        self.check()
        directory = self.directory
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            entries = {entry.name for entry in directory.iterdir()}
            if entries and _MARKER not in entries:
                raise LabError(f"{directory} holds other files than a lab's; choose an empty folder with --dir")
            if directory.stat().st_uid != os.getuid():
                raise LabError(f"{directory} belongs to somebody else; choose another folder with --dir")
            directory.chmod(0o700)
            (directory / _MARKER).touch()
        except OSError as error:
            raise LabError(f"{directory}: {error.strerror}; choose another folder with --dir") from error
