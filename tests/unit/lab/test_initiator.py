"""The lab's kernel initiator: what its callers are told, as the keeper's own path to a disk would tell it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from middlewared.lab.netns.initiator import Initiator
from middlewared.lines import LineClient, LineError
from middlewared.plugins.fencing.simulated import ShelfTransport
from middlewared.plugins.fencing.transport import TransportError


class Unit:
    """A disk whose target answers nothing."""

    serial = "S0"

    async def execute(self, cdb: bytes, data: bytes, timeout_ms: int) -> Any:
        raise TransportError(f"S0: no answer within {timeout_ms} ms")

    async def lun_reset(self, timeout_ms: int) -> None:
        raise TransportError(f"S0: LUN RESET: no answer within {timeout_ms} ms")


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[LineClient]:
    """Its socket alone: no session, no library."""
    initiator = Initiator("192.0.2.1:3260/iqn.2026-11.org.example:shelf", "iqn.2026-11.org.example:a", tmp_path / "s")
    initiator._units = {0: cast(Any, Unit())}
    await initiator._server.start(tmp_path / "s")
    client = LineClient(tmp_path / "s")
    await client.connect()
    yield client
    await client.close()
    await initiator._server.stop()


@pytest.mark.parametrize("op", ["lun_reset", "scsi"])
async def test_what_fails_on_the_way_is_told_as_such(client: LineClient, op: str) -> None:
    with pytest.raises(LineError) as told:
        await client.call(op, 5000, lun=0, wait_ms=70, cdb="00" * 6)
    assert (told.value.code, "no answer within 70 ms" in told.value.message) == ("ENODEV", True)


async def test_a_disk_that_is_not_there_is_told_as_such(client: LineClient) -> None:
    with pytest.raises(LineError, match="disk 7 is not there"):
        await client.call("lun_reset", 5000, lun=7, wait_ms=70)


async def test_the_keeper_gets_the_error_of_a_path(client: LineClient) -> None:
    with pytest.raises(TransportError, match="LUN RESET: no answer within 80 ms"):
        await ShelfTransport(client, 0, "S0").lun_reset(80)
