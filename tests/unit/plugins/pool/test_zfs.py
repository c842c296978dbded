"""The ZFS driver on a fake kernel: lists, imports, exports, and everything that hangs."""

import asyncio
import base64
import dataclasses
import itertools
from pathlib import Path

import pytest
from support.fake_zfs import FakeZfs
from support.host import FakeHost

from middlewared.blockdevices import BlockDeviceWatch
from middlewared.plugins.pool import kernel
from middlewared.plugins.pool.commands import ZfsCommands
from middlewared.plugins.pool.zfs import ZfsPools
from middlewared.ports import Pool, PortError
from tests.unit.plugins.pool.conftest import QUICK, until

EXPORTED = Pool("tank", "17", False, "OFFLINE")
IMPORTED = Pool("tank", "17", True, "ONLINE")


def tank(zfs: FakeZfs, **how: object) -> None:
    zfs.pool("tank", guid="17", devices=["sda", "sdb"], **how)


# ---------------------------------------------------------------------------------------------- what there is


async def test_no_pool_at_all(driver: ZfsPools) -> None:
    assert await driver.pools() == []


async def test_a_scan_that_found_nothing_is_not_believed_for_long(zfs: FakeZfs, driver: ZfsPools) -> None:
    """Disks that are being fenced show no labels; a takeover that believed it would lead without pools."""
    assert await driver.pools() == []
    tank(zfs)
    assert await driver.pools() == [EXPORTED]
    assert await driver.pools() == [EXPORTED]
    scans = [line for line in zfs.commands() if line == "zpool import"]
    assert len(scans) == 2  # what was found is remembered


async def test_pools_imported_and_not(zfs: FakeZfs, driver: ZfsPools) -> None:
    tank(zfs, imported=True)
    zfs.pool("dozer", guid="18", devices=["sdb"])
    assert await driver.pools() == [IMPORTED, Pool("dozer", "18", False, "OFFLINE")]


async def test_local_pools_are_not_listed(host: FakeHost, zfs: FakeZfs, driver: ZfsPools) -> None:
    host.mounts(["26 1 0:23 / / rw - zfs rpool/ROOT/debian rw"])
    zfs.pool("rpool", guid="1", devices=["sda"], imported=True)  # whatever it is on
    zfs.pool("scratch", guid="2", devices=["vda1"], imported=True)
    zfs.pool("offline", guid="3", devices=["vda1"])
    zfs.pool("file", guid="4", devices=["/tmp/file"], imported=True)
    tank(zfs)
    assert await driver.pools() == [EXPORTED]


async def test_a_shelf_that_has_just_appeared_is_shared(host: FakeHost, zfs: FakeZfs, driver: ZfsPools) -> None:
    """The watch has not looked since."""
    host.scsi("sdc", address="0:0:2:0", serial="S3", wwid="naa.3")
    zfs.pool("new", guid="19", devices=["sdc"], imported=True)
    assert await driver.pools() == [Pool("new", "19", True, "ONLINE")]


async def test_pools_that_the_settings_name_are_not_listed(
    zfs: FakeZfs, watch: BlockDeviceWatch, commands: ZfsCommands
) -> None:
    tank(zfs, imported=True)
    assert await ZfsPools(watch, commands=commands, ignored=["tank"]).pools() == []


async def test_sizes_come_later_and_a_change_is_told(zfs: FakeZfs, driver: ZfsPools) -> None:
    tank(zfs, imported=True)
    changed = asyncio.Event()
    driver.on_change(changed.set)
    await driver.start()
    try:
        await until(lambda: any(line.startswith("zpool list") for line in zfs.commands()))
        await until(lambda: "17" in driver._sizes)
        assert (await driver.pools())[0].size_bytes == 6 << 30
        zfs.suspend("tank")
        async with asyncio.timeout(30):
            await changed.wait()
        assert (await driver.pools())[0].status == "SUSPENDED"
    finally:
        await driver.stop()


