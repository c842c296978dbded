"""The shelf: Linux's user-space iSCSI target (tgtd(8), tgtadm(8)) with one file a disk, in the shelf's namespace."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping
from pathlib import Path

from middlewared import programs
from middlewared.lab.netns.layout import SHELF_ADDRESS, TARGET
from middlewared.lab.places import LabError
from middlewared.lab.process import die_with_parent
from middlewared.ports import PortError

DISK_BYTES = 64 << 20  # sparse
_ADMIN_MS = 5_000
_START_S = 10.0
_POLL_S = 0.05


class Target:
    """tgtd and its units. It forgets every reservation when it restarts: it knows no APTPL (shared/LAB.md)."""

    def __init__(self, directory: Path, within: tuple[str, ...], disks: int) -> None:
        """`within`: the command that runs another one in the shelf's namespace."""
        self._directory = directory
        self._within = within
        self._disks = disks
        self._process: asyncio.subprocess.Process | None = None

    def file(self, lun: int) -> Path:
        """What disk `lun` consists of."""
        return self._directory / f"disk{lun:02}.img"

    def make_disks(self, labels: Mapping[int, bytes]) -> None:
        """Empty disks with a first block each."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for lun, label in labels.items():
            with self.file(lun).open("wb") as disk:
                disk.write(label)
                disk.truncate(DISK_BYTES)

    async def start(self) -> None:
        """Raises LabError when it does not run, or takes no units."""
        with (self._directory / "tgtd.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._within,
                *("tgtd", "-f", "-t", "1", "--iscsi", f"portal={SHELF_ADDRESS}:3260"),
                env=self._environment(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,
            )
        try:
            async with asyncio.timeout(_START_S):
                while (await self._try("--op", "show", "--mode", "sys")) != 0:
                    await asyncio.sleep(_POLL_S)
                await self._admin("--op", "new", "--mode", "target", "--tid", "1", "-T", TARGET)
                for lun in range(self._disks):
                    await self._add(lun)
                await self._admin("--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL")
        except (TimeoutError, PortError) as error:
            await self.stop()
            raise LabError(f"the shelf (tgtd) does not start: {error or 'no answer'}; see {self._directory}") from error

    async def stop(self) -> None:
        """SIGKILL: tgtd does not always end by SIGTERM. Reservations and what was under way are gone."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
            await process.wait()

    async def set_failed(self, lun: int, *, failed: bool) -> None:
        """A unit that is offline answers NOT READY to both controllers."""
        await self._update(lun, f"online={0 if failed else 1}")

    async def _add(self, lun: int) -> None:
        number = str(lun + 1)  # unit 0 is tgtd's own controller
        await self._admin(
            *("--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", number, "-b", str(self.file(lun)))
        )
        await self._update(lun, f"scsi_sn=LABDISK{lun:03d}")

    async def _update(self, lun: int, setting: str) -> None:
        number = str(lun + 1)
        await self._admin(
            *("--op", "update", "--mode", "logicalunit", "--tid", "1", "--lun", number, "--params", setting)
        )

    async def _admin(self, *words: str) -> None:
        ended = await programs.run(
            "tgtadm", "--lld", "iscsi", *words, timeout_ms=_ADMIN_MS, environment=self._environment()
        )
        if ended.status != 0:
            raise PortError(f"tgtadm {' '.join(words)}: {ended.stderr.strip()}")

    async def _try(self, *words: str) -> int:
        ended = await programs.run("tgtadm", *words, timeout_ms=_ADMIN_MS, environment=self._environment())
        return ended.status

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "TGT_IPC_SOCKET": str(self._directory / "tgtd")}
