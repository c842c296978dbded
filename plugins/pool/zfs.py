"""ZFS pools on the shared disks.

What is imported comes from the kernel (kernel.py) and never waits for a command; what else there is on the disks comes
from `zpool import`, read in the background and remembered; commands (commands.py) have deadlines.
"""

import asyncio
import contextlib
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from middlewared.blockdevices import BlockDeviceWatch, root_pool
from middlewared.plugins.pool import kernel, listing
from middlewared.plugins.pool.commands import Size, ZfsCommands
from middlewared.plugins.pool.examination import examine
from middlewared.plugins.pool.known import Known, is_local, merge, nodes, serials_of
from middlewared.plugins.pool.listing import Importable
from middlewared.plugins.pool.material import material
from middlewared.ports import Dataset, Finding, Listener, NotYet, Pool, Pools, PortError

log = logging.getLogger(__name__)

SUSPENDED = "SUSPENDED"
_LOOK_MS = 100
_TRIES_MAX = 5


@dataclass(frozen=True, slots=True)
class Timing:
    """How often the driver looks, and how long it waits."""

    poll_ms: int = 1_000  # the kernel's list, by which changes are noticed
    sizes_ms: int = 15_000
    scan_ms: int = 30_000  # the labels of all disks, also where nothing says that a pool is new
    import_wait_ms: int = 5_000  # how long `pools` waits for an import under way, then it raises


