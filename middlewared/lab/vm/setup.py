"""What an administrator does on two fresh machines: addresses, disks, a pool, the package's settings, and its units."""

import asyncio
import io
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

from middlewared.lab.places import HEARTBEAT_NIC, Places, other, serial
from middlewared.lab.target import TARGET
from middlewared.lab.vm.image import PREFIX
from middlewared.lab.vm.layout import (
    DISKS,
    EXPORT,
    EXPORT_BYTES,
    EXPORT_PORT,
    EXPORT_TARGET,
    EXPORT_UNIT,
    HOST_ID,
    INITIATOR,
    MANAGEMENT_NIC,
    NICS,
    POOL,
    PORTALS,
    PREFIX_LENGTH,
    SAN_NIC,
    VM,
    address,
)
from middlewared.lab.vm.wires import Agent

CONFIG = "etc/middlewared/middlewared.toml"
STATE = "var/lib/middlewared"
_PROGRAMS = {  # pyproject.toml: project.scripts
    "middlewared": "middlewared.__main__",
    "midctl": "middlewared.cli.main",
    "hactl": "middlewared.cli.hactl",
}
_PROGRAM = "#!/{prefix}/bin/python\nimport sys\nfrom {module} import main\nsys.exit(main())\n"
_SLOW_S = 300.0

_SETTINGS = """\
node = "{letter}"
hostname = "controller-{node}"
drivers = "linux"

[api]
listen = ["0.0.0.0:{port}"]
listen_tls = ["0.0.0.0:{port_tls}"]
port = {port}
port_tls = {port_tls}
certificate = "/{state}/api.pem"

[peer]
listen = "{heartbeat}:{port_heartbeat}"
connect = "{peer}:{port_heartbeat}"

# Everything here is emulated, and takes ten times as long as it would.
heartbeat_ms = 1000
timeout_ms = 10000

[fence]
heartbeat_ms = 500
alive_ms = 1500
lost_ms = 8000
sentinels = 2  # the rest of the disks keep their reservations over a loss of power, where the shelf can

[failover]
import_ms_max = 300000
export_ms_max = 120000
services_ms_max = 120000

[platform]
serial = "{serial}"

[network]
heartbeat = "{heartbeat_nic}"
ignored = ["{san}", "{management}"]
"""

# As their makers recommend for disks that are shared: every disk by its own name, and errors that are told at once.
_MULTIPATH = """\
defaults {
    user_friendly_names no
    find_multipaths no
    polling_interval 2
}
blacklist {
    devnode "^vd"
}
overrides {
    no_path_retry fail
}
"""

_UNITS = {
    "export.service": """\
[Unit]
Description=A disk in the pool, exported by iSCSI

[Service]
ExecStart=/usr/sbin/tgtd --foreground --iscsi portal=0.0.0.0:{port}
ExecStartPost=/bin/sh -ec ' \\
    until tgtadm --op show --mode sys >/dev/null 2>&1; do sleep 0.05; done; \\
    with() {{ tgtadm --lld iscsi --tid 1 "$$@"; }}; \\
    with --op new --mode target -T {target}; \\
    with --op new --mode logicalunit --lun {unit} -b {file} --bsoflags=sync; \\
    with --op update --mode logicalunit --lun {unit} --params scsi_sn=$$(hostname); \\
    with --op bind --mode target -I ALL'
# With sessions it ends for nothing less; what it has acknowledged is in the pool.
KillSignal=SIGKILL
Restart=on-failure
RestartSec=2
""",
    "lab-witness.service": """\
[Unit]
Description=Tells the lab what this machine has
DefaultDependencies=no
After=systemd-udev-settle.service local-fs.target
StartLimitIntervalSec=0

[Service]
ExecStart=/opt/middlewared/bin/python -m middlewared.lab.vm.witness
Restart=always
RestartSec=500ms

[Install]
WantedBy=multi-user.target
""",
}


def settings_text(node: str) -> str:
    """The settings file of a controller. Its state folder, with what pairing made, comes from lab/files.py."""
    return _SETTINGS.format(
        node=node,
        letter=node.upper(),
        state=STATE,
        port=VM.port,
        port_tls=VM.port_tls,
        port_heartbeat=VM.port_heartbeat,
        heartbeat=VM.heartbeat[node],
        peer=VM.heartbeat[other(node)],
        heartbeat_nic=HEARTBEAT_NIC,
        san=SAN_NIC,
        management=MANAGEMENT_NIC,
        serial=serial(node),
    )


