"""The image of a controller: Debian's packages and the libraries of ours. Built once, then cached.

Each layer is a folder of the cache that is named by what it is made of: the kernel with its modules (ZFS has to be
compiled, minutes), the file system of a machine, and our own package, which is installed when the machines run
(setup.py), so that a change of ours costs seconds. Needs root.
"""

import hashlib
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from middlewared.lab.places import LabError
from middlewared.lab.vm import recipe

ROOT = Path(__file__).resolve().parents[3]  # the checkout that this lab runs from
PREFIX = "opt/middlewared"  # where packaging/systemd expects ours
PYTHON = (3, 11)  # of the suite
SITE_PACKAGES = f"{PREFIX}/lib/python3.11/site-packages"
DISK_BYTES = 2 << 30  # sparse
KEPT_MAX = 3  # of each layer; older ones are removed
_BUILD_S_MAX = 3600
_XZ = b"\xfd7zXZ\x00"
_PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "mmdebstrap": "mmdebstrap",
    "tgtd": "tgt",
    "ip": "iproute2",
    "mkfs.ext4": "e2fsprogs",
    "cpio": "cpio",
}
Say = Callable[[str], None]


def missing() -> str:
    """Why there can be no virtual machines here, a sentence; empty when there can."""
    if os.geteuid() != 0:
        return "the lab of virtual machines needs root: it makes network namespaces and a file system"
    lacking = [package for program, package in _PROGRAMS.items() if shutil.which(program) is None]
    if lacking:
        return f"the lab of virtual machines needs: apt-get install {' '.join(lacking)}  (`make lab-vm` does)"
    if not (ROOT / "packaging" / "systemd").is_dir():
        return f"{ROOT} is no checkout of middlewared: the lab installs the package from there"
    return ""


def cache() -> Path:
    """Outside every checkout, so that all of them share it."""
    named = os.environ.get("XDG_CACHE_HOME")
    return Path(named) / "middlewared-vm" if named else Path("/var/cache/middlewared-vm")


