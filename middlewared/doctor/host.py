"""What a controller needs of its host apart from its drivers: rights, folders, ports, certificates, the clock."""

import asyncio
import errno
import os
import platform
import socket
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from middlewared.peer.pairfiles import PairFiles
from middlewared.peer.pairing import RENEW_BEFORE
from middlewared.peer.transport import split_address
from middlewared.ports import Finding
from middlewared.settings import PeerSettings, Settings, SettingsError

PYTHON_MIN = (3, 11)
CLOCK_MIN = datetime(2026, 1, 1, tzinfo=UTC)  # older than this program: the clock was never set
_SOCKET_TIMEOUT_S = 1.0
_ROTATE = "`middlewared pair --rotate` on the controller whose certificate it is, while the link is up"
_PAIR = "`middlewared pair` on both controllers"


async def examine(settings: Settings, now: datetime) -> list[Finding]:
    """Changes nothing; a port is bound for an instant, to learn whether it is free."""
    running = await asyncio.to_thread(daemon_runs, settings.socket)
    return [
        *system(settings),
        clock(now),
        folder("state_dir", Path(settings.state_dir)),
        folder("run_dir", Path(settings.run_dir)),
        *(port(key, address, running=running) for key, address in _addresses(settings)),
        *certificates(settings, now),
    ]


def system(settings: Settings) -> list[Finding]:
    """Interpreter, kernel and rights."""
    fine = sys.version_info >= PYTHON_MIN
    wanted = ".".join(map(str, PYTHON_MIN))
    findings = [
        Finding("Python", fine, platform.python_version(), "" if fine else f"install Python {wanted} or later"),
        Finding("kernel", True, f"{platform.system()} {platform.release()}"),
    ]
    if settings.drivers != "simulated":
        root = os.geteuid() == 0
        findings.append(Finding("root", root, f"uid {os.geteuid()}", "" if root else "run it as root: sudo"))
    return findings


def clock(now: datetime) -> Finding:
    """Certificates and epochs of the configuration go by it."""
    fine = now >= CLOCK_MIN
    return Finding("clock", fine, f"{now:%Y-%m-%d %H:%M:%S} UTC", "" if fine else "set it: apt-get install chrony")


def folder(key: str, path: Path) -> Finding:
    """The folder, or the nearest one above it, is ours to write in."""
    there = next(one for one in (path.absolute(), *path.absolute().parents) if one.exists())
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        detail = f"{path} is writable" if there == path.absolute() else f"{path} can be made"
        return Finding(key, True, detail)
    return Finding(key, False, f"{there} is not writable", f"run as root, or change {key} in the settings")


def daemon_runs(path: Path) -> bool:
    """Somebody listens on the administrator's socket."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(_SOCKET_TIMEOUT_S)
        try:
            client.connect(str(path))
        except OSError:
            return False
        return True


def port(key: str, address: str, *, running: bool) -> Finding:
    """An address to listen on: free, or taken while our daemon runs."""
    subject = f"{key} {address}"
    try:
        host, number = split_address(address)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, number))
    except SettingsError as error:
        return Finding(subject, False, str(error), f"correct {key} in the settings")
    except OSError as error:
        if error.errno == errno.EADDRINUSE and running:
            return Finding(subject, True, "in use, and middlewared runs")
        return Finding(
            subject, False, os.strerror(error.errno or 0), _PORT_REMEDIES.get(error.errno or 0, "run as root")
        )
    return Finding(subject, True, "free")


_PORT_REMEDIES = {
    errno.EADDRINUSE: "see who has it: `ss -ltnp`; stop that, or choose another port in the settings",
    errno.EADDRNOTAVAIL: "give this host that address: the heartbeat interface, or the settings, are wrong",
}


def certificates(settings: Settings, now: datetime) -> list[Finding]:
    """Each one that the settings name, or should; and the key that came with them."""
    peer, api = settings.peer, settings.api
    wanted = [("peer.certificate", peer.certificate, _PAIR), ("peer.peer_certificate", peer.peer_certificate, _PAIR)]
    if api.listen_tls or api.certificate:
        wanted.append(("api.certificate", api.certificate, "have a new one issued"))
    return [*(certificate(key, path, now, remedy) for key, path, remedy in wanted), pair_key(peer)]


def pair_key(peer: PeerSettings) -> Finding:
    """What secrets in the configuration are sealed with."""
    try:
        ring = PairFiles(peer).ring()
    except SettingsError as error:
        return Finding("peer.pair_key", False, str(error), _PAIR)
    if ring is None:
        return Finding("peer.pair_key", False, f"{peer.pair_key}: No such file or directory", _PAIR)
    if Path(peer.pair_key).stat().st_mode & 0o077:
        return Finding("peer.pair_key", False, "others may read it", f"chmod 600 {peer.pair_key}")
    return Finding("peer.pair_key", True, f"{ring.current_id}, and {len(ring.keys) - 1} older ones")


def certificate(key: str, path: str, now: datetime, remedy: str) -> Finding:
    if not path:
        return Finding(key, False, "not set", remedy)
    try:
        found = x509.load_pem_x509_certificate(Path(path).read_bytes())
    except OSError as error:
        return Finding(key, False, f"{path}: {error.strerror}", remedy)
    except ValueError:
        return Finding(key, False, f"{path}: no PEM certificate in it", remedy)
    until = found.not_valid_after_utc
    if now < found.not_valid_before_utc:
        return Finding(key, False, f"not valid before {found.not_valid_before_utc:%Y-%m-%d}", "set the clock")
    if until < now:
        return Finding(key, False, f"expired on {until:%Y-%m-%d}", remedy)
    if until - now < RENEW_BEFORE:
        return Finding(key, False, f"expires on {until:%Y-%m-%d}", _ROTATE if remedy == _PAIR else remedy)
    return Finding(key, True, f"valid until {until:%Y-%m-%d}")


def _addresses(settings: Settings) -> Sequence[tuple[str, str]]:
    named = [("api.listen", one) for one in settings.api.listen]
    named += [("api.listen_tls", one) for one in settings.api.listen_tls]
    named.append(("peer.listen", settings.peer.listen))
    return [(key, address) for key, address in named if not address.startswith("unix:")]
