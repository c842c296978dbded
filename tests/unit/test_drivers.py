"""The drivers as one: they start in order, and a driver that hangs or fails does not spoil the findings of the rest."""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest

from middlewared import drivers
from middlewared.drivers import Drivers
from middlewared.ports import Finding, PortError


class Noted:
    def __init__(self, name: str, log: list[str], fails: str = "") -> None:
        self.name, self.log, self.fails = name, log, fails

    async def start(self) -> None:
        self.log.append(f"start {self.name}")
        if self.fails:
            raise PortError(self.fails)

    async def stop(self) -> None:
        self.log.append(f"stop {self.name}")

    async def examine(self) -> Sequence[Finding]:
        if self.fails == "hangs":
            await asyncio.Event().wait()
        if self.fails:
            raise PortError(self.fails)
        return [Finding(self.name, True, "fine")]


def together(*parts: Noted) -> Drivers:
    return Drivers(cast(Any, None), parts, parts)


async def test_they_stop_in_reverse() -> None:
    log: list[str] = []
    all_of_them = together(Noted("bus", log), Noted("power", log))
    await all_of_them.start()
    await all_of_them.stop()
    assert log == ["start bus", "start power", "stop power", "stop bus"]


async def test_one_that_cannot_start_takes_the_others_along() -> None:
    log: list[str] = []
    with pytest.raises(PortError, match="no bus"):
        await together(Noted("bus", log), Noted("power", log, "no bus"), Noted("pools", log)).start()
    assert log == ["start bus", "start power", "stop power", "stop bus"]


async def test_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drivers, "EXAMINE_MS_MAX", 10)
    found = await together(Noted("a", []), Noted("b", [], "hangs"), Noted("c", [], "broken"), Noted("d", [])).examine()
    assert [(finding.subject, finding.ok, finding.detail) for finding in found] == [
        ("a", True, "fine"),
        ("Noted", False, "could not be examined within 10 ms"),
        ("Noted", False, "could not be examined: broken"),
        ("d", True, "fine"),
    ]