async def test_a_new_pool_is_told_as_soon_as_somebody_says_that_there_is_one(zfs: FakeZfs, driver: ZfsPools) -> None:
    """The next look by itself would be in ten minutes."""
    changed = asyncio.Event()
    await driver.start()
    try:
        await until(lambda: driver._known == {})
        driver.on_change(changed.set)
        tank(zfs)
        driver.look()
        async with asyncio.timeout(30):
            await changed.wait()
        assert await driver.pools() == [EXPORTED]
    finally:
        await driver.stop()


async def test_without_the_module_it_does_not_start(host: FakeHost, commands: ZfsCommands, driver: ZfsPools) -> None:
    (host.root / "proc/spl/kstat/zfs").rmdir()
    with pytest.raises(PortError, match="modprobe zfs"):
        await driver.start()
    with pytest.raises(PortError, match="modprobe zfs"):
        await driver.pools()


async def test_a_hanging_command_hides_no_imported_pool(zfs: FakeZfs, watch: BlockDeviceWatch) -> None:
    """Its devices are not told, so it counts as shared; neither are there sizes, nor other pools."""
    tank(zfs, imported=True)
    commands = ZfsCommands(zfs.zpool, zfs.zfs, devices="/nowhere", quick_ms=20_000)
    driver = ZfsPools(watch, commands=commands, timing=QUICK)
    await driver.pools()
    zfs.change("17", hang_status=True)
    zfs.suspend("tank")
    assert await driver.pools() == [Pool("tank", "17", True, "SUSPENDED")]


async def test_a_pool_whose_guid_nobody_tells_is_an_error(zfs: FakeZfs, watch: BlockDeviceWatch) -> None:
    tank(zfs, imported=True, hang_status=True)
    commands = ZfsCommands(zfs.zpool, zfs.zfs, devices="/nowhere", quick_ms=200)
    with pytest.raises(PortError, match="did not end within 200 ms"):
        await ZfsPools(watch, commands=commands, timing=QUICK).pools()


async def test_disks_that_cannot_be_read_are_an_error_while_nothing_is_imported(
    zfs: FakeZfs, watch: BlockDeviceWatch, commands: ZfsCommands
) -> None:
    broken = dataclasses.replace(commands, zpool="/nowhere/zpool")
    driver = ZfsPools(watch, commands=broken, timing=QUICK)
    with pytest.raises(PortError, match="cannot be run"):
        await driver.pools()
    assert await driver.imported() == []  # which the kernel alone tells


# ---------------------------------------------------------------------------------------------- import


async def test_import(zfs: FakeZfs, driver: ZfsPools) -> None:
    tank(zfs)
    assert await driver.pools() == [EXPORTED]
    await driver.import_pool("17")
    assert await driver.pools() == [IMPORTED]
    await driver.import_pool("17")  # again: nothing to do
    imports = [line for line in zfs.commands() if line.startswith("zpool import -f")]
    assert imports == ["zpool import -f -o cachefile=none -R /mnt 17"]


async def test_each_device_is_searched_once_by_the_name_that_lasts(
    zfs: FakeZfs, host: FakeHost, watch: BlockDeviceWatch, commands: ZfsCommands
) -> None:
    tank(zfs)
    folder = host.root / "dev/disk/by-id"
    folder.mkdir(parents=True)
    for name in ("scsi-36000c500-part1", "wwn-0x6000c500-part1", "scsi-36000c501-part1"):
        (folder / name).symlink_to(f"../../sd{'a' if '500' in name else 'b'}1")
    by_id = dataclasses.replace(commands, devices=str(folder))
    await ZfsPools(watch, commands=by_id, timing=QUICK).import_pool("17")
    searched = f"-d {folder}/scsi-36000c501-part1 -d {folder}/wwn-0x6000c500-part1"
    assert f"zpool import -f -o cachefile=none -R /mnt {searched} 17" in zfs.commands()


async def test_a_complaint_names_the_folder_that_was_searched(
    zfs: FakeZfs, host: FakeHost, commands: ZfsCommands
) -> None:
    tank(zfs, trouble=["UNAVAIL", "One or more devices are missing from the system.", "The pool cannot be imported."])
    folder = host.root / "dev"
    complaint = await dataclasses.replace(commands, devices=str(folder)).import_pool("17")
    assert f"zpool import -f -o cachefile=none -R /mnt -d {folder} 17`: cannot import 'tank'" in complaint


