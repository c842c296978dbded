"""An onlooker inside a virtual machine: tells the lab what the kernel has, without asking our own programs.

`python -m middlewared.lab.vm.witness`, by lab-witness.service. One JSON line for each change, to a port of the virtual
hardware; the last one again every few seconds, for a lab that was not listening.
"""

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from middlewared.lab.vm.layout import VM, WITNESS_PORT
from middlewared.plugins.firewall.nft_rules import TABLE, shown

PORT = Path("/dev/virtio-ports") / WITNESS_PORT
UNITS = {"middlewared": "middlewared.service", "fenced": "fenced.service", "keepalived": "middlewared-vrrp.service"}
LOOK_S = 0.5  # it has to share an emulated processor
AGAIN_S = 5.0
_FIREWALL_LOOK_S = 3.0  # nft takes a good half second of that processor
_NFT_S_MAX = 5.0
_POOLS = Path("/proc/spl/kstat/zfs")


def looks() -> Iterator[dict[str, Any]]:
    """What is seen now, each time that it is asked for."""
    asked_s, allowed = 0.0, False
    before: tuple[list[dict[str, Any]], dict[str, list[str]]] = ([], {})
    while True:
        pools, held = _pools(), _held()
        now_s = time.monotonic()
        if (pools, held) != before or (held and now_s - asked_s > _FIREWALL_LOOK_S):
            allowed, asked_s, before = _allowed() if held else False, now_s, (pools, held)
        yield {
            "pools": pools,
            "held": held,
            "firewall_allowed": allowed,
            "units": {name: _main_pid(unit) for name, unit in UNITS.items()},
        }


def main() -> None:
    told, told_s = "", 0.0
    with PORT.open("wb", buffering=0) as port:
        for seen in looks():
            line = json.dumps(seen)
            if line != told or time.monotonic() - told_s > AGAIN_S:
                port.write(line.encode() + b"\n")
                told, told_s = line, time.monotonic()
            time.sleep(LOOK_S)


def _pools() -> list[dict[str, Any]]:
    """Imported pools by the kernel's own list (VMLAB, section 3)."""
    try:
        entries = sorted(_POOLS.iterdir())
    except OSError:
        return []
    return [
        {"name": entry.name, "imported": True, "status": _text(entry / "state") or "UNKNOWN"}
        for entry in entries
        if entry.is_dir() and not entry.name.startswith("$")
    ]


def _held() -> dict[str, list[str]]:
    """Which virtual addresses this machine has: only those can be bound."""
    return {nic: [address] for nic, address in zip(("eth0", "eth1"), VM.virtual, strict=True) if _has(address)}


def _has(address: str) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def _allowed() -> bool:
    try:
        command = ["nft", "-j", "list", "table", "inet", TABLE]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=_NFT_S_MAX, check=False)
        return ended.returncode == 0 and shown(ended.stdout).is_open
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return False


def _main_pid(unit: str) -> int | None:
    """The first process of a unit; None when it does not run."""
    words = _text(Path("/sys/fs/cgroup/system.slice") / unit / "cgroup.procs").split()
    return int(words[0]) if words else None


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


if __name__ == "__main__":
    os.nice(-5)
    main()