def digest(*parts: object) -> str:
    """The name of a layer."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def sources() -> Iterable[Path]:
    """The files that our package is made of."""
    for folder in ("middlewared", "plugins", "schemas", "packaging"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and not path.is_symlink():
                yield path
    yield from (ROOT / name for name in ("pyproject.toml", "constraints.txt", "README.md", "LICENSE"))


class Image:
    """The layers of this checkout. `say` gets a line for each step that takes long."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._cache = cache()
        libraries = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
        libraries.append((ROOT / "constraints.txt").read_text())
        modules = digest(recipe.SUITE, recipe.MIRROR, recipe.COMPONENTS, recipe.BUILDER_PACKAGES, recipe.MODULES)
        system = digest(
            modules, recipe.PACKAGES, recipe.MASKED, recipe.DISABLED, recipe.FILES, recipe.INIT, DISK_BYTES, libraries
        )
        ours = digest([(str(one.relative_to(ROOT)), one.read_bytes()) for one in sources()])
        self.kernel = self._cache / f"kernel-{modules}"
        self.system = self._cache / f"system-{system}"
        self.package = self._cache / f"package-{ours}"

    @property
    def disk(self) -> Path:
        return self.system / "root.img"

    @property
    def vmlinux(self) -> Path:
        return self.kernel / "vmlinux"

    @property
    def initrd(self) -> Path:
        return self.system / "initrd"

    @property
    def installed(self) -> Path:
        """Our package as pip installs it, bytecode included: an archive to be unpacked at a machine's root."""
        return self.package / "package.tar.gz"

    def warm(self) -> bool:
        """The layers that take minutes are there."""
        return self.kernel.exists() and self.system.exists()

    def build(self) -> None:
        """Make what is not there yet. Raises LabError."""
        for layer, make in ((self.kernel, self._kernel), (self.system, self._system), (self.package, self._package)):
            if not layer.exists():
                self._make(layer, make)
            layer.touch()
        for kind in ("kernel", "system", "package", "pair", "shelf"):  # the last two are prepare.Snapshots'
            self._forget_old(kind)

    # ------------------------------------------------------------------------------------------ layers

    def _kernel(self, folder: Path) -> None:
        """Kernel, and the modules that are needed, in the order in which they can be loaded."""
        self._say("building the kernel module of ZFS: some six minutes, once")
        builder = folder / "builder"
        self._bootstrap(builder, recipe.BUILDER_PACKAGES)
        version = next((builder / "lib/modules").iterdir()).name
        shown = [
            *("chroot", str(builder), "modprobe", "--ignore-install", "--show-depends", "--all", "--set-version"),
            *(version, *recipe.MODULES),
        ]
        lines = _run(*shown).splitlines()
        wanted = list(dict.fromkeys(line.split()[1] for line in lines if line.startswith("insmod")))
        for path in wanted:
            target = folder / "modules" / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(builder / path.lstrip("/"), target)
        for index in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
            shutil.copy(builder / "lib/modules" / version / index, folder / "modules/lib/modules" / version)
        (folder / "vmlinux").write_bytes(_unpacked((builder / f"boot/vmlinuz-{version}").read_bytes()))
        shutil.rmtree(builder)

    def _system(self, folder: Path) -> None:
        self._say("installing Debian and the libraries: about two minutes, once")
        root = folder / "root"
        self._bootstrap(root, recipe.PACKAGES)
        shutil.copytree(self.kernel / "modules", root, dirs_exist_ok=True, symlinks=True)
        _run("chroot", str(root), "depmod", next((self.kernel / "modules/lib/modules").iterdir()).name)
        for name, text in recipe.FILES.items():
            (root / name).unlink(missing_ok=True)
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
            (root / name).chmod(0o755 if "/bin/" in name else 0o644)
        _run("chroot", str(root), "systemctl", "--quiet", "mask", *recipe.MASKED)
        for unit in recipe.DISABLED:
            subprocess.run(
                ["chroot", str(root), "systemctl", "--quiet", "disable", unit], capture_output=True, check=False
            )
        _run("chroot", str(root), "systemctl", "set-default", "multi-user.target")
        _run("chroot", str(root), "python3", "-m", "venv", "--system-site-packages", f"/{PREFIX}")
        wheels = root / "tmp" / "wheels"
        self._wheel(folder, wheels, "--constraint", str(ROOT / "constraints.txt"))
        names = [
            f"/{wheel.relative_to(root)}" for wheel in wheels.iterdir() if not wheel.name.startswith("middlewared-")
        ]
        pip = (f"/{PREFIX}/bin/pip", "--quiet", "--disable-pip-version-check")
        _run("chroot", str(root), *pip, "install", "--no-index", "--no-deps", *names)
        shutil.rmtree(wheels)
        self._make_initrd(root, folder)
        image = ("-d", str(root), str(folder / "root.img"), f"{DISK_BYTES >> 10}k")
        _run("mkfs.ext4", "-q", "-F", "-E", "root_owner=0:0", *image)
        shutil.rmtree(root)

    def _package(self, folder: Path) -> None:
        """Ours as it is in this checkout. Emulated, pip would take minutes; its work here is the same, as Debian's
        Python and ours are of one version."""
        if sys.version_info[:2] != PYTHON:
            raise LabError(f"the machines' Python is {'.'.join(map(str, PYTHON))}: run the lab with the same")
        self._wheel(folder, folder, "--no-deps")
        wheel, tree = next(folder.glob("*.whl")), folder / "tree"
        pip = (
            sys.executable,
            "-m",
            "pip",
            "--disable-pip-version-check",
            "--quiet",
            "install",
            "--no-index",
            "--no-deps",
        )
        _run(*pip, "--target", str(tree), str(wheel))
        with tarfile.open(folder / self.installed.name, "w:gz", compresslevel=1) as archive:
            archive.add(tree, SITE_PACKAGES, filter=_as_root)
            for unit in (ROOT / "packaging" / "systemd").iterdir():
                archive.add(unit, f"etc/systemd/system/{unit.name}", filter=_as_root)
        shutil.rmtree(tree)
        wheel.unlink()

    def _make_initrd(self, root: Path, folder: Path) -> None:
        tree = folder / "initrd.d"
        for name in ("bin", "dev", "root", "modules"):
            (tree / name).mkdir(parents=True)
        shutil.copy(root / "bin/busybox", tree / "bin")
        (tree / "init").write_text(recipe.INIT)
        (tree / "init").chmod(0o755)
        version = next((self.kernel / "modules/lib/modules").iterdir()).name
        shown = _run(
            "chroot", str(root), "modprobe", "--show-depends", "--all", "--set-version", version, *recipe.BOOT_MODULES
        )
        order = list(dict.fromkeys(line.split()[1] for line in shown.splitlines() if line.startswith("insmod")))
        for path in order:
            shutil.copy(root / path.lstrip("/"), tree / "modules")
        (tree / "modules" / "order").write_text("".join(f"{Path(path).name}\n" for path in order))
        names = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
        with (folder / "initrd").open("wb") as packed:
            subprocess.run(
                ["cpio", "--create", "--format=newc", "--quiet"],
                cwd=tree,
                input=names.encode(),
                stdout=packed,
                check=True,
            )
        shutil.rmtree(tree)

    # ------------------------------------------------------------------------------------------ tools

    def _make(self, layer: Path, make: Callable[[Path], None]) -> None:
        """In a folder beside, renamed when it is whole: an interrupted build leaves nothing that looks like one."""
        part = layer.with_name(f"{layer.name}.part")
        try:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(mode=0o700, parents=True)
            make(part)
            part.rename(layer)
        except OSError as error:
            raise LabError(f"the image cannot be built in {self._cache}: {error}") from error
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _bootstrap(self, root: Path, packages: Iterable[str]) -> None:
        options = ["--variant=minbase", "--mode=root", f"--components={recipe.COMPONENTS}", "--quiet"]
        options += ['--aptopt=Apt::Install-Recommends "false"', f"--include={','.join(packages)}"]
        _run("mmdebstrap", *options, recipe.SUITE, str(root), recipe.MIRROR)
        if str(root) in Path("/proc/self/mountinfo").read_text():  # copying it would copy this host's /proc
            raise LabError(f"something is still mounted below {root}: umount it, and try again")

    def _wheel(self, folder: Path, target: Path, *options: str) -> None:
        """Built from a copy, where nothing of an earlier build lies about."""
        copy = folder / "sources"
        for path in sources():
            (copy / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy / path.relative_to(ROOT))
        for name in ("plugins", "schemas"):
            (copy / "middlewared" / name).symlink_to(f"../{name}")
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet")
        _run(*pip, "--wheel-dir", str(target), *options, str(copy))
        shutil.rmtree(copy)

    def _forget_old(self, kind: str) -> None:
        layers = sorted(self._cache.glob(f"{kind}-*"), key=lambda layer: layer.stat().st_mtime, reverse=True)
        for layer in layers[KEPT_MAX:]:
            with suppress(OSError):
                shutil.rmtree(layer)


def _as_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry


def _unpacked(kernel: bytes) -> bytes:
    """The ELF image inside a bzImage (Documentation/x86/boot.rst): Debian packs it with xz."""
    start = kernel.find(_XZ)
    if start < 0:
        raise LabError("the kernel is not packed with xz: it cannot be started without its own loader")
    return lzma.LZMADecompressor().decompress(kernel[start:])


def _run(*command: str) -> str:
    """A step's output. Raises LabError with the end of what it said."""
    ended = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_BUILD_S_MAX, check=False,
        env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
    )  # fmt: skip
    if ended.returncode != 0:
        said = "\n".join((ended.stderr or ended.stdout).strip().splitlines()[-8:])
        raise LabError(f"`{' '.join(command[:4])} …` failed:\n{said}")
    return ended.stdout
