"""What Linux tells about the machine we run on: /proc, /sys and the C library. Values that nobody knows are None."""

import os
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

_ZONEINFO = "/zoneinfo/"


@dataclass(frozen=True, slots=True)
class Machine:
    cores: int
    physical_cores: int | None
    model: str | None
    memory_bytes: int | None
    load: tuple[float, float, float]  # runnable processes, averaged over 1, 5 and 15 minutes
    uptime: timedelta
    now: datetime
    timezone: str
    ecc: bool | None  # None: no driver reports on the memory, which may be of either kind

    @property
    def booted(self) -> datetime:
        return self.now - self.uptime


def read(root: Path = Path("/")) -> Machine:
    """Read everything once. `root` is another place for /proc, /sys and /etc, for tests."""
    cpuinfo = _text(root / "proc/cpuinfo")
    return Machine(
        cores=os.cpu_count() or 1,
        physical_cores=physical_cores(cpuinfo),
        model=_first(r"^model name\s*: (.+)$", cpuinfo),
        memory_bytes=memory_bytes(_text(root / "proc/meminfo")),
        load=os.getloadavg(),
        uptime=timedelta(seconds=time.clock_gettime(time.CLOCK_BOOTTIME)),
        now=datetime.now(UTC),
        timezone=timezone(root),
        ecc=True if (root / "sys/devices/system/edac/mc/mc0").exists() else None,
    )


def memory_bytes(meminfo: str) -> int | None:
    """The size of physical memory, from the text of /proc/meminfo (whose "kB" are KiB)."""
    kib = _first(r"^MemTotal:\s+(\d+) kB$", meminfo)
    return None if kib is None else int(kib) * 1024


def physical_cores(cpuinfo: str) -> int | None:
    """Distinct (socket, core) pairs in /proc/cpuinfo; None where the architecture or hypervisor does not list them."""
    packages = re.findall(r"^physical id\s*: (\d+)$", cpuinfo, re.MULTILINE)
    cores = re.findall(r"^core id\s*: (\d+)$", cpuinfo, re.MULTILINE)
    if not cores or len(packages) != len(cores):
        return None
    return len(set(zip(packages, cores, strict=True)))


def timezone(root: Path = Path("/")) -> str:
    """The name in the tz database, from where /etc/localtime points to; UTC when it points nowhere (localtime(5))."""
    target = os.path.realpath(root / "etc/localtime")
    return target.partition(_ZONEINFO)[2].removeprefix("Etc/") or "UTC"


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _first(pattern: str, text: str) -> str | None:
    match = re.search(pattern, text, re.MULTILINE)
    return match.group(1).strip() if match else None