async def connect(agent: Agent, node: str) -> None:
    """Names, addresses and kernel modules of a machine that booted for the first time. Raises WireError."""
    interfaces = "".join(
        f"auto {nic}\niface {nic} inet static\n  address {address(node, nic)}/{PREFIX_LENGTH}\n" for nic in NICS
    )
    await agent.run("tee", "/etc/network/interfaces.d/lab", stdin=interfaces.encode())
    await agent.script(
        f"""
        echo controller-{node} > /etc/hostname
        zgenhostid -f {HOST_ID[node]}
        echo InitiatorName={INITIATOR[node]} > /etc/iscsi/initiatorname.iscsi
        modprobe -a zfs iscsi_tcp sg nf_tables
        ifup -a
        systemctl start iscsid
        """,
        timeout_s=_SLOW_S,
    )


async def log_in(agent: Agent, portals: Sequence[str]) -> None:
    """To every portal of the shelf, now and at every boot; dm-multipath where there are two. Raises WireError when not
    all disks appear."""
    await agent.script(
        f"""
        for portal in {" ".join(portals)}; do  # tgt tells only of the one by which it is asked
            iscsiadm -m discovery -t sendtargets -p $portal
        done
        iscsiadm -m node -T {TARGET} -o update -n node.startup -v automatic
        iscsiadm -m node -T {TARGET} -o update -n node.session.timeo.replacement_timeout -v 5
        if test {len(portals)} -gt 1; then
            printf '%s' '{_MULTIPATH}' > /etc/multipath.conf
            systemctl --quiet enable --now multipathd.service
        fi
        iscsiadm -m node -T {TARGET} --login
        for try in $(seq 200); do
            seen=$(ls /sys/block/ | grep -c '^sd') || true
            links=$(ls /dev/disk/by-id/ | grep -c '^scsi-3[0-9a-f]*$') || true
            maps=$(ls /dev/mapper/ | grep -c '^3[0-9a-f]*$') || true
            test {len(portals)} -gt 1 || maps={DISKS}
            test $seen -ge {DISKS * len(portals)} -a $links -ge {DISKS} -a $maps -ge {DISKS} && exit 0
            sleep 0.1
        done
        ls -l /dev/disk/by-id /dev/mapper
        exit 1
        """,
        timeout_s=_SLOW_S,
    )


async def make_pool(agent: Agent) -> None:
    """Mirrors of two with what they are to export, exported again. Raises WireError."""
    await agent.script(
        f"""
        set -- $(ls -d /dev/disk/by-id/scsi-3* | sort)
        zpool create -f -o cachefile=none -o failmode=wait -R /mnt -m /{POOL} {POOL} mirror $1 $2 mirror $3 $4
        truncate -s {EXPORT_BYTES} {EXPORT}
        zpool export {POOL}
        iscsiadm -m node --logout
        """,
        timeout_s=_SLOW_S,
    )


async def provision(agent: Agent, places: Places, node: str) -> None:
    """Everything of the pair on a machine from the snapshot, and the units enabled. Raises WireError."""
    unpack = ("tar", "xzpf", "-", "-C", "/", "--no-overwrite-dir")
    package = await asyncio.to_thread(package_file(places).read_bytes)
    for archive in (package, await asyncio.to_thread(_archive, places, node)):
        await agent.run(*unpack, stdin=archive, timeout_s=_SLOW_S)
    await agent.run("date", "-s", f"@{time.time():.3f}")
    await log_in(agent, PORTALS[: places.layout.paths])
    await agent.script(
        """
        systemctl daemon-reload
        systemctl --quiet enable lab-witness fenced middlewared middlewared-handover
        systemctl start --no-block lab-witness fenced middlewared middlewared-handover
        """,
        timeout_s=_SLOW_S,
    )


def package_file(places: Places) -> Path:
    """What this lab's machines get: image.Image.installed."""
    return places.directory / "package.tar.gz"


def _archive(places: Places, node: str) -> bytes:
    """The settings, what lies in the state folder, our programs as pip makes them, and the lab's own units."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        _add(archive, CONFIG, settings_text(node).encode(), 0o644)
        state = places.state(node)
        for path in sorted(path for path in state.rglob("*") if path.is_file()):
            _add(archive, f"{STATE}/{path.relative_to(state)}", path.read_bytes(), 0o600)
        for name, module in _PROGRAMS.items():
            _add(archive, f"{PREFIX}/bin/{name}", _PROGRAM.format(prefix=PREFIX, module=module).encode(), 0o755)
        for name, text in _UNITS.items():
            unit = text.format(port=EXPORT_PORT, target=EXPORT_TARGET, unit=EXPORT_UNIT, file=EXPORT)
            _add(archive, f"etc/systemd/system/{name}", unit.encode(), 0o644)
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    folder = tarfile.TarInfo(str(Path(name).parent))
    folder.type, folder.mode = tarfile.DIRTYPE, 0o700 if name.startswith(STATE) else 0o755
    if folder.name not in archive.getnames():
        archive.addfile(folder)
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = len(data), mode, int(time.time())
    archive.addfile(entry, io.BytesIO(data))
