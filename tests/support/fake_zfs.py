"""`zpool` and `zfs` as OpenZFS 2.1 has them, over a fake kernel in a folder (tests.support.host.FakeHost).

    fake = FakeZfs(host)
    fake.pool("tank", guid="17", devices=["sda", "sdb"])
    ZfsCommands(zpool=fake.zpool, zfs=fake.zfs, …)

The programs are this very file, run by a shell wrapper. Their world is `zfs.json`; the kernel's side of it are
proc/spl/kstat/zfs/ and the entries of running programs in proc/. What a pool misbehaves like is set by its attributes:

    hang_import   the program stays in the kernel, in state D, until it is killed; the kernel goes on without it
    busy          "export" refuses: "once" without -f only, "always" with it too
    hang_export   as hang_import
    hang_status   what asks about the pool never answers (a suspended pool whose lock is held)
    hang_scan     who reads the labels of all disks never ends
    trouble       (state, status, action) in the list of importable pools, "cannot import" when tried
    mount_fails   imported, but a dataset could not be mounted: exit status 1
"""

import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn


class FakeZfs:
    """The test's side."""

    def __init__(self, host: Any) -> None:
        self.root: Path = host.root
        (self.root / "proc/spl/kstat/zfs").mkdir(parents=True)
        self._world: dict[str, Any] = {"pools": {}, "version": "2.1.11"}
        self._save()
        self.zpool = self._program("zpool")
        self.zfs = self._program("zfs")

    def pool(self, name: str, *, guid: str, devices: list[str], imported: bool = False, **how: Any) -> None:
        """`devices`: block devices ("sda") or files ("/tmp/file")."""
        defaults = {"name": name, "devices": devices, "state": "ONLINE", "datasets": {name: {}}, "properties": {}}
        self._world = self._load()
        self._world["pools"][guid] = {**defaults, **how}
        self._save()
        if imported:
            self.appear(guid)

    def change(self, guid: str, **how: Any) -> None:
        self._world = self._load()
        self._world["pools"][guid].update(how)
        self._save()

    def destroy(self, guid: str) -> None:
        self._world = self._load()
        del self._world["pools"][guid]
        self._save()

    def pool_now(self, guid: str) -> dict[str, Any]:
        return dict(self._load()["pools"][guid])

    def appear(self, guid: str) -> None:
        """The kernel has it imported."""
        appear(self.root, self._load()["pools"][guid])

    def vanish(self, name: str) -> None:
        vanish(self.root, name)

    def suspend(self, name: str) -> None:
        (self.root / "proc/spl/kstat/zfs" / name / "state").write_text("SUSPENDED\n")

    def commands(self) -> list[str]:
        """Every command line so far."""
        path = self.root / "zfs.log"
        return path.read_text().splitlines() if path.exists() else []

    def running(self) -> list[int]:
        """Pids of programs that the kernel holds."""
        return [int(entry.name) for entry in (self.root / "proc").iterdir() if entry.name.isdecimal()]

    def release(self, pid: int) -> None:
        """The kernel is done with a program."""
        for name in ("stat", "cmdline"):
            (self.root / f"proc/{pid}/{name}").unlink()
        (self.root / f"proc/{pid}").rmdir()

    def _program(self, name: str) -> str:
        path = self.root / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E {__file__} {self.root} {name} "$@"\n')
        path.chmod(0o755)
        return str(path)

    def _load(self) -> dict[str, Any]:
        return dict(json.loads((self.root / "zfs.json").read_text()))

    def _save(self) -> None:
        (self.root / "zfs.json").write_text(json.dumps(self._world))


def appear(root: Path, pool: dict[str, Any]) -> None:
    folder = root / "proc/spl/kstat/zfs" / pool["name"]
    folder.mkdir()
    (folder / "state").write_text(pool["state"] + "\n")


def vanish(root: Path, name: str) -> None:
    folder = root / "proc/spl/kstat/zfs" / name
    (folder / "state").unlink()
    folder.rmdir()


# ---------------------------------------------------------------------------------------------- the programs' side


