"""Reservations on NVMe, on a fake kernel: the same sequences as on SCSI, by other commands."""

import struct
from pathlib import Path

import pytest
from support.fake_kernel import NvmeKernel

from middlewared.lab.reservations import STANDARD, Reservations, Target
from middlewared.plugins.fencing import nvme_pr, scsi, scsi_pr
from middlewared.plugins.fencing.nvme import NvmeTransport, namespace_of, open_nvme
from middlewared.plugins.fencing.scsi import Status
from middlewared.plugins.fencing.scsi_pr import Kind, Reservation, make_key
from middlewared.plugins.fencing.takeover import Taken, read_all, release_all, take_all
from middlewared.plugins.fencing.transport import Disk, DiskRefused, TransportError, persists, read
from middlewared.ports import FenceCode
from middlewared.workers import Workers

A, B = 0xA000_0001, 0xB000_0001
KEY_A, KEY_B = make_key(A, 5), make_key(B, 9)
TIMEOUT_MS = 5000
LASTING = Target(aptpl=True)


class Pair:
    """A namespace, and both controllers' way to it."""

    def __init__(self, folder: Path, target: Target = STANDARD, *, long_ids: bool = True) -> None:
        self.aborted: list[frozenset[str]] = []
        self.model = Reservations(target, notify=lambda _, __: None, abort=self.aborted.append)
        self.kernels = {host: NvmeKernel(self.model, host, namespace=3, long_ids=long_ids) for host in ("a", "b")}
        self.disks = {host: self._disk(folder, host, target.aptpl) for host in self.kernels}

    def _disk(self, folder: Path, host: str, lasting: bool) -> Disk:
        (folder / "nvme0n1").touch()
        node, ioctl = open_nvme(folder / "nvme0n1"), self.kernels[host].ioctl
        path = NvmeTransport(node, "N1", namespace_of(node, ioctl), Workers(2), ioctl, lasting)
        return Disk("N1", (path,), lasting)

    async def take(self, host: str, key: int) -> Taken:
        readings, unread = await read_all([self.disks[host]], TIMEOUT_MS)
        return await take_all([self.disks[host]], readings, unread, key, TIMEOUT_MS)


@pytest.mark.parametrize("long_ids", [True, False])
@pytest.mark.parametrize("target", [STANDARD, LASTING])
async def test_a_takeover(tmp_path: Path, target: Target, long_ids: bool) -> None:
    pair = Pair(tmp_path, target, long_ids=long_ids)
    assert (await pair.take("a", KEY_A)).result.code is FenceCode.OK
    assert (await pair.take("b", KEY_B)).result.code is FenceCode.OK
    reading = await read(pair.disks["a"], TIMEOUT_MS)
    assert (reading.keys, reading.reservation) == ((KEY_B,), Reservation(KEY_B, Kind.WRITE_EXCLUSIVE_REGISTRANTS))
    assert pair.aborted == [frozenset({"a"})], "thrown out together with what it had queued"
    assert not pair.model.may("a", write=True)
    assert pair.model.kept == target.aptpl
    assert await release_all([pair.disks["b"]], B, TIMEOUT_MS) == {}
    assert pair.model.keys == {"b": scsi_pr.parked_key(B)}, "closed until somebody takes it"
    assert not pair.model.may("a", write=True)


async def test_our_own_key_of_an_earlier_life_is_replaced(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    await pair.take("a", make_key(A, 1))
    assert (await pair.take("a", KEY_A)).result.code is FenceCode.OK
    assert pair.model.keys == {"a": KEY_A}


@pytest.mark.parametrize("kind", list(Kind))
async def test_whatever_was_reserved_before(tmp_path: Path, kind: Kind) -> None:
    pair = Pair(tmp_path)
    pair.model.reserve_out("c", *scsi_pr.register_and_ignore(0x77))
    pair.model.reserve_out("c", *scsi_pr.reserve(0x77, kind))
    found = await read(pair.disks["a"], TIMEOUT_MS)
    assert found.reservation == Reservation(0 if kind.all_registrants else 0x77, kind)
    assert (await pair.take("a", KEY_A)).result.code is FenceCode.OK


async def test_a_heartbeat_after_being_preempted_is_a_conflict(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    await pair.take("a", KEY_A)
    beat = scsi_pr.register(KEY_A, make_key(A, 6))
    path = pair.disks["a"].paths[0]
    assert (await path.execute(*beat, TIMEOUT_MS)).status == Status.GOOD
    await pair.take("b", KEY_B)
    again = scsi_pr.register(make_key(A, 6), make_key(A, 7))
    assert (await path.execute(*again, TIMEOUT_MS)).status == Status.RESERVATION_CONFLICT
    assert "a" not in pair.model.keys


@pytest.mark.parametrize(("target", "aptpl", "state"), [(LASTING, True, 3), (LASTING, False, 2), (STANDARD, False, 0)])
async def test_persistence_is_said_only_where_there_is_some(
    tmp_path: Path, target: Target, aptpl: bool, state: int
) -> None:
    pair = Pair(tmp_path, target)
    path = pair.disks["a"].paths[0]
    assert await persists(path, TIMEOUT_MS) is target.aptpl
    await path.execute(*scsi_pr.register(0, KEY_A, aptpl=aptpl), TIMEOUT_MS)
    opcode, dword = pair.kernels["a"].sent[-1]
    assert (opcode, dword >> 30, dword & 0x0F) == (0x0D, state, 0)


async def test_a_bare_preempt_is_never_sent(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    path = pair.disks["a"].paths[0]
    refused = await path.execute(*scsi_pr.preempt(KEY_A, KEY_B), TIMEOUT_MS)
    assert scsi.parse_sense(refused.sense) == scsi.INVALID_FIELD_IN_CDB
    other = await path.execute(scsi.write_10(0, 1), bytes(512), TIMEOUT_MS)
    assert scsi.parse_sense(other.sense) == scsi.INVALID_OPCODE
    assert pair.kernels["a"].sent == []


@pytest.mark.parametrize(
    ("status", "error"), [(0x2001, DiskRefused), (0x0006, TransportError), (0x0371, TransportError)]
)
async def test_other_failures(tmp_path: Path, status: int, error: type[Exception]) -> None:
    pair = Pair(tmp_path)
    pair.kernels["a"].status = status
    with pytest.raises(error):
        await read(pair.disks["a"], TIMEOUT_MS)


def test_a_report_that_is_too_long_is_not_taken_for_whole() -> None:
    count = 100
    entries = b"".join(struct.pack("<HB5xQ16s32x", number, 0, number + 1, bytes(16)) for number in range(63))
    report = struct.pack("<IBHHB14x", 9, 0, count, 0, 0) + bytes(40) + entries
    reply = nvme_pr.answer(scsi_pr.read_keys(), 0, report.ljust(4096, b"\0"))
    assert reply is not None
    with pytest.raises(ValueError, match="800 bytes announced"):
        scsi_pr.parse_keys(reply.data)
