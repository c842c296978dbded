"""What middlewared needs of the machine under it: plain data, and one Protocol a port.

Every port has a real driver and a simulated one (in `plugins/<feature>/`); the daemon alone picks which. Drivers raise
PortError with a sentence for a human when the machine refuses or does not answer; a driver never guesses.
"""

import enum
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

Listener = Callable[[], None]  # "something changed, look again": never carries the news itself


class PortError(Exception):
    """The machine refused, failed or did not answer in time; the message says which and what to do."""


class NotYet(PortError):
    """What was asked for is still being decided: ask again, for as long as there is time."""


# ---------------------------------------------------------------------------------------------- network


class Vrrp(enum.StrEnum):
    """State of one VRRP instance, in keepalived's words (RFC 9568 section 6.4, plus FAULT and STOP)."""

    MASTER = "MASTER"
    BACKUP = "BACKUP"
    FAULT = "FAULT"  # the link is down
    STOP = "STOP"  # not taking part in the election


@dataclass(frozen=True, slots=True)
class Nic:
    """One network interface of this controller as the kernel shows it."""

    name: str
    link_up: bool
    mac: str
    addresses: tuple[str, ...] = ()  # "192.0.2.1/24"; virtual ones included while they are here
    kind: str = "PHYSICAL"  # of LINK_KINDS


LINK_KINDS = ("PHYSICAL", "BRIDGE", "LINK_AGGREGATION", "VLAN")


@dataclass(frozen=True, slots=True)
class LinkConfig:
    """What can be configured of one interface of this controller: as it is to be, or as the kernel has it now."""

    name: str
    kind: str = "PHYSICAL"  # of LINK_KINDS; present ones may be of other kinds ("VETH"), which are never changed
    up: bool = True
    mtu: int = 1500  # bytes
    description: str = ""
    addresses: tuple[str, ...] = ()  # this controller's own, "192.0.2.1/24"; never those that others put there
    ports: tuple[str, ...] = ()  # BRIDGE, LINK_AGGREGATION: the interfaces below it, sorted
    stp: bool = True  # BRIDGE: spanning tree (IEEE 802.1D)
    protocol: str = ""  # LINK_AGGREGATION: LACP (IEEE 802.1AX), FAILOVER, LOADBALANCE, ROUNDROBIN
    xmit_hash: str = "LAYER2"  # LINK_AGGREGATION: LAYER2, LAYER2+3, LAYER3+4
    lacp_rate: str = "SLOW"  # LINK_AGGREGATION: SLOW, FAST
    parent: str = ""  # VLAN: the interface below it
    tag: int = 0  # VLAN: identifier, 1..4094 (IEEE 802.1Q)
    pcp: int = 0  # VLAN: priority of what is sent, 0..7


@dataclass(frozen=True, slots=True)
class VrrpInstance:
    """One virtual router: the interface it runs on, the addresses it moves, and how eagerly it wants them."""

    interface: str
    addresses: tuple[str, ...]  # virtual, with prefix length: "192.0.2.10/24"
    router_id: int  # 1..255, the same on both controllers
    priority: int  # 1..254, the higher wins an open election; a MASTER is never preempted
    advert_ms: int
    own: tuple[str, ...] = ()  # addresses that do not move, this controller's on the interface; with prefix length
    others: tuple[str, ...] = ()  # and the other controller's. Both known: adverts go between them; else by multicast


@dataclass(frozen=True, slots=True)
class Stranger:
    """Another machine on one of our links that uses our virtual router id there."""

    interface: str
    router_id: int
    address: str  # that its adverts come from


class Interfaces(Protocol):
    """Network interfaces, event-driven; and their configuration, which `apply` alone changes."""

    def nics(self) -> Sequence[Nic]: ...

    def heartbeat(self) -> Nic | None:
        """The interface of the point-to-point link to the other controller; None when it does not exist."""

    async def present(self) -> Sequence[LinkConfig]:
        """Every interface as it is now, loopback left out. Raises PortError.

        Addresses that others keep are not among `addresses`: the VRRP speaker's, DHCP's, SLAAC's, IPv6 link-local ones.
        """

    async def apply(self, wanted: Sequence[LinkConfig], owned: Sequence[LinkConfig]) -> None:
        """Make these interfaces be as wanted, all or nothing: on an error what was before is restored, and PortError
        says what failed.

        `owned`: everything that earlier calls may have put there, one interface perhaps several times. Only what is in
        it is taken away: interfaces, ports and addresses of others stay. Those of kind PHYSICAL that are not in this
        controller, and what is built on them, are passed over.
        """

    def on_change(self, listener: Listener) -> None: ...


