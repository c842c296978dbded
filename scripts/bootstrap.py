"""Make `.venv`: the package, installed editable, with everything it needs, on a machine that has only python3.

Needs nothing but the standard library. Debian's python3 comes without pip and without ensurepip, so pip itself is
downloaded (pinned by its hash) when it must be. Nothing here needs root; as root, what systemd-python is built from is
installed with apt-get, unless that would upgrade installed packages (APT_MAY_UPGRADE=1 allows it); where it cannot be
built, the daemon runs without it.

    bootstrap.py [--test] [--netns] [--vm]   --test also installs what `make test` needs; --netns and --vm Debian's
                                             packages for the lab in network namespaces, and for that of virtual
                                             machines, as root; without root it says what is missing

Every step prints one line; the tools' own output goes to .venv/bootstrap.log. Does nothing when nothing has changed.
This file still parses on old Pythons, so that they are refused with a sentence and not with a syntax error.
"""

from __future__ import annotations

import base64
import configparser
import contextlib
import ctypes.util
import hashlib
import os
import re
import shutil
import ssl
import subprocess
import sys
import sysconfig
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LOG = VENV / "bootstrap.log"
STAMP = VENV / "bootstrap.stamp"

PYTHON_MIN = (3, 11)
PIP_WHEEL = "pip-26.3-py3-none-any.whl"
PIP_SHA256 = "f3b60b20ffaadd4415ed7957212a38ac63fa4c5fa375bd0f4a797777940fad13"
DOWNLOAD_BYTES_MAX = 32 << 20
DOWNLOAD_TIMEOUT_S = 60
APT_TIMEOUT_S = 600
PIP_TIMEOUT_S = 1800


class Failed(Exception):
    """A step failed; the message says what and how to go on."""