async def test_a_folder_without_devices_is_searched_all_the_same(
    zfs: FakeZfs, commands: ZfsCommands, tmp_path: Path
) -> None:
    """Without -d, zpool would search others."""
    tank(zfs)
    (tmp_path / "empty").mkdir()
    await dataclasses.replace(commands, devices=str(tmp_path / "empty")).importable()
    assert zfs.commands()[-1] == f"zpool import -d {tmp_path}/empty"


async def test_a_pool_that_cannot_be_imported(zfs: FakeZfs, driver: ZfsPools) -> None:
    tank(zfs, trouble=["UNAVAIL", "One or more devices are missing from the system.", "The pool cannot be imported."])
    why = "tank: UNAVAIL: One or more devices are missing from the system. Not usable: sda, sdb."
    assert await driver.trouble("17") == why
    with pytest.raises(PortError, match=r"cannot import 'tank': one or more devices is currently unavailable"):
        await driver.import_pool("17")
    assert await driver.pools() == [EXPORTED]


async def test_trouble_only_reads(zfs: FakeZfs, driver: ZfsPools) -> None:
    tank(zfs)
    assert await driver.trouble("17") == ""
    assert await driver.trouble("18") == "no disk that can be read here carries a label of this pool"
    zfs.appear("17")
    assert await driver.trouble("17") == ""
    verbs = {" ".join(line.split()[:2]) for line in zfs.commands()}
    assert verbs == {"zpool import", "zpool get", "zpool status"}
    assert not [line for line in zfs.commands() if line.startswith("zpool import -f")]


async def test_a_pool_that_is_not_there(driver: ZfsPools) -> None:
    with pytest.raises(PortError, match="cannot import '99': no such pool available"):
        await driver.import_pool("99")


async def test_imported_but_not_mounted_is_imported(
    zfs: FakeZfs, driver: ZfsPools, caplog: pytest.LogCaptureFixture
) -> None:
    tank(zfs, mount_fails=True, datasets={"tank": {"unmountable": True}})
    await driver.import_pool("17")
    assert "directory is not empty" in caplog.text
    assert [(found.name, found.unmounted) for found in await driver.datasets()] == [("tank", True)]


async def test_while_an_import_is_under_way_nobody_says_not_imported(zfs: FakeZfs, driver: ZfsPools) -> None:
    """It is given up; its program is killed, but the kernel goes on with it, and may succeed."""
    tank(zfs, hang_import=True)
    assert await driver.pools() == [EXPORTED]
    importing = asyncio.create_task(driver.import_pool("17"))
    await until(lambda: zfs.running() != [])
    with pytest.raises(PortError, match="an import is under way"):
        await driver.pools()
    importing.cancel()
    await asyncio.gather(importing, return_exceptions=True)
    with pytest.raises(PortError, match="an import is under way"):
        await driver.pools()
    listing = asyncio.create_task(driver.pools())
    zfs.appear("17")
    zfs.release(zfs.running()[0])
    assert await listing == [IMPORTED]


async def test_a_slow_look_is_no_import(zfs: FakeZfs, watch: BlockDeviceWatch, commands: ZfsCommands) -> None:
    """On a machine with much to do it lasts longer than an import is waited for: a handover stood still over it."""
    tank(zfs, imported=True)
    driver = ZfsPools(watch, commands=commands, timing=dataclasses.replace(QUICK, import_wait_ms=0))
    assert await driver.pools() == [IMPORTED]


