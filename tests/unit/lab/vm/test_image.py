"""The image's cache: what makes a new layer, and what a build that breaks off leaves behind."""

import lzma
import os
import shutil
from pathlib import Path

import pytest

from middlewared.lab.places import LabError
from middlewared.lab.vm import image, recipe
from middlewared.lab.vm.image import Image


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "middlewared-vm"


def names(one: Image) -> tuple[str, str, str]:
    return one.kernel.name, one.system.name, one.package.name


def test_a_layer_is_named_by_what_it_is_made_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = names(Image(print))
    assert before == names(Image(print))
    monkeypatch.setattr(recipe, "PACKAGES", (*recipe.PACKAGES, "nfs-kernel-server"))
    kernel, system, package = names(Image(print))
    assert (kernel, package) == (before[0], before[2])
    assert system != before[1]
    monkeypatch.setattr(recipe, "MODULES", (*recipe.MODULES, "nfsd"))
    assert names(Image(print))[0] != kernel
    ours = tmp_path / "ours.py"
    ours.write_text("")
    monkeypatch.setattr(image, "ROOT", tmp_path)
    monkeypatch.setattr(image, "sources", lambda: [ours])
    (tmp_path / "constraints.txt").write_text("")
    (tmp_path / "pyproject.toml").write_text("[project]\ndependencies = []\n")
    empty = names(Image(print))[2]
    ours.write_text("x = 1\n")
    assert names(Image(print))[2] != empty


def test_everything_of_ours_belongs_to_the_package() -> None:
    found = {str(path.relative_to(image.ROOT)) for path in image.sources()}
    assert {
        "middlewared/daemon.py",
        "plugins/pool/zfs.py",
        "plugins/platform/hardware.json",
        "schemas/failover.json",
        "packaging/systemd/fenced.service",
    } <= found
    assert not any("__pycache__" in name or name.startswith("middlewared/plugins") for name in found)


def test_a_build_that_breaks_off_leaves_no_layer(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    one = Image(print)

    def halfway(folder: Path) -> None:
        (folder / "vmlinux").touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(one, "_kernel", halfway)
    with pytest.raises(LabError, match="No space left"):
        one.build()
    assert list(cache.iterdir()) == []


def test_old_layers_are_forgotten(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    one = Image(print)
    for name in ("_kernel", "_system", "_package"):
        monkeypatch.setattr(one, name, lambda folder: None)
    for number in range(5):
        old = cache / f"package-{number}"
        old.mkdir(parents=True)
        os.utime(old, (number, number))
    one.build()
    assert one.package.exists()
    assert sorted(path.name for path in cache.glob("package-?")) == ["package-3", "package-4"]


def test_the_kernel_is_taken_out_of_its_wrapping() -> None:
    assert image._unpacked(b"boot code" + lzma.compress(b"\x7fELF kernel") + b"trailer") == b"\x7fELF kernel"
    with pytest.raises(LabError, match="not packed with xz"):
        image._unpacked(b"\x1f\x8b gzip")


def test_who_lacks_something_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "needs root" in image.missing()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda program: None if "qemu" in program else "/usr/bin/x")
    assert "apt-get install qemu-system-x86 qemu-utils" in image.missing()