def main() -> int:
    if sys.version_info < PYTHON_MIN:
        found = ".".join(map(str, sys.version_info[:2]))
        print(f"middlewared needs Python 3.11 or later; {sys.executable} is {found}.", file=sys.stderr)
        print("Remedy: install a newer one, then `make PYTHON=/path/to/python3.11 lab`", file=sys.stderr)
        return 1
    with_tests = "--test" in sys.argv[1:]
    try:
        if not is_current(with_tests):
            build(with_tests)
        if "--netns" in sys.argv[1:]:
            install_lab_packages("the lab in network namespaces", missing_netns_packages())
        if "--vm" in sys.argv[1:]:
            install_lab_packages("the lab of virtual machines", missing_vm_packages())
    except Failed as failure:
        print(f"venv: {failure}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"venv: {error}\nRemedy: is {VENV} yours? Remove it (rm -rf .venv) and try again.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("venv: interrupted; the next run takes up from here", file=sys.stderr)
        return 130
    return 0


def build(with_tests: bool) -> None:
    create()
    LOG.write_text("")  # one run's output, so that a failure is found at once
    install_pip()
    systemd = can_build_systemd()
    extras = "[test]" if with_tests else ""
    say(f"installing middlewared{extras} and its libraries")
    pip("-e", f".{extras}", failure="the libraries could not be installed")
    if systemd:
        install_systemd()
    STAMP.write_text(fingerprint(with_tests))
    say("ready")


# ------------------------------------------------------------------------------------------- is there work?


def is_current(with_tests: bool) -> bool:
    """An environment with the test tools serves those who need fewer, too."""
    if not (STAMP.exists() and PYTHON.exists()):
        return False
    return STAMP.read_text() in {fingerprint(with_tests), fingerprint(True)}


def fingerprint(with_tests: bool) -> str:
    """Everything that decides what the environment contains."""
    digest = hashlib.sha256()
    for part in ("pyproject.toml", "constraints.txt", "scripts/bootstrap.py"):
        digest.update((ROOT / part).read_bytes())
    digest.update(repr((str(ROOT), sys.version, os.path.realpath(sys.executable), has_headers())).encode())
    return f"{'test' if with_tests else 'run'} {digest.hexdigest()}\n"


# ---------------------------------------------------------------------------------------------------- steps


def create() -> None:
    """An empty environment. One that this very Python made is kept; any other is replaced."""
    if PYTHON.exists() and made_by_this_python():
        return
    say(f"creating {VENV}")
    done = subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", "--clear", str(VENV)],
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise Failed(f"{sys.executable} -m venv failed:\n{done.stderr.strip()}")


def made_by_this_python() -> bool:
    config = VENV / "pyvenv.cfg"
    wanted = f"version = {sys.version_info[0]}.{sys.version_info[1]}.{sys.version_info[2]}"
    return config.exists() and wanted in config.read_text() and str(VENV) == recorded_place(config.read_text())


def recorded_place(config: str) -> str:
    """Where the environment was made; its programs name that place, so a moved checkout needs a new one."""
    match = re.search(r"^command = .* (\S.*)$", config, re.MULTILINE)
    return match.group(1) if match else ""


def install_pip() -> None:
    if run([str(PYTHON), "-m", "pip", "--version"], timeout_s=60):
        return
    if run([str(PYTHON), "-m", "ensurepip"], timeout_s=300):
        return
    if os.geteuid() == 0 and not has_certificates() and shutil.which("apt-get"):
        say("apt-get install ca-certificates (to download pip safely)")
        apt("update")
        apt("install", "-y", "--no-install-recommends", "ca-certificates")
    say(f"downloading {PIP_WHEEL}")
    with tempfile.TemporaryDirectory() as folder:
        wheel = Path(folder) / PIP_WHEEL
        wheel.write_bytes(download_pip())
        # A wheel is a zip archive, and pip runs from inside its own.
        if not run([str(PYTHON), f"{wheel}/pip", "install", "--no-index", "--no-deps", str(wheel)], timeout_s=300):
            raise Failed(f"pip could not be installed:\n{log_tail()}")


def can_build_systemd() -> bool:
    """Are the headers for systemd-python here? As root, fetch them; else say once what is missing."""
    if has_headers():
        return True
    packages = missing_packages()
    if os.geteuid() == 0 and shutil.which("apt-get"):
        say(f"apt-get install {' '.join(packages)} (to build systemd-python)")
        apt("update")
        if not would_upgrade(packages) or os.environ.get("APT_MAY_UPGRADE"):
            apt("install", "-y", "--no-install-recommends", *packages)
        if has_headers():
            return True
    say(f"systemd-python left out; the daemon runs without it (to have it: apt-get install {' '.join(packages)})")
    return False


def install_systemd() -> None:
    say("building systemd-python")
    try:
        pip("-e", ".[systemd]", failure="systemd-python did not build")
    except Failed:
        say(f"systemd-python did not build (see {LOG}); the daemon will run without it")


# -------------------------------------------------------------------------------------------- Debian's parts


def install_lab_packages(lab: str, packages: list[str]) -> None:
    """What a lab is made of. None of it is started as a service of this machine."""
    if not packages:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        say(f"for {lab}, as root: apt-get install {' '.join(packages)}")
        return
    say(f"apt-get install {' '.join(packages)} (for {lab})")
    apt("update")
    if would_upgrade(packages) and not os.environ.get("APT_MAY_UPGRADE"):
        say("left out: they would upgrade installed packages; APT_MAY_UPGRADE=1 allows it")
        return
    with services_not_started():
        apt("install", "-y", "--no-install-recommends", *packages)


def missing_vm_packages() -> list[str]:
    programs = {
        "qemu-system-x86_64": "qemu-system-x86", "qemu-img": "qemu-utils", "mmdebstrap": "mmdebstrap", "tgtd": "tgt",
        "ip": "iproute2", "mkfs.ext4": "e2fsprogs", "cpio": "cpio",
    }  # fmt: skip
    missing = [package for program, package in programs.items() if shutil.which(program) is None]
    return missing + ([] if ctypes.util.find_library("iscsi") else ["libiscsi7"])


def missing_netns_packages() -> list[str]:
    programs = {"ip": "iproute2", "keepalived": "keepalived", "nft": "nftables", "tgtd": "tgt", "dbus-daemon": "dbus"}
    missing = [package for program, package in programs.items() if shutil.which(program) is None]
    libraries = {"iscsi": "libiscsi7", "nftables": "libnftables1"}
    return missing + [package for library, package in libraries.items() if ctypes.util.find_library(library) is None]


@contextlib.contextmanager
def services_not_started() -> Iterator[None]:
    """Debian's packages start their services, unless policy-rc.d(8) forbids it."""
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        yield
    finally:
        if ours:
            policy.unlink()


def has_certificates() -> bool:
    """Does this machine know whom to trust on the web?"""
    places = ssl.get_default_verify_paths()
    return places.cafile is not None or (places.capath is not None and any(os.scandir(places.capath)))


def has_headers() -> bool:
    return not missing_packages()


def missing_packages() -> list[str]:
    """Debian packages without which systemd-python cannot be built. Empty: all is there."""
    missing = []
    if not (shutil.which("cc") or shutil.which("gcc")):
        missing += ["gcc", "libc6-dev"]
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        missing.append("python3-dev")
    if not shutil.which("pkg-config"):
        missing += ["pkg-config", "libsystemd-dev"]
    elif subprocess.run(["pkg-config", "--exists", "libsystemd"], capture_output=True).returncode != 0:
        missing.append("libsystemd-dev")
    return missing


def would_upgrade(packages: list[str]) -> bool:
    """Would they replace or remove anything that is installed? A build must not upgrade somebody's systemd."""
    command = ["apt-get", "--simulate", "--no-install-recommends", "install", *packages]
    plan = subprocess.run(command, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True)
    # "Inst NAME [INSTALLED] (NEW ...)" is an upgrade; a new package has no brackets before the parenthesis.
    return plan.returncode != 0 or re.search(r"^(Remv |Inst \S+ \[)", plan.stdout, re.MULTILINE) is not None


def apt(*arguments: str) -> bool:
    patience = ["-o", "DPkg::Lock::Timeout=120", "-o", "Acquire::http::Timeout=20", "-o", "Acquire::Retries=1"]
    return run(["apt-get", "-q", *patience, *arguments], timeout_s=APT_TIMEOUT_S)


# --------------------------------------------------------------------------------------------- fetching pip


def download_pip() -> bytes:
    """The pinned wheel, from the index that pip would use, checked against its hash."""
    index = pip_setting("index-url") or "https://pypi.org/simple"
    page_url = f"{index.rstrip('/')}/pip/"
    page = fetch(page_url).decode("utf-8", "replace")
    link = re.search(rf"""href=["']([^"']*{re.escape(PIP_WHEEL)})(#[^"']*)?["']""", page)
    if link is None:
        raise Failed(f"{without_password(index)} does not offer {PIP_WHEEL}; does PIP_INDEX_URL name a package index?")
    wheel = fetch(urllib.parse.urljoin(page_url, link.group(1).replace("&amp;", "&")))
    if hashlib.sha256(wheel).hexdigest() != PIP_SHA256:
        raise Failed(f"{without_password(index)} sent another {PIP_WHEEL} than the one this project was tested with")
    return wheel


def fetch(url: str) -> bytes:
    """The body of `url`, bounded in time and size; certificates are checked, with pip's own CA file if it has one."""
    shown = without_password(url)
    certificates = ssl.create_default_context(cafile=pip_setting("cert") or None)
    try:
        # Any scheme that pip may use is fine, a mirror's file: too, for the hash decides in the end.
        request, patience_s = request_for(url), DOWNLOAD_TIMEOUT_S
        with urllib.request.urlopen(request, timeout=patience_s, context=certificates) as answer:  # noqa: S310  see above
            body: bytes = answer.read(DOWNLOAD_BYTES_MAX + 1)
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise Failed(f"{shown}: {error.reason}\nRemedy: apt-get install ca-certificates") from error
        raise Failed(f"{shown}: {error.reason}\nRemedy: check the network; PIP_INDEX_URL names a mirror") from error
    if len(body) > DOWNLOAD_BYTES_MAX:
        raise Failed(f"{shown}: more than {DOWNLOAD_BYTES_MAX} bytes")
    return body


def request_for(url: str) -> urllib.request.Request:
    """A GET; a name and password in the address (mirrors have them) become the header that servers expect."""
    parts = urllib.parse.urlsplit(url)
    request = urllib.request.Request(  # noqa: S310  as in fetch
        parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(),
        headers={"Accept": "application/vnd.pypi.simple.v1+html, text/html;q=0.2, */*;q=0.1"},
    )
    if parts.username:
        pair = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        request.add_header("Authorization", "Basic " + base64.b64encode(pair.encode()).decode())
    return request


def without_password(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//", url)


def pip_setting(name: str) -> str:
    """A global setting of pip's: from the environment, else from its configuration files, the user's own last."""
    from_environment = os.environ.get("PIP_" + name.upper().replace("-", "_"))
    if from_environment:
        return from_environment
    home = Path.home()
    files = [Path("/etc/pip.conf"), home / ".pip" / "pip.conf", home / ".config" / "pip" / "pip.conf"]
    files += [Path(os.environ["PIP_CONFIG_FILE"])] if os.environ.get("PIP_CONFIG_FILE") else []
    parser = configparser.RawConfigParser()
    try:
        parser.read(files)
    except configparser.Error as error:
        raise Failed(f"pip's configuration cannot be read: {error}") from error
    return parser.get("global", name, fallback="")


# ------------------------------------------------------------------------------------------ running things


def pip(*arguments: str, failure: str) -> None:
    # fmt: off
    command = [
        str(PYTHON), "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check",
        "--constraint", str(ROOT / "constraints.txt"), *arguments,
    ]
    # fmt: on
    if not run(command, timeout_s=PIP_TIMEOUT_S):
        raise Failed(f"{failure}:\n{log_tail()}\nRemedy: check the network, then try again; all output is in {LOG}")


def run(command: list[str], *, timeout_s: int) -> bool:
    """Run quietly, with the output in the log. False when it failed, does not exist or took too long."""
    with LOG.open("a") as log:
        log.write(f"\n$ {' '.join(command)}\n")
        log.flush()
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=timeout_s,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            log.write(f"{error}\n")
            return False
    return done.returncode == 0


def environment() -> dict[str, str]:
    """Ours, without what would make Python or pip look, or install, elsewhere."""
    kept = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME", "PIP_TARGET"}}
    return {**kept, "PIP_USER": "0", "PIP_ROOT_USER_ACTION": "ignore", "DEBIAN_FRONTEND": "noninteractive"}


def log_tail() -> str:
    return "\n".join(LOG.read_text(errors="replace").splitlines()[-12:])


def say(line: str) -> None:
    print(f"venv: {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