class VirtualIps(Protocol):
    """The VRRP speaker (keepalived). It outlives middlewared."""

    def states(self) -> Mapping[str, Vrrp]:
        """Instance state by interface name; empty when the speaker itself is not running."""

    async def configure(self, instances: Sequence[VrrpInstance]) -> None:
        """Replace the set of instances. Those that do not change keep their state and their addresses."""

    async def participate(self, wanted: bool) -> None:
        """False: tell the others (an advert of priority 0), drop all addresses and stay out until True."""

    def strangers(self) -> Sequence[Stranger]:
        """Who else was heard a moment ago to use one of our virtual router ids."""

    def on_change(self, listener: Listener) -> None: ...


class Firewall(Protocol):
    """Keeps traffic to virtual addresses out until the controller is fit to serve it. It outlives middlewared."""

    async def configure(self, addresses: Sequence[str]) -> None:
        """The virtual addresses ("192.0.2.10/24") that it guards from now on, before they can appear here.

        Neither blocks nor allows; but where nothing was guarded before, it begins with blocking.
        """

    async def block(self) -> None: ...

    async def allow(self) -> None: ...

    async def allowed(self) -> bool: ...


# ---------------------------------------------------------------------------------------------- storage


@dataclass(frozen=True, slots=True)
class Disk:
    """A shared disk that this controller can reach (boot disks are not listed)."""

    name: str
    serial: str
    size_bytes: int
    model: str = ""
    paths: int = 1


@dataclass(frozen=True, slots=True)
class Pool:
    """A pool that lives on the shared disks."""

    name: str
    guid: str
    imported: bool  # what this controller's kernel says, never what a configuration says
    status: str  # ONLINE, DEGRADED, SUSPENDED, OFFLINE (not imported here)
    size_bytes: int = 0
    allocated_bytes: int = 0

    @property
    def suspended(self) -> bool:
        """Too many of its disks do not answer or refuse: what is written waits for ever."""
        return self.status == "SUSPENDED"


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset of an imported pool that has a key of its own, or should be mounted and is not."""

    name: str  # "tank/secret"
    has_key: bool  # an encryption root: what is below it opens with its key
    locked: bool  # the kernel does not have the key
    unmounted: bool  # it should be mounted, could be, and is not
    key_format: str = ""  # passphrase, hex, raw; empty without a key of its own
    key_location: str = ""  # "prompt", "file:///…"


class Disks(Protocol):
    def disks(self) -> Sequence[Disk]: ...

    def look(self) -> None:
        """Look again soon: the other controller sees other disks than before."""

    def on_change(self, listener: Listener) -> None: ...


class Pools(Protocol):
    async def pools(self) -> Sequence[Pool]:
        """All pools on the shared disks, imported or not. Raises PortError when the kernel cannot tell.

        While an import is under way, also one that a dead process began, this waits, or raises NotYet: it never says
        "not imported" of a pool that may be imported in a moment.
        """

    def look(self) -> None:
        """Read the labels on the disks again soon: the other controller has other pools or disks than before."""

    async def imported(self) -> Sequence[Pool]:
        """The imported ones alone, by the kernel's own word, also where the disks cannot be read. Waits and raises as
        `pools` does for an import under way."""

    async def trouble(self, guid: str) -> str:
        """Why the pool could not be imported here now, a sentence; empty when it could. Only reads the disks."""

    async def import_pool(self, guid: str) -> None:
        """Import, by force: the fence already excludes every other writer. The caller sets the deadline.

        Also opens the encrypted datasets that it has keys of, and mounts. What stays locked or unmounted does not make
        the import fail: `datasets` tells.
        """

    async def export_pool(self, guid: str) -> None: ...

    async def datasets(self) -> Sequence[Dataset]:
        """Of all imported pools. Raises PortError."""

    async def unlock(self, dataset: str, key: str) -> None:
        """Load the key of an encryption root and mount what it opens; if it is open, check the key.

        `key`: the passphrase; where `key_format` is raw or hex, 32 bytes as 64 hexadecimal digits or in base64.
        Raises PortError; the message never holds the key.
        """

    def hold_keys(self, keys: Mapping[str, str]) -> None:
        """Keys by dataset for `import_pool`, in place of those held before. They are kept in memory only."""

    def keys_held(self) -> Collection[str]:
        """The datasets whose keys `hold_keys` gave."""

    def on_change(self, listener: Listener) -> None: ...


class FenceCode(enum.IntEnum):
    """How `fenced` answers an attempt to take the disks; also its exit codes."""

    OK = 0
    NONE_REGISTERED = 1  # no disk could be registered
    PEER_ALIVE = 2  # the other controller's key is still moving on the disks
    TOO_MANY_REFUSED = 3  # more than 10 % of the disks refused
    ALL_EXCLUDED = 4  # no disk is left to reserve
    UNEXPECTED = 5
    ALREADY_RUNNING = 6


@dataclass(frozen=True, slots=True)
class FenceState:
    """What the keeper knows. `running` False means that nobody answers: then nothing else here is to be believed."""

    running: bool = False
    held: bool = False  # we hold the reservations, verified by reading them back
    peer_moving: bool = False  # the other controller's key changed within fence.alive_ms
    generation: int = 0
    disks_total: int = 0
    disks_held: int = 0
    disks_failed: tuple[str, ...] = ()  # serials
    too_many_failed: bool = False  # a takeover from here would be refused: TOO_MANY_REFUSED, or no disk at all


@dataclass(frozen=True, slots=True)
class FenceResult:
    code: FenceCode
    message: str = ""  # a sentence: what refused and why


@dataclass(frozen=True, slots=True)
class DiskRehearsal:
    """One shared disk, read once without touching it."""

    serial: str
    problem: str = ""  # why it cannot be read, a sentence; empty: it answers
    holder: str = ""  # of the reservation: A, B, or somebody else's key in hexadecimal; empty: nobody
    unexpected: tuple[str, ...] = ()  # registered keys that should not be there, in hexadecimal


@dataclass(frozen=True, slots=True)
class FenceRehearsal:
    """What a takeover would meet on the disks: `result` by the keeper's own rule, and each disk that it knows."""

    result: FenceResult
    disks: tuple[DiskRehearsal, ...]