class ZfsPools(Pools):
    """A driver (ports.Driver). `watch` tells which disks are shared; whoever owns it starts and stops it.

    A pool counts as shared unless it is known to be local: the one that this host runs from, one in `ignored`, or one
    with a device that is none of the shared disks and with none that is. What cannot be told counts as shared.
    """

    def __init__(
        self,
        watch: BlockDeviceWatch,
        *,
        commands: ZfsCommands | None = None,
        ignored: Sequence[str] = (),
        timing: Timing | None = None,
    ) -> None:
        """`ignored`: names of pools that are this controller's own."""
        self._watch = watch
        self._root = watch.root
        self._commands = commands or ZfsCommands()
        self._ignored = frozenset(ignored)
        self._timing = timing or Timing()
        self._listeners: list[Listener] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._rescan = asyncio.Event()
        self._scanning = asyncio.Lock()
        self._reading: asyncio.Task[list[Importable]] | None = None  # of the labels
        self._mounting = asyncio.Lock()
        self._known: dict[str, Known] | None = None  # by guid; None: the disks were not read yet
        self._guids: dict[str, str] = {}  # of imported pools, by name
        self._local: dict[str, bool] = {}  # of imported pools, by name
        self._sizes: dict[str, Size] = {}
        self._importing: dict[str, int] = {}  # guid -> how many callers are at it
        self._rests = asyncio.Event()  # none of ours is: until then nobody has to search all processes for them
        self._rests.set()
        self._keys: Mapping[str, str] = {}
        self._unsettled = False  # somebody could not be told the list because of an import: tell him when it is over

    # ------------------------------------------------------------------------------------------ life

    async def start(self) -> None:
        """Raises PortError when ZFS is not loaded."""
        await self._states()
        self._watch.on_change(self._rescan.set)
        self._rescan.set()
        self._tasks = [asyncio.create_task(self._poll()), asyncio.create_task(self._refresh())]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    def on_change(self, listener: Listener) -> None:
        self._listeners.append(listener)

    async def examine(self) -> Sequence[Finding]:
        return await examine(self._root, self._commands, self._own)

    # ------------------------------------------------------------------------------------------ what there is

    async def pools(self) -> Sequence[Pool]:
        """As the port says. Waits `import_wait_ms` for an import under way, then raises NotYet."""
        failure: PortError | None = None
        if not self._known:  # nothing found before proves nothing: disks that were just being fenced show no labels
            try:
                await self._scan(first=True)
            except PortError as error:
                failure = error
        imported = await self._imported()  # last: what it says holds when this returns
        if failure is not None and not imported:
            raise failure
        here = {pool.guid for pool in imported}
        known = (self._known or {}).items()
        return [*imported, *(Pool(item.name, guid, False, "OFFLINE") for guid, item in known if guid not in here)]

    def look(self) -> None:
        self._rescan.set()

    async def imported(self) -> Sequence[Pool]:
        """As the port says."""
        return await self._imported()

    async def trouble(self, guid: str) -> str:
        """Why the pool could not be imported here now; empty also when it is imported. Raises PortError."""
        if guid in {pool.guid for pool in await self._imported()}:
            return ""
        found = {pool.guid: pool for pool in await self._commands.importable()}
        if guid not in found:
            return "no disk that can be read here carries a label of this pool"
        return listing.trouble(found[guid])

    async def datasets(self) -> Sequence[Dataset]:
        pools = [pool.name for pool in await self._imported() if pool.status != SUSPENDED]
        found = await asyncio.gather(*(self._commands.datasets(name) for name in pools))
        return [dataset for datasets in found for dataset in datasets]

    # ------------------------------------------------------------------------------------------ import and export

    async def import_pool(self, guid: str) -> None:
        """Import, open what there are keys for, mount. An import of it that is under way is waited for.

        A caller that gives up (cancels, or is killed) does not stop the kernel: until its program is gone from /proc,
        `pools` waits or raises; then the kernel's list says how it ended.
        """
        self._importing[guid] = self._importing.get(guid, 0) + 1
        self._rests.clear()
        if self._reading is not None:
            self._reading.cancel()
        try:
            await self._import(guid)
        finally:
            self._importing[guid] -= 1
            if not self._importing[guid]:
                del self._importing[guid]
            if not self._importing:
                self._rests.set()
            self._tell()

    async def _import(self, guid: str) -> None:
        name = known.name if (known := (self._known or {}).get(guid)) else ""
        await self._until_unattended({guid, "-a", name})
        if guid not in await self._names():
            complaint = await self._commands.import_pool(guid)
            if not complaint and name in await self._states():  # as we knew it: nobody has to ask for that
                self._guids[name], self._local[name] = guid, False
            if guid not in await self._names():
                raise PortError(complaint or f"zpool import says that {guid} is imported, and the kernel that not")
            if complaint:
                log.error("imported, but: %s", complaint)
        if name := (await self._names()).get(guid, ""):
            await self._open(name)

    async def export_pool(self, guid: str) -> None:
        """Export, by force if it is busy. Raises PortError at once when its I/O is suspended, which no export survives.

        A caller that gives up does not stop the kernel; the pool counts as imported until its kstat entry is gone.
        """
        name = (await self._names()).get(guid)
        if name is None:
            return
        export = asyncio.create_task(self._export(name))
        suspended = asyncio.create_task(self._until_suspended(name))
        try:
            await asyncio.wait({export, suspended}, return_when=asyncio.FIRST_COMPLETED)
            if not export.done():
                raise PortError(f"pool {name}: its I/O is suspended; only a reset of this controller lets go of it")
            await export
        finally:
            for task in (export, suspended):
                task.cancel()
            await asyncio.gather(export, suspended, return_exceptions=True)
            self._guids.pop(name, None)  # the next pool of this name may be another
            self._local.pop(name, None)
            self._tell()
        if name in await self._states():
            raise PortError(f"zpool export says that {name} is exported, and the kernel that it is still imported")

    async def _export(self, name: str) -> None:
        complaint = await self._commands.export_pool(name, force=False)
        if complaint and name in await self._states():
            log.warning("%s; now by force", complaint)
            complaint = await self._commands.export_pool(name, force=True)
        if complaint and name in await self._states():
            raise PortError(f"{complaint}; `fuser -vm` on its mount points shows what still uses it")

    async def _until_suspended(self, name: str) -> None:
        while True:
            with contextlib.suppress(PortError):
                if (await self._states()).get(name) == SUSPENDED:
                    return
            await asyncio.sleep(_LOOK_MS / 1000)

    # ------------------------------------------------------------------------------------------ keys

    def hold_keys(self, keys: Mapping[str, str]) -> None:
        self._keys = dict(keys)

    def keys_held(self) -> Collection[str]:
        return self._keys.keys()

    async def unlock(self, dataset: str, key: str) -> None:
        """As the port says; also tells when there is no such encryption root."""
        roots = {found.name: found for found in await self.datasets() if found.has_key}
        if dataset not in roots:
            raise PortError(f"{dataset}: no imported pool has an encrypted dataset of this name with a key of its own")
        await self._commands.load_key(dataset, _material(key, roots[dataset]), only_check=not roots[dataset].locked)
        await self._mount()
        self._tell()

    async def _open(self, pool: str) -> None:
        """Load every key that is to be had, then mount; a dataset that stays shut is told by `datasets`."""
        try:
            locked = [dataset for dataset in await self._commands.datasets(pool) if dataset.has_key and dataset.locked]
            opened = [await self._load(dataset) for dataset in locked]
            if any(opened):
                await self._mount()
        except PortError as error:
            log.error("pool %s is imported, but its encrypted datasets are not opened: %s", pool, error)

    async def _load(self, dataset: Dataset) -> bool:
        key = self._keys.get(dataset.name)
        if key is None and dataset.key_location == "prompt":
            return False
        try:
            await self._commands.load_key(dataset.name, None if key is None else _material(key, dataset))
        except PortError as error:
            log.error("%s stays locked: %s", dataset.name, error)
            return False
        return True

    async def _mount(self) -> None:
        """What fails is told by `datasets`: one dataset that cannot be mounted keeps no other from being so."""
        async with self._mounting:
            try:
                await self._commands.mount_all()
            except PortError as error:
                log.error("not everything is mounted: %s", error)

    # ------------------------------------------------------------------------------------------ what the kernel says

    async def _states(self) -> dict[str, str]:
        """In a thread: a pool's kstat never waited so far, but the loop must not either if it ever does."""
        try:
            return await asyncio.to_thread(kernel.states, self._root)
        except OSError as error:
            raise PortError("the kernel lists no pools: ZFS is not loaded; modprobe zfs") from error

    async def _until_quiet(self) -> None:
        """Until nobody imports anything. Raises NotYet when an import that is seen does not end in time: the wait for
        it has a bound, and to look, on a machine with much to do, takes as long as it takes."""
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + self._timing.import_wait_ms / 1000
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(ends_s):
                    await self._rests.wait()
            if await self._quiet():
                return
            if loop.time() >= ends_s:
                self._unsettled = True
                raise NotYet("an import is under way: whether it succeeds is not known yet")
            await asyncio.sleep(_LOOK_MS / 1000)

    async def _quiet(self) -> bool:
        """Nobody imports anything now."""
        return not self._importing and not await self._attended() and not self._importing

    async def _attended(self) -> list[str]:
        """What any process imports now."""
        return await asyncio.to_thread(kernel.importing, self._root)

    async def _until_unattended(self, targets: set[str]) -> None:
        """Until no process imports any of these."""
        while targets & set(await self._attended()):
            await asyncio.sleep(_LOOK_MS / 1000)

    async def _names(self) -> dict[str, str]:
        """Names of the imported pools by guid, those of the controller itself left out."""
        names = self._foreign(await self._states())
        guids = await asyncio.gather(*(self._guid(name) for name in names))
        return dict(zip(guids, names, strict=True))

    async def _guid(self, name: str) -> str:
        guid = await asyncio.to_thread(kernel.guid, self._root, name) or self._guids.get(name, "")
        if not guid:
            guid = await self._commands.guid_of(name)
        self._guids[name] = guid
        return guid

    async def _imported(self) -> list[Pool]:
        """The shared pools that are imported. Raises PortError when the kernel's list does not hold still."""
        for _ in range(_TRIES_MAX):
            await self._until_quiet()
            states = await self._states()
            found = await asyncio.gather(*(self._describe(name, states[name]) for name in self._foreign(states)))
            # What was imported meanwhile is in the list by now, or its import is still under way.
            if await self._quiet() and (await self._states()).keys() == states.keys():
                pools = [pool for pool in found if pool is not None]
                self._remember(pools)
                return pools
        raise PortError("pools come and go faster than they can be listed")

    def _remember(self, pools: Iterable[Pool]) -> None:
        if self._known is not None:
            serials = serials_of(self._watch.devices)
            self._known |= {pool.guid: Known(pool.name, serials) for pool in pools}

    async def _describe(self, name: str, state: str) -> Pool | None:
        guid = await self._guid(name)
        if await self._is_local(name, state):
            return None
        size = self._sizes.get(guid, Size(0, 0))
        return Pool(name, guid, True, state, size.size_bytes, size.allocated_bytes)

    # ------------------------------------------------------------------------------------------ whose disks

    @cached_property
    def _own(self) -> frozenset[str]:
        return self._ignored | {root_pool(self._root)}

    def _foreign(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if name not in self._own]

    async def _is_local(self, name: str, state: str) -> bool:
        """A pool that does not tell its devices, or is not to be asked because it may not answer, counts as shared.

        The disks are looked at anew: to a list from before a shelf appeared, its disks would be no shared ones.
        """
        if name not in self._local and state != SUSPENDED:
            local = False
            try:
                members = await self._commands.devices_of(name)
                local = is_local(self._root, map(Path, members), await self._watch.look())
            except PortError as error:
                log.warning("pool %s counts as shared: %s", name, error)
            self._local[name] = local
        return self._local.get(name, False)

    def _is_shared(self, pool: Importable) -> bool:
        members = nodes(self._root, pool.devices, self._commands.devices)
        return bool(self._foreign([pool.name])) and not is_local(self._root, members, self._watch.devices)

    # ------------------------------------------------------------------------------------------ in the background

    async def _scan(self, *, first: bool = False) -> None:
        """Read the labels of all disks. Raises PortError, and then what was known stays known."""
        async with self._scanning:
            if first and self._known:
                return
            found = [pool for pool in await self._labels() if self._is_shared(pool)]
            self._known = merge(
                self._known or {},
                {pool.guid: pool.name for pool in found},
                here={*self._guids.values(), *self._importing},
                serials=serials_of(self._watch.devices),
            )

    async def _labels(self) -> list[Importable]:
        """Raises NotYet when an import begins meanwhile: it reads the same disks, and the pair waits for it."""
        reading = self._reading = asyncio.create_task(self._commands.importable())
        try:
            await asyncio.wait({reading})
        finally:
            self._reading = None
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        if reading.cancelled():
            self._rescan.set()
            raise NotYet("a pool is being imported: what else there is on the disks is read later")
        return reading.result()

    async def _poll(self) -> None:
        """Tell the listeners when the kernel's list, a state or what is known changes, and when a doubt is over."""
        before: object = None
        while True:
            with contextlib.suppress(PortError):
                states = await self._states()
                for name in self._guids.keys() - states.keys():
                    del self._guids[name]
                    self._local.pop(name, None)
                now = (states, sorted(self._known or {}))
                settled = self._unsettled and await self._quiet()
                if settled or before not in (None, now):
                    self._unsettled = self._unsettled and not settled
                    self._tell()
                before = now
            await asyncio.sleep(self._timing.poll_ms / 1000)

    async def _refresh(self) -> None:
        """Sizes, and now and then the labels. While some command hangs, no other is added to it."""
        loop = asyncio.get_running_loop()
        hanging: set[int] = set()
        due_s = loop.time()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timing.sizes_ms / 1000):
                    await self._rescan.wait()
            if self._rescan.is_set():
                self._rescan.clear()
                due_s = loop.time()
            processes = await asyncio.to_thread(kernel.processes, self._root)
            stuck = {process.pid for process in processes if process.state == "D"}
            if not hanging & stuck and not self._importing:
                scan = loop.time() >= due_s
                await self._refresh_once(scan=scan)
                due_s = loop.time() + self._timing.scan_ms / 1000 if scan else due_s
            hanging = stuck

    async def _refresh_once(self, *, scan: bool) -> None:
        try:
            if await self._states():
                self._sizes = await self._commands.sizes()
            if scan:
                before = sorted(self._known or {})
                await self._scan()
                if sorted(self._known or {}) != before:
                    self._tell()
        except PortError as error:
            log.warning("pools: %s", error)

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()


def _material(key: str, dataset: Dataset) -> bytes:
    try:
        return material(key, dataset.key_format)
    except ValueError as error:
        raise PortError(f"{dataset.name}: {error}") from error