class Program:
    def __init__(self, root: Path, argv: list[str]) -> None:
        self.root = root
        self.argv = argv
        self.world = json.loads((root / "zfs.json").read_text())
        self.pools: dict[str, dict[str, Any]] = self.world["pools"]

    def run(self) -> None:
        with (self.root / "zfs.log").open("a") as log:
            log.write(" ".join(self.argv) + "\n")
        if os.environ.get("LC_ALL") != "C" and self.argv[1] != "status":  # of which device nodes alone are read
            raise refused("this would be printed in some other language")
        program, verb, *rest = self.argv
        getattr(self, f"{program}_{verb.replace('-', '_')}")(rest)
        self.save()

    def save(self) -> None:
        """Whole or not at all, and only what changed: several of us run at once."""
        text = json.dumps(self.world)
        if text != (self.root / "zfs.json").read_text():
            draft = self.root / f"zfs.json.{os.getpid()}"
            draft.write_text(text)
            draft.replace(self.root / "zfs.json")

    def imported(self, pool: dict[str, Any]) -> bool:
        return (self.root / "proc/spl/kstat/zfs" / pool["name"]).is_dir()

    def by_name(self, name: str) -> dict[str, Any]:
        for pool in self.pools.values():
            if pool["name"] == name and self.imported(pool):
                if pool.get("hang_status"):
                    self.stay()
                return pool
        raise refused(f"cannot open '{name}': no such pool")

    def stay(self) -> NoReturn:
        """In the kernel until killed; the kernel's own record of us outlives that."""
        folder = self.root / f"proc/{os.getpid()}"
        folder.mkdir()
        (folder / "stat").write_text(f"{os.getpid()} ({self.argv[0]}) D 1 1 1 0 -1 4194304 0\n")
        (folder / "cmdline").write_bytes(b"".join(word.encode() + b"\0" for word in self.argv))
        while True:
            signal.pause()

    def zpool_version(self, rest: list[str]) -> None:
        print(f"zfs-{self.world['version']}-1\nzfs-kmod-{self.world['version']}-1")

    def zpool_list(self, rest: list[str]) -> None:
        assert rest == ["-H", "-p", "-o", "guid,size,allocated"], rest
        for guid, pool in self.pools.items():
            if self.imported(pool):
                self.by_name(pool["name"])
                print(f"{guid}\t6442450944\t1073741824")

    def zpool_get(self, rest: list[str]) -> None:
        assert rest[:4] == ["-H", "-p", "-o", "property,value"], rest
        pool = self.by_name(rest[5])
        guid = next(guid for guid, found in self.pools.items() if found is pool)
        values = {"guid": guid, "failmode": "wait", "multihost": "off", "cachefile": "none", **pool["properties"]}
        for name in rest[4].split(","):
            print(f"{name}\t{values[name]}")

    def zpool_status(self, rest: list[str]) -> None:
        assert rest[0] == "-LP", rest
        pool = self.by_name(rest[1])
        print(f"  pool: {pool['name']}\n state: {pool['state']}\nconfig:\n")
        print(f"\t{'NAME':16}STATE     READ WRITE CKSUM\n\t{pool['name']:16}ONLINE       0     0     0")
        for device in pool["devices"]:
            path = device if device.startswith("/") else f"/dev/{device}"
            print(f"\t  {path:14}ONLINE       0     0     0")
        print("\nerrors: No known data errors")

    def zpool_import(self, rest: list[str]) -> None:
        if not rest or rest[-2:-1] == ["-d"]:
            self.show_importable()
            return
        pool = self.pools.get(rest[-1])
        if pool is None:
            raise refused(f"cannot import '{rest[-1]}': no such pool available")
        name = pool["name"]
        if self.imported(pool):
            raise refused(f"cannot import '{name}': a pool with that name already exists")
        if "-f" not in rest:
            raise refused(f"cannot import '{name}': pool was previously in use from another system.\nLast accessed by "
                 f"controller-b (hostid=8a7f3d2c) at Thu Nov 26 11:23:21 2026\nThe pool can be imported, use 'zpool "
                 f"import -f' to import the pool.")  # fmt: skip
        if pool.get("trouble"):
            raise refused(f"cannot import '{name}': one or more devices is currently unavailable")
        if pool.get("hang_import"):
            self.stay()
        appear(self.root, pool)
        if pool.get("mount_fails"):
            raise refused(f"cannot mount '/mnt/{name}': directory is not empty")

    def show_importable(self) -> None:
        pools = [(guid, pool) for guid, pool in self.pools.items() if not self.imported(pool)]
        if any(pool.get("hang_scan") for _, pool in pools):
            self.stay()
        if not pools:
            raise refused("no pools available to import")
        for guid, pool in pools:
            state, status, action = pool.get("trouble") or (
                "ONLINE",
                "The pool was last accessed by another system.",
                "The pool can be imported using its name or numeric identifier and\n\tthe '-f' flag.",
            )
            print(f"   pool: {pool['name']}\n     id: {guid}\n  state: {state}\nstatus: {status}\n action: {action}")
            print("   see: https://openzfs.github.io/openzfs-docs/msg/ZFS-8000-EY\n config:\n")
            print(f"\t{pool['name']:12}{state}")
            for device in pool["devices"]:
                print(f"\t  {device:10}{state}")
            print()

    def zpool_export(self, rest: list[str]) -> None:
        pool = self.by_name(rest[-1])
        busy = pool.get("busy")
        if busy == "always" or (busy == "once" and "-f" not in rest):
            raise refused(f"cannot unmount '/mnt/{pool['name']}': pool or dataset is busy")
        if pool.get("hang_export"):
            self.stay()
        for dataset in pool["datasets"].values():
            dataset["open"] = False
        vanish(self.root, pool["name"])

    def zfs_list(self, rest: list[str]) -> None:
        assert rest[:5] == ["-H", "-p", "-r", "-t", "filesystem,volume"], rest
        assert rest[6] == "name,type,canmount,mountpoint,mounted,encryptionroot,keystatus,keyformat,keylocation", rest
        for name, dataset in self.by_name(rest[7])["datasets"].items():
            key = dataset.get("key")
            encryption = ("-", "-", "none", "none")
            if key is not None:
                status = "available" if dataset.get("open") else "unavailable"
                encryption = (name, status, dataset.get("format", "passphrase"), dataset.get("location", "prompt"))
            mounted = "no" if dataset.get("unmountable") or encryption[1] == "unavailable" else "yes"
            print("\t".join((name, "filesystem", "on", f"/mnt/{name}", mounted, *encryption)))

    def read_key(self, dataset: dict[str, Any]) -> str:
        """As libzfs does from a pipe: a raw key is all there is to read, any other one a line. Raw: in hexadecimal."""
        if dataset.get("format") == "raw":
            raw = sys.stdin.buffer.read()
            if len(raw) != 32:
                raise refused(f"Key load error: Raw key too {'long' if len(raw) > 32 else 'short'} (expected 32).", 255)
            return raw.hex()
        line = sys.stdin.readline().rstrip("\n")
        if dataset.get("format") == "hex" and not re.fullmatch("[0-9a-fA-F]{64}", line):
            raise refused("Key load error: Hex key too short or invalid (expected 64).", 255)
        return line

    def zfs_load_key(self, rest: list[str]) -> None:
        *options, name = rest
        dataset = self.by_name(name.partition("/")[0])["datasets"][name]
        given = self.read_key(dataset) if "prompt" in options else dataset["key"]
        if dataset.get("open") and "-n" not in options:
            raise refused(f"Key load error: Key already loaded for '{name}'.", 255)
        if given != dataset["key"]:
            raise refused(f"Key load error: Incorrect key provided for '{name}'.", 255)
        if dataset.get("key_file_missing"):
            raise refused("Key load error: Failed to open key material file: No such file or directory", 255)
        if "-n" not in options:
            dataset["open"] = True

    def zfs_mount(self, rest: list[str]) -> None:
        assert rest == ["-a"], rest
        for pool in self.pools.values():
            if pool.get("mount_fails"):
                raise refused(f"cannot mount '/mnt/{pool['name']}': directory is not empty")


def refused(complaint: str, status: int = 1) -> SystemExit:
    print(complaint, file=sys.stderr)
    return SystemExit(status)


if __name__ == "__main__":
    Program(Path(sys.argv[1]), sys.argv[2:]).run()