class Fencing(Protocol):
    """Reservations on the shared disks, kept by `fenced`, which outlives middlewared."""

    def state(self) -> FenceState: ...

    async def acquire(self, *, force: bool) -> FenceResult:
        """Take the disks. Without force a peer whose key is still moving is left alone (PEER_ALIVE)."""

    async def held(self) -> bool:
        """Whether the reservations are ours, by the keeper's word of now. Raises PortError when it does not answer."""

    async def rehearse(self) -> FenceRehearsal:
        """Read keys and reservation of every known disk once; never writes. Raises PortError."""

    async def run_info(self) -> Mapping[str, Any]:
        """The keeper's own view, for an administrator, as `failover.fenced.run_info` shows it. Raises PortError."""

    async def forget(self, serials: Sequence[str]) -> None:
        """Count these disks no longer: neither controller sees them any more. The keeper goes on counting those that it
        sees itself, or waits for. Raises PortError."""

    async def release(self) -> None:
        """Give the reservations and registrations up. Only ever after the pools are seen exported."""

    def on_change(self, listener: Listener) -> None:
        """Also called when the reservations are lost."""


# ---------------------------------------------------------------------------------------------- the rest


class Services(Protocol):
    """The services that run where the pools are (shares, targets)."""

    def configure(self, units: Mapping[str, str]) -> None:
        """Replace the services that there are: systemd's unit by service name."""

    def states(self) -> Mapping[str, bool]:
        """Running or not, by service name; those that this machine lacks are left out. Unknown counts as running."""

    async def start(self, name: str) -> None: ...

    async def stop(self, name: str) -> None: ...

    def on_change(self, listener: Listener) -> None: ...


class Power(Protocol):
    def reset(self, reason: str) -> None:
        """Reset the machine at once and without any ceremony (sysrq b); does not return. For S3 only."""

    async def reboot(self, reason: str) -> None:
        """Orderly restart of the machine."""

    async def shutdown(self, reason: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Identity:
    """What this controller is; read once at start, except where a driver reports a change."""

    boot_id: str
    hardware: str  # ECHOWARP, …; MANUAL when unknown
    serial: str
    version: str
    licensed: bool
    reboot_reasons: Mapping[str, str] = field(default_factory=dict)  # code (UPGRADE, FIPS, GPOSSTIG) -> sentence
    migrating_system_dataset: bool = False
    booting: bool = False  # the operating system has not finished starting
    licence_problem: str = ""  # why it is not licensed, a sentence


class Platform(Protocol):
    def identity(self) -> Identity: ...

    def on_change(self, listener: Listener) -> None: ...


@dataclass(frozen=True, slots=True)
class Ports:
    """One controller's drivers, as the daemon picked them."""

    interfaces: Interfaces
    virtual_ips: VirtualIps
    firewall: Firewall
    disks: Disks
    pools: Pools
    fencing: Fencing
    services: Services
    power: Power
    platform: Platform


# ---------------------------------------------------------------------------------------------- real drivers


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a real driver looked at on this host: one row of `middlewared doctor`."""

    subject: str  # "keepalived", "/dev/watchdog", "pool tank: failmode"
    ok: bool
    detail: str  # what was found: "2.2.7", "not installed", "continue"
    remedy: str = ""  # what to do when it is not ok: "apt-get install keepalived"


class Driver(Protocol):
    """What every real driver has beside its port: a life, and a look at the host that changes nothing."""

    async def start(self) -> None:
        """Raises PortError when the driver cannot work at all here; the sentence names the remedy."""

    async def stop(self) -> None: ...

    async def examine(self) -> Sequence[Finding]:
        """What it needs of this host, found or missing. Works before `start`, and never raises."""
