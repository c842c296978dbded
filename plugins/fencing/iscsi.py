"""Shared disks behind iSCSI portals, reached from user space: for labs, and hosts without a kernel initiator.

The portals of one target are paths to the same disks. A session that ends is followed by a new one, with new path
objects: for the target it is a nexus that has nothing registered (measured: shared/LAB.md, section 3).
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from middlewared.plugins.fencing import libiscsi, scsi
from middlewared.plugins.fencing.iscsi_session import Portal, Session, parse_portal
from middlewared.plugins.fencing.libiscsi import Library
from middlewared.plugins.fencing.scsi import BLOCK_BYTES, Reply, Status
from middlewared.plugins.fencing.transport import Disk, DiskRefused, TransportError, aborts, command, persists
from middlewared.ports import Finding, PortError

log = logging.getLogger(__name__)

LOGIN_MS_MAX = 1000
LOOK_MS_MAX = 1000  # each command of a look at the units
RESCAN_MS = 5000
RETRY_MS_MIN = 50
RETRY_MS_MAX = 2000
FIRST_LOOK_MS = 2500  # start() waits so long for every portal to be seen


@dataclass(eq=False, slots=True)
class IscsiTransport:
    """One logical unit by one session."""

    session: Session
    lun: int
    serial: str
    block_bytes: int = BLOCK_BYTES
    aborts: bool = True
    persists: bool = False  # the target can keep reservations over its own restart

    async def execute(self, cdb: bytes, data: bytes, timeout_ms: int) -> Reply:
        expected = 0 if data else scsi.data_in_bytes(cdb, self.block_bytes)
        return await self.session.command(self.lun, cdb, data, expected, timeout_ms)

    async def lun_reset(self, timeout_ms: int) -> None:
        await self.session.reset_unit(self.lun, timeout_ms)


@dataclass(eq=False, slots=True)
class _Way:
    """One portal, the session by it, and the units that were seen there last."""

    portal: Portal
    isid: int
    session: Session | None = None
    units: dict[int, IscsiTransport] = field(default_factory=dict)
    looked: asyncio.Event = field(default_factory=asyncio.Event)
    trouble: str = ""


class IscsiSource:
    """The disks behind some portals (transport.DiskSource). Logs in again for ever, RETRY_MS_MAX apart at most.

    `portals`: as parse_portal reads them. `exclude`: serials to leave alone. The disks of a portal that is away stay
    listed, and answer nothing; each login makes new path objects.
    """

    def __init__(self, portals: Sequence[str], initiator: str, *, exclude: Collection[str] = ()) -> None:
        self._ways = [_Way(parse_portal(text), secrets.randbits(24)) for text in portals]
        self._initiator = initiator
        self._exclude = frozenset(exclude)
        self._library: Library | None = None
        self._disks: dict[str, Disk] = {}
        self._listeners: list[Callable[[], None]] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Returns when every portal was looked at, or after FIRST_LOOK_MS. Raises PortError without the library."""
        library = self._library = libiscsi.load()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._stay_logged_in(way, library)) for way in self._ways]
        looked = [loop.create_task(way.looked.wait()) for way in self._ways]
        if looked:
            await asyncio.wait(looked, timeout=FIRST_LOOK_MS / 1000)
        for task in looked:
            task.cancel()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for way in self._ways:
            if way.session is not None:
                way.session.close("this controller ends it")

    def disks(self) -> Mapping[str, Disk]:
        return self._disks

    def on_change(self, listener: Callable[[], None]) -> None:
        self._listeners.append(listener)

    async def examine(self) -> Sequence[Finding]:
        """Whether the library is there, and the portals answer. Before `start`, only the former."""
        try:
            libiscsi.load()
        except PortError as error:
            return [Finding("libiscsi", False, str(error), "apt-get install libiscsi7")]
        found = [Finding("libiscsi", True, "installed")]
        for way in self._ways if self._tasks else ():
            ok = way.session is not None and not way.session.closed.is_set()
            detail = f"{len(way.units)} disks" if ok else way.trouble or "not connected yet"
            remedy = "" if ok else "check the cables to the shelf, and that the target runs and lets this controller in"
            found.append(Finding(f"iSCSI portal {way.portal}", ok, detail, remedy))
        return found

    # ------------------------------------------------------------------------------------------ one portal

    async def _stay_logged_in(self, way: _Way, library: Library) -> None:
        wait_ms = RETRY_MS_MIN
        while True:
            session = Session(library, way.portal, self._initiator, way.isid)
            try:
                await session.login(LOGIN_MS_MAX)
                await self._look(way, session)
                way.session, way.trouble, wait_ms = session, "", RETRY_MS_MIN
                way.looked.set()
                await self._follow(way, session)
            except (TransportError, DiskRefused) as error:
                if not way.trouble:
                    log.warning("iSCSI: %s", error)
                way.trouble = str(error)
                way.looked.set()
            finally:
                session.close("given up")
            await asyncio.sleep(wait_ms / 1000)
            wait_ms = min(wait_ms * 2, RETRY_MS_MAX)

    async def _follow(self, way: _Way, session: Session) -> None:
        """Look for units that came or went, until the session ends. Raises TransportError then."""
        while True:
            try:
                async with asyncio.timeout(RESCAN_MS / 1000):
                    await session.closed.wait()
                raise TransportError(f"{way.portal}: {session.reason}")
            except TimeoutError:
                await self._look(way, session)

    async def _look(self, way: _Way, session: Session) -> None:
        door = IscsiTransport(session, 0, str(way.portal))
        reply = await command(door, scsi.report_luns(), timeout_ms=LOOK_MS_MAX)
        if reply.status != Status.GOOD:
            raise DiskRefused(f"{way.portal}: REPORT LUNS: {scsi.explain(reply)}")
        known = {lun: unit for lun, unit in way.units.items() if unit.session is session}
        luns = scsi.parse_luns(reply.data)
        fresh = await asyncio.gather(*(_unit(session, lun) for lun in luns if lun not in known))
        units = {lun: unit for lun, unit in known.items() if lun in luns}
        units.update({unit.lun: unit for unit in fresh if unit is not None and unit.serial not in self._exclude})
        if units != way.units:
            way.units = units
            self._publish()

    def _publish(self) -> None:
        paths: dict[str, list[IscsiTransport]] = {}
        for way in self._ways:
            for unit in way.units.values():
                paths.setdefault(unit.serial, []).append(unit)
        self._disks = {
            serial: Disk(serial, tuple(units), persists=all(unit.persists for unit in units))
            for serial, units in sorted(paths.items())
        }
        for listener in self._listeners:
            listener()


