"""The daemon's own settings: one TOML file a controller, checked whole when it loads.

What belongs to the pair (failover, interfaces, users) lives in the store and is replicated; what belongs to one
controller's box (its letter, sockets, drivers, timings) lives here. Unknown keys and impossible relations are refused
with a message that names the key.
"""

import dataclasses
import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_type_hints

PEER_FOLDER = "peer"  # in state_dir


class SettingsError(Exception):
    """The settings file is missing, unreadable or wrong; the message names the key and the remedy."""


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """Where clients reach us. `handoff` is the lab's way in: a unix socket that receives accepted connections."""

    listen: tuple[str, ...] = ("0.0.0.0:80",)
    listen_tls: tuple[str, ...] = ()
    certificate: str = ""  # PEM, certificate and key in one file; needed by listen_tls
    handoff: str = ""
    port: int = 80  # as clients see it; shown in URLs
    port_tls: int = 0  # 0: no TLS
    connections_max: int = 12_000
    logins_failed_per_minute_max: int = 20  # per address; then EBUSY
    anonymous_calls_per_minute_max: int = 600  # per address, logins not counted; then EBUSY


@dataclass(frozen=True, slots=True)
class PeerSettings:
    """The link to the other controller. A silence of timeout_ms is death; heartbeats go every heartbeat_ms."""

    listen: str = "169.254.10.1:6000"  # or unix:/path
    connect: str = "169.254.10.2:6000"
    certificate: str = ""  # ours: PEM, certificate and key; empty: peer/own.pem in state_dir, as below
    peer_certificate: str = ""  # the other's, pinned; empty: peer/other.pem. No such file: not paired
    pair_key: str = ""  # what secrets are encrypted with, the same on both; empty: peer/pair.key
    heartbeat_ms: int = 100
    timeout_ms: int = 500


@dataclass(frozen=True, slots=True)
class FenceSettings:
    """Reservations. `alive_ms` without movement of the peer's key on the disks means that the peer is dead there."""

    socket: str = "/run/middlewared/fenced.sock"
    host_id: int = 0  # upper half of every key; 0: derived from the node letter
    heartbeat_ms: int = 50
    alive_ms: int = 150
    lost_ms: int = 1000  # a holder that cannot see its reservations for so long resets itself
    sentinels: int = 4
    shelf: str = ""  # in a lab: the socket through which this controller reaches the disks; resets are the lab's, too
    exclude: tuple[str, ...] = ()  # serials of disks that are not shared, and are left alone
    iscsi: tuple[str, ...] = ()  # "192.0.2.1:3260/iqn.2026-11.org.example:shelf": the disks behind these, by libiscsi
    initiator: str = ""  # our name there; empty: made of the node letter
    watchdog: str = ""  # the hardware watchdog: "/dev/watchdog0"; empty: none
    watchdog_timeout_s: int = 10  # it resets the machine when the keeper was silent for so long
    realtime: bool = True  # real drivers: locked into memory, scheduled before all others


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """Real interfaces and VRRP. Patterns are those of fnmatch(3): "docker*"."""

    heartbeat: str = ""  # the interface of the link to the other controller
    physical: tuple[str, ...] = ()  # interfaces of other kinds (veth, macvlan) that are used like a NIC
    ignored: tuple[str, ...] = ("docker*", "br-????????????", "virbr*", "cni*")  # others' affair
    router_id_base: int = 0  # moves the virtual router ids, where others on the network use the same; on both alike
    vrrp_unit: str = "middlewared-vrrp.service"  # runs keepalived; empty: middlewared starts it itself


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """ZFS pools on the shared disks."""

    altroot: str = "/mnt"  # where their datasets are mounted
    ignored: tuple[str, ...] = ()  # names of pools that are this controller's own


@dataclass(frozen=True, slots=True)
class PlatformSettings:
    """What overrides what the machine says of itself; empty: nothing does."""

    hardware: str = ""  # a name such as ECHOWARP
    serial: str = ""


@dataclass(frozen=True, slots=True)
class FailoverSettings:
    """How long a phase may take before it counts as failed; a failing export resets the machine."""

    import_ms_max: int = 120_000
    export_ms_max: int = 30_000
    services_ms_max: int = 30_000


@dataclass(frozen=True, slots=True)
class SyncSettings:
    """Files that belong to the pair, beside licence and API certificate; each is copied to the same path there."""

    files: tuple[str, ...] = ()  # absolute paths; on both controllers alike
    authorized_keys: str = "/root/.ssh/authorized_keys"  # may differ between the controllers; empty: not copied