async def test_our_own_import_is_not_searched_for_among_all_processes(
    zfs: FakeZfs, driver: ZfsPools, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks for the pools in the middle of a takeover must not slow it down."""
    tank(zfs, hang_import=True)
    await driver.pools()
    importing = asyncio.create_task(driver.import_pool("17"))
    await until(lambda: zfs.running() != [])
    with monkeypatch.context() as patched:
        patched.setattr(kernel, "importing", lambda root: pytest.fail("all processes are read"))
        with pytest.raises(PortError, match="an import is under way"):
            await driver.pools()
    importing.cancel()
    await asyncio.gather(importing, return_exceptions=True)


async def test_labels_are_not_read_beside_an_import(zfs: FakeZfs, driver: ZfsPools) -> None:
    """The pair waits for the import, and both read all disks."""
    tank(zfs)
    await driver.pools()
    zfs.change("17", hang_scan=True)
    await driver.start()
    try:
        await until(lambda: zfs.running() != [])
        [scanning] = zfs.running()
        await driver.import_pool("17")
        await until(lambda: not Path(f"/proc/{scanning}").exists())
        assert await driver.pools() == [IMPORTED]
    finally:
        await driver.stop()


async def test_what_was_just_imported_is_not_asked_for_its_name_and_disks(zfs: FakeZfs, driver: ZfsPools) -> None:
    """Each such question is a program more between a death and the service."""
    tank(zfs)
    await driver.pools()
    before = len(zfs.commands())
    await driver.import_pool("17")
    assert await driver.pools() == [IMPORTED]
    assert [line.split()[:2] for line in zfs.commands()[before:]] == [["zpool", "import"], ["zfs", "list"]]


async def test_an_import_that_a_dead_daemon_began_is_waited_for(host: FakeHost, zfs: FakeZfs, driver: ZfsPools) -> None:
    tank(zfs)
    host.process(4711, ["zpool", "import", "-f", "-R", "/mnt", "17"], state="D")
    with pytest.raises(PortError, match="an import is under way"):
        await driver.pools()
    importing = asyncio.create_task(driver.import_pool("17"))
    looked = itertools.count()
    await until(lambda: next(looked) > 3)
    zfs.appear("17")
    zfs.release(4711)
    await importing
    assert await driver.pools() == [IMPORTED]
    assert not [line for line in zfs.commands() if line.startswith("zpool import -f")]


async def test_who_could_not_be_told_is_told_when_the_import_is_over(
    host: FakeHost, zfs: FakeZfs, driver: ZfsPools
) -> None:
    """Also when it failed, and the kernel's list is what it was before."""
    tank(zfs)
    await driver.pools()
    changed = asyncio.Event()
    driver.on_change(changed.set)
    host.process(4711, ["zpool", "import", "-f", "17"], state="D")
    await driver.start()
    try:
        with pytest.raises(PortError, match="an import is under way"):
            await driver.pools()
        changed.clear()
        zfs.release(4711)
        async with asyncio.timeout(30):
            await changed.wait()
        assert await driver.pools() == [EXPORTED]
    finally:
        await driver.stop()


async def test_an_import_of_something_else_is_not_waited_for(host: FakeHost, zfs: FakeZfs, driver: ZfsPools) -> None:
    tank(zfs)
    host.process(4711, ["zpool", "import", "-f", "-R", "/mnt", "18"], state="D")
    await driver.import_pool("17")


# ---------------------------------------------------------------------------------------------- export


async def test_export(zfs: FakeZfs, driver: ZfsPools) -> None:
    tank(zfs, imported=True)
    await driver.pools()
    await driver.export_pool("17")
    assert await driver.pools() == [EXPORTED]
    await driver.export_pool("17")  # again: nothing to do
    assert [line for line in zfs.commands() if "export" in line] == ["zpool export tank"]


async def test_a_busy_pool_is_exported_by_force(zfs: FakeZfs, driver: ZfsPools) -> None:
    tank(zfs, imported=True, busy="once")
    await driver.export_pool("17")
    assert [line for line in zfs.commands() if "export" in line] == ["zpool export tank", "zpool export -f tank"]
    assert await driver.pools() == [EXPORTED]


async def test_a_pool_that_stays_busy(zfs: FakeZfs, driver: ZfsPools) -> None:
    tank(zfs, imported=True, busy="always")
    with pytest.raises(PortError, match=r"pool or dataset is busy; `fuser -vm`"):
        await driver.export_pool("17")
    assert await driver.pools() == [IMPORTED]


async def test_a_suspended_pool_is_not_waited_for(zfs: FakeZfs, driver: ZfsPools) -> None:
    tank(zfs, imported=True, hang_export=True)
    await driver.pools()
    exporting = asyncio.create_task(driver.export_pool("17"))
    await until(lambda: zfs.running() != [])
    assert not exporting.done()
    zfs.suspend("tank")
    with pytest.raises(PortError, match="its I/O is suspended; only a reset"):
        await exporting
    assert await driver.pools() == [Pool("tank", "17", True, "SUSPENDED")]


async def test_an_export_that_is_given_up_leaves_the_pool_imported(zfs: FakeZfs, driver: ZfsPools) -> None:
    tank(zfs, imported=True, hang_export=True)
    await driver.pools()
    exporting = asyncio.create_task(driver.export_pool("17"))
    await until(lambda: zfs.running() != [])
    exporting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await exporting
    assert await driver.pools() == [IMPORTED]
    zfs.vanish("tank")  # the kernel, in its own time
    assert await driver.pools() == [EXPORTED]


async def test_the_next_pool_of_a_name_may_be_another(zfs: FakeZfs, driver: ZfsPools) -> None:
    tank(zfs, imported=True)
    await driver.pools()
    await driver.export_pool("17")
    zfs.destroy("17")
    zfs.pool("tank", guid="18", devices=["sda"], imported=True)
    assert await driver.pools() == [Pool("tank", "18", True, "ONLINE"), EXPORTED]


# ---------------------------------------------------------------------------------------------- keys


def secret(**how: object) -> dict[str, object]:
    return {"tank": {}, "tank/secret": {"key": "correct horse", **how}}


async def test_a_takeover_opens_what_there_are_keys_for(zfs: FakeZfs, driver: ZfsPools) -> None:
    tank(zfs, datasets=secret())
    driver.hold_keys({"tank/secret": "correct horse"})
    await driver.import_pool("17")
    [dataset] = await driver.datasets()
    assert (dataset.name, dataset.locked) == ("tank/secret", False)
    verbs = [" ".join(line.split()[:2]) for line in zfs.commands()]
    assert verbs.index("zpool import") < verbs.index("zfs load-key") < verbs.index("zfs mount")
    assert "correct horse" not in "\n".join(zfs.commands())


@pytest.mark.parametrize("keys", [{}, {"tank/secret": "wrong"}])
async def test_a_locked_dataset_is_no_failed_import(zfs: FakeZfs, driver: ZfsPools, keys: dict[str, str]) -> None:
    tank(zfs, datasets=secret())
    driver.hold_keys(keys)
    await driver.import_pool("17")
    assert [dataset.locked for dataset in await driver.datasets()] == [True]
    assert await driver.pools() == [IMPORTED]


async def test_key_files_are_just_loaded(zfs: FakeZfs, driver: ZfsPools) -> None:
    tank(zfs, datasets=secret(location="file:///mnt/tank/key"))
    await driver.import_pool("17")
    assert [dataset.locked for dataset in await driver.datasets()] == [False]


async def test_unlock(zfs: FakeZfs, driver: ZfsPools) -> None:
    tank(zfs, datasets=secret(), imported=True)
    with pytest.raises(PortError, match="Incorrect key provided for 'tank/secret'"):
        await driver.unlock("tank/secret", "wrong horse")
    await driver.unlock("tank/secret", "correct horse")
    assert [dataset.locked for dataset in await driver.datasets()] == [False]
    await driver.unlock("tank/secret", "correct horse")  # open already: checked, not loaded
    assert zfs.commands().count("zfs load-key -n -L prompt tank/secret") == 1
    with pytest.raises(PortError, match="Incorrect key"):
        await driver.unlock("tank/secret", "wrong horse")
    assert "horse" not in "\n".join(zfs.commands())


RAW = bytes(range(32))
AS_TEXT = [RAW.hex(), RAW.hex().upper(), base64.b64encode(RAW).decode()]


@pytest.mark.parametrize("key_format", ["raw", "hex"])
@pytest.mark.parametrize("text", AS_TEXT)
async def test_keys_that_are_no_passphrases(zfs: FakeZfs, driver: ZfsPools, key_format: str, text: str) -> None:
    tank(zfs, datasets=secret(key=RAW.hex(), format=key_format))
    driver.hold_keys({"tank/secret": text})
    await driver.import_pool("17")
    assert [(one.locked, one.key_format) for one in await driver.datasets()] == [(False, key_format)]
    await driver.unlock("tank/secret", text)
    with pytest.raises(PortError, match="Incorrect key"):
        await driver.unlock("tank/secret", "0" * 64)
    with pytest.raises(PortError, match=f"tank/secret: the key .* keyformat is {key_format}.: give 32 bytes") as told:
        await driver.unlock("tank/secret", "correct horse")
    assert "horse" not in str(told.value)
    assert text not in "\n".join(zfs.commands())


async def test_a_key_that_cannot_be_one_leaves_the_dataset_locked(zfs: FakeZfs, driver: ZfsPools) -> None:
    tank(zfs, datasets=secret(key=RAW.hex(), format="raw"))
    driver.hold_keys({"tank/secret": "a passphrase"})
    await driver.import_pool("17")
    assert [dataset.locked for dataset in await driver.datasets()] == [True]


async def test_a_mount_that_fails_does_not_make_the_key_wrong(
    zfs: FakeZfs, driver: ZfsPools, caplog: pytest.LogCaptureFixture
) -> None:
    tank(zfs, datasets=secret(), imported=True, mount_fails=True)
    await driver.unlock("tank/secret", "correct horse")
    assert "directory is not empty" in caplog.text


async def test_unlocking_what_is_not_there(zfs: FakeZfs, driver: ZfsPools) -> None:
    tank(zfs, datasets=secret(), imported=True)
    with pytest.raises(PortError, match="no imported pool has an encrypted dataset of this name"):
        await driver.unlock("tank/other", "correct horse")
    with pytest.raises(PortError, match="no imported pool"):
        await driver.unlock("-a", "correct horse")


# ---------------------------------------------------------------------------------------------- on this host


async def test_examination(host: FakeHost, zfs: FakeZfs, driver: ZfsPools) -> None:
    tank(zfs, imported=True, properties={"failmode": "continue", "multihost": "on", "cachefile": "-"})
    for unit in ("zfs-import-scan.service", "zfs-import-cache.service"):
        host.put(host.root / f"etc/systemd/system/zfs-import.target.wants/{unit}", "")
    host.put(host.root / "etc/zfs/zpool.cache", b"\1")
    findings = {finding.subject: finding for finding in await driver.examine()}
    assert {subject for subject, finding in findings.items() if not finding.ok} == {
        "zfs module",
        "hostid",
        "zfs-import-scan.service",
        "zfs-import-cache.service",
        "pool tank: failmode",
        "pool tank: multihost",
        "pool tank: cachefile",
    }
    assert all(finding.remedy for finding in findings.values() if not finding.ok)
    assert findings["zpool"].detail == "OpenZFS 2.1"


async def test_a_host_in_order(host: FakeHost, zfs: FakeZfs, driver: ZfsPools) -> None:
    tank(zfs, imported=True)
    host.put(host.root / "sys/module/zfs/version", "2.1.11-1\n")
    host.put(host.root / "sys/module/spl/parameters/spl_hostid", "0\n")
    host.put(host.root / "etc/hostid", bytes([0xC8, 0xDF, 0xEB, 0x54]))
    findings = await driver.examine()
    assert [finding.subject for finding in findings if not finding.ok] == []
    assert "54ebdfc8; the other controller's must differ" in {finding.detail for finding in findings}


async def test_a_host_without_zfs(host: FakeHost, watch: BlockDeviceWatch) -> None:
    commands = ZfsCommands("/nowhere/zpool", "/nowhere/zfs")
    findings = await ZfsPools(watch, commands=commands).examine()
    assert [finding.subject for finding in findings if not finding.ok] == ["zfs module", "zpool", "hostid"]