async def _unit(session: Session, lun: int) -> IscsiTransport | None:
    """What a logical unit is; None if it is no disk, or has no serial by which the other controller would know it."""
    unit = IscsiTransport(session, lun, f"{session.portal} unit {lun}")
    inquiry = await command(unit, scsi.inquiry(), timeout_ms=LOOK_MS_MAX)
    if inquiry.status != Status.GOOD or not scsi.is_disk(inquiry.data):
        return None
    unit.serial = await _serial(unit)
    if not unit.serial:
        log.warning("%s unit %d tells no serial number, and is left alone", session.portal, lun)
        return None
    capacity = await command(unit, scsi.read_capacity_10(), timeout_ms=LOOK_MS_MAX)
    if capacity.status == Status.GOOD and len(capacity.data) >= 8:
        unit.block_bytes = scsi.parse_capacity(capacity.data)[1] or BLOCK_BYTES
    unit.persists = await persists(unit, LOOK_MS_MAX)
    unit.aborts = await aborts(unit, LOOK_MS_MAX)
    return unit


async def _serial(unit: IscsiTransport) -> str:
    for page, parse in ((scsi.SERIAL_PAGE, scsi.parse_serial), (scsi.IDENTIFICATION_PAGE, scsi.parse_designator)):
        reply = await command(unit, scsi.inquiry(page), timeout_ms=LOOK_MS_MAX)
        try:
            name = parse(reply.data) if reply.status == Status.GOOD else ""
        except ValueError:
            continue
        if name:
            return name
    return ""