@dataclass(frozen=True, slots=True)
class Settings:
    node: Literal["A", "B"] = "A"
    hostname: str = "controller-a"
    state_dir: str = "/var/lib/middlewared"
    run_dir: str = "/run/middleware"
    drivers: Literal["simulated", "netns", "linux"] = "linux"
    machine: str = ""  # simulated drivers: the socket of the simulated machine
    api: ApiSettings = field(default_factory=ApiSettings)
    peer: PeerSettings = field(default_factory=PeerSettings)
    fence: FenceSettings = field(default_factory=FenceSettings)
    failover: FailoverSettings = field(default_factory=FailoverSettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    pools: PoolSettings = field(default_factory=PoolSettings)
    platform: PlatformSettings = field(default_factory=PlatformSettings)
    sync: SyncSettings = field(default_factory=SyncSettings)

    @property
    def socket(self) -> Path:
        """The unix socket for local administration; root there needs no login (PROTOCOL 5.2)."""
        return Path(self.run_dir) / "middlewared.sock"

    @property
    def other_node(self) -> str:
        return "B" if self.node == "A" else "A"


def load(path: Path) -> Settings:
    """Read and check a settings file. Raises SettingsError."""
    try:
        text = path.read_text()
        data = tomllib.loads(text)
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}; `middlewared --config FILE` names another") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: not TOML: {error}") from error
    settings: Settings = _build(Settings, data, str(path))
    _check(settings, str(path))
    return dataclasses.replace(settings, peer=_with_files(settings.peer, Path(settings.state_dir) / PEER_FOLDER))


def _with_files(peer: PeerSettings, folder: Path) -> PeerSettings:
    """With the names of the files that `middlewared pair` makes, where the settings name no others."""
    return dataclasses.replace(
        peer,
        certificate=peer.certificate or str(folder / "own.pem"),
        peer_certificate=peer.peer_certificate or str(folder / "other.pem"),
        pair_key=peer.pair_key or str(folder / "pair.key"),
    )


def _build(kind: type[Any], data: dict[str, Any], where: str) -> Any:
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key not in hints:
            raise SettingsError(f"{where}: unknown key {key!r}; known: {', '.join(sorted(hints))}")
        hint = hints[key]
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, dict):
                raise SettingsError(f"{where}: {key} is a section, write [{key}]")
            values[key] = _build(hint, value, f"{where} [{key}]")  # type: ignore[arg-type]  # checked above
            continue
        default = kind.__dataclass_fields__[key].default
        if isinstance(default, tuple):
            if not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
                raise SettingsError(f"{where}: {key} must be a list of strings")
            value = tuple(value)
        elif type(value) is not type(default):
            raise SettingsError(f"{where}: {key} must be of type {type(default).__name__}")
        values[key] = value
    return kind(**values)


def _is_plain(path: str) -> bool:
    return Path(path).is_absolute() and os.path.normpath(path) == path


def _check(settings: Settings, where: str) -> None:
    fence, peer, api = settings.fence, settings.peer, settings.api
    checks = [
        (settings.node in ("A", "B"), "node must be A or B"),
        (settings.drivers in ("simulated", "netns", "linux"), "drivers must be simulated, netns or linux"),
        (settings.drivers == "linux" or settings.machine != "", f"drivers = {settings.drivers} needs machine"),
        (0 <= settings.network.router_id_base <= 200, "network.router_id_base must be 0..200"),
        (fence.heartbeat_ms >= 10, "fence.heartbeat_ms must be at least 10"),
        (fence.heartbeat_ms * 3 <= fence.alive_ms, "fence.alive_ms must be at least three fence.heartbeat_ms"),
        (fence.alive_ms <= fence.lost_ms, "fence.lost_ms must not be less than fence.alive_ms"),
        (1 <= fence.sentinels <= 16, "fence.sentinels must be 1..16"),
        (
            not fence.watchdog or fence.watchdog_timeout_s * 1000 >= 4 * fence.lost_ms,
            "fence.watchdog_timeout_s must be at least four times fence.lost_ms",
        ),
        (peer.heartbeat_ms * 3 <= peer.timeout_ms, "peer.timeout_ms must be at least three peer.heartbeat_ms"),
        (not api.listen_tls or api.certificate != "", "api.listen_tls needs api.certificate"),
        (
            all(_is_plain(path) for path in (*settings.sync.files, settings.sync.authorized_keys or "/x")),
            "sync.files and sync.authorized_keys must be absolute paths without '..'",
        ),
        (api.connections_max >= 16, "api.connections_max must be at least 16"),
    ]
    for holds, why in checks:
        if not holds:
            raise SettingsError(f"{where}: {why}")
