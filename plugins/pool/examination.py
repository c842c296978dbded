"""What ZFS needs on this host to be safe in a pair: rows of `middlewared doctor`. Only reads."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from middlewared.blockdevices import root_pool
from middlewared.plugins.pool import kernel
from middlewared.plugins.pool.commands import ZfsCommands
from middlewared.ports import Finding, PortError

VERSION_MIN = (2, 1)
_UNITS = "etc/systemd/system"


async def examine(root: Path, commands: ZfsCommands, ignored: Collection[str]) -> Sequence[Finding]:
    """Never raises. `ignored`: pools that are this controller's own."""
    findings = [_module(root), await _tools(commands), _hostid(root), *_boot_imports(root)]
    try:
        states = kernel.states(root)
    except OSError:
        return findings
    for name, state in states.items():
        if name not in ignored:
            findings += await _pool(commands, name, state)
    return findings


def _module(root: Path) -> Finding:
    try:
        version = (root / "sys/module/zfs/version").read_text().strip()
    except OSError:
        return Finding(
            "zfs module", False, "not loaded", "apt-get install zfs-dkms (component contrib), then modprobe zfs"
        )
    return Finding("zfs module", True, version)


async def _tools(commands: ZfsCommands) -> Finding:
    try:
        version = await commands.version()
    except PortError as error:
        return Finding("zpool", False, str(error), "apt-get install zfsutils-linux")
    text = ".".join(map(str, version))
    if version < VERSION_MIN:
        wanted = ".".join(map(str, VERSION_MIN))
        return Finding("zpool", False, f"OpenZFS {text}", f"install OpenZFS {wanted} or later, tools and module")
    return Finding("zpool", True, f"OpenZFS {text}")


def _hostid(root: Path) -> Finding:
    """The module's parameter counts, then the file (zgenhostid(8)): four bytes of the machine's order."""
    number = 0
    try:
        number = int((root / "sys/module/spl/parameters/spl_hostid").read_text())
    except (OSError, ValueError):
        number = 0
    if not number:
        try:
            number = int.from_bytes((root / "etc/hostid").read_bytes()[:4], "little")
        except OSError:
            number = 0
    if not number:
        return Finding("hostid", False, "none is set: ZFS cannot tell which controller used a pool last", "zgenhostid")
    return Finding("hostid", True, f"{number:08x}; the other controller's must differ")


def _boot_imports(root: Path) -> Iterator[Finding]:
    """Nothing but middlewared may import a shared pool: a boot does not ask who holds the reservations."""
    if _enabled(root, "zfs-import-scan.service"):
        yield Finding(
            "zfs-import-scan.service",
            False,
            "enabled: a boot imports every pool that it finds on any disk",
            "systemctl disable zfs-import-scan.service",
        )
    cache = root / "etc/zfs/zpool.cache"
    if not _enabled(root, "zfs-import-cache.service") or not cache.exists():
        return
    own = root_pool(root)
    yield Finding(
        "zfs-import-cache.service",
        bool(own),
        f"enabled: a boot imports the pools that /etc/zfs/zpool.cache names{f'; it must name {own} alone' * bool(own)}",
        "zpool set cachefile=none for each shared pool; then, unless this host runs from ZFS, "
        "systemctl disable zfs-import-cache.service and remove /etc/zfs/zpool.cache",
    )


def _enabled(root: Path, unit: str) -> bool:
    return any((root / _UNITS).glob(f"*.wants/{unit}"))


async def _pool(commands: ZfsCommands, name: str, state: str) -> Sequence[Finding]:
    subject = f"pool {name}"
    if state == "SUSPENDED":
        return [Finding(subject, False, "its I/O is suspended", "bring its disks back, or reset this controller")]
    try:
        failmode, multihost, cachefile = await commands.properties(name, "failmode", "multihost", "cachefile")
    except PortError as error:
        return [Finding(subject, False, str(error), "look at `zpool status` and at the kernel's log")]
    return [
        Finding(
            f"{subject}: failmode",
            failmode in ("wait", "panic"),
            failmode if failmode != "continue" else "continue: a pool that lost its disks still looks ONLINE",
            f"zpool set failmode=wait {name}",
        ),
        Finding(
            f"{subject}: multihost",
            multihost == "off",
            multihost
            if multihost == "off"
            else "on: adds more than 20 s to every takeover, and guards against nothing that the reservations do not",
            f"zpool set multihost=off {name}, unless the disks have no reservations",
        ),
        Finding(
            f"{subject}: cachefile",
            cachefile == "none",
            cachefile if cachefile != "-" else "the default: a boot may import it without asking for the reservations",
            f"zpool set cachefile=none {name}",
        ),
    ]
