"""A system bus of a test's own, on a unix socket, with a service manager on it (fake_systemd.py)."""

import asyncio
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from middlewared.dbus import connected

_CONFIG = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
  "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <auth>EXTERNAL</auth>
  <listen>unix:path={socket}</listen>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
  </policy>
</busconfig>
"""


class PrivateBus:
    """`environment` makes a process, or this one, find the bus in the place of the machine's own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.environment = {"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={folder / 'bus'}"}
        self._bus: asyncio.subprocess.Process | None = None
        self._systemd: asyncio.subprocess.Process | None = None

    async def start(self, units: dict[str, dict[str, Any]] | None = None, state: str = "running") -> None:
        """The bus, and a service manager with these units."""
        config = self._folder / "bus.conf"
        config.write_text(_CONFIG.format(socket=self._folder / "bus"))
        (self._folder / "bus").unlink(missing_ok=True)
        try:
            await self._start(config, units or {}, state)
        except BaseException:
            await self.stop()
            raise

    async def _start(self, config: Path, units: dict[str, dict[str, Any]], state: str) -> None:
        self._bus = await self._run(["dbus-daemon", f"--config-file={config}", "--nofork", "--print-address=1"])
        program = Path(__file__).with_name("fake_systemd.py")
        self._systemd = await self._run([sys.executable, str(program), state, json.dumps(units)])

    async def _run(self, command: list[str]) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={**os.environ, **self.environment},
        )
        assert process.stdout is not None
        async with asyncio.timeout(30):
            assert await process.stdout.readline(), f"{command[0]} did not start"
        return process

    async def stop(self) -> None:
        """The whole bus goes away, as when dbus.service is stopped."""
        for process in (self._systemd, self._bus):
            if process is not None and process.returncode is None:
                process.kill()
                await process.wait()

    async def control(self, member: str, signature: str = "", *arguments: Any) -> tuple[Any, ...]:
        async with connected() as bus:
            return await bus.call("org.freedesktop.systemd1", "/test", "test.Control", member, signature, *arguments)

    async def behave(self, unit: str, **changes: Any) -> None:
        await self.control("Behave", "ss", unit, json.dumps(changes))

    async def calls(self, unit: str) -> list[str]:
        (calls,) = await self.control("Calls", "s", unit)
        return list(calls)


def needs_dbus() -> None:
    if shutil.which("dbus-daemon") is None:
        pytest.skip("needs dbus-daemon: apt-get install dbus")
