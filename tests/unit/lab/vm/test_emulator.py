"""A machine's snapshot: a job of qemu's, in which only the machine's own disk takes part."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from middlewared.lab.netns.layout import SHELF
from middlewared.lab.vm import layout, shelf
from middlewared.lab.vm.emulator import Boot, Emulator
from middlewared.lab.vm.wires import WireError


async def save(folder: Path, *jobs: dict[str, Any]) -> list[dict[str, Any]]:
    """What a machine is asked when it is saved, if its job stands so, one time after the other."""
    asked: list[dict[str, Any]] = []
    states = iter(jobs)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            asked.append(json.loads(line))
            answer = [next(states)] if asked[-1]["execute"] == "query-jobs" else {}
            writer.write(json.dumps({"return": answer, "id": asked[-1]["id"]}).encode() + b"\n")
        writer.close()

    machine = Emulator("a", folder, Boot(folder, folder, folder))
    server = await asyncio.start_unix_server(serve, str(folder / "qmp.sock"))
    await machine.qmp.connect()
    try:
        await machine.save()
    finally:
        await machine.qmp.close()
        server.close()
    return asked


async def test_a_snapshot_is_of_the_machines_own_disk_and_waited_for(tmp_path: Path) -> None:
    job = {"id": "snapshot-save", "status": "running"}
    asked = await save(tmp_path, job, job | {"status": "concluded"})
    assert [one["execute"] for one in asked] == ["snapshot-save", "query-jobs", "query-jobs", "job-dismiss"]
    assert asked[0]["arguments"]["devices"] == [asked[0]["arguments"]["vmstate"]] == [layout.ROOT]


async def test_a_snapshot_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(WireError, match="snapshot-save: No space left"):
        await save(tmp_path, {"id": "snapshot-save", "status": "concluded", "error": "No space left"})


def test_the_shelf_serves_the_files_of_its_folder_by_name(tmp_path: Path) -> None:
    words = layout.command(SHELF, tmp_path, *([tmp_path] * 3), shelf.drives(tmp_path), halted=True)
    for name in ("reservations", *(f"disk{disk.lun}" for disk in shelf.DISKS)):
        assert any(word.startswith(f"file={tmp_path}/{name}.img,") for word in words)
        assert f"virtio-blk-pci,drive={name},serial={name}" in words
    assert sum("virtio-net-pci" in word for word in words) == 1
    assert words[words.index("-smp") + 1] == "6", "LIO needs one for each connection"


@pytest.mark.parametrize("kind", layout.SHELVES)
def test_nobody_else_has_an_address_of_a_portal(kind: str) -> None:
    held = set(shelf.addresses(kind, 2))
    assert held == set(layout.PORTALS) if kind == "tgt" else held.isdisjoint(layout.PORTALS)
    assert len({*layout.PORTALS, layout.ONLOOKER_ADDRESS, *layout.SAN_ADDRESS.values()}) == 5
