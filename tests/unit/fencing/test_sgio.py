"""SG_IO on a fake kernel: the struct, what may go wrong in it, and threads that hang."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from support.fake_kernel import SgKernel

from middlewared.lab.shelf import STANDARD, Shelf, ShelfDisk
from middlewared.plugins.fencing import scsi, scsi_pr
from middlewared.plugins.fencing.scsi import Status
from middlewared.plugins.fencing.sgio import SgTransport, open_sg
from middlewared.plugins.fencing.transport import TransportError, command
from middlewared.workers import Lane, Workers

TIMEOUT_MS = 5000
KEY = scsi_pr.make_key(0xA000_0001, 1)


@pytest.fixture
async def kernel() -> AsyncIterator[SgKernel]:
    shelf = Shelf([ShelfDisk(0, "S000", 1 << 20)], target=STANDARD, initiators=("a", "b"))
    kernel = SgKernel(shelf, {"sg0": ("a", 0), "sg1": ("b", 0)})
    yield kernel
    kernel.thaw.set()


@pytest.fixture
def transport(kernel: SgKernel, tmp_path: Path) -> SgTransport:
    return _transport(kernel, tmp_path, "sg0")


def _transport(kernel: SgKernel, folder: Path, node: str) -> SgTransport:
    (folder / node).touch()
    return SgTransport(open_sg(folder / node), "S000", Workers(4), kernel.ioctl)


async def test_data_in_out_and_none(transport: SgTransport) -> None:
    block = bytes(range(256)) * 2
    assert (await transport.execute(scsi.test_unit_ready(), b"", TIMEOUT_MS)).status == Status.GOOD
    assert (await transport.execute(scsi.write_10(3, 1), block, TIMEOUT_MS)).status == Status.GOOD
    assert (await transport.execute(scsi.read_16(3, 1), b"", TIMEOUT_MS)).data == block
    inquiry = await transport.execute(scsi.inquiry(0x80), b"", TIMEOUT_MS)
    assert scsi.parse_serial(inquiry.data) == "S000", "what did not come is cut off, by resid"


@pytest.mark.parametrize("old_kernel", [False, True])
async def test_what_the_device_answers(
    kernel: SgKernel, transport: SgTransport, tmp_path: Path, old_kernel: bool
) -> None:
    kernel.old_kernel = old_kernel
    other = _transport(kernel, tmp_path, "sg1")
    await transport.execute(*scsi_pr.register_and_ignore(KEY), TIMEOUT_MS)
    await transport.execute(*scsi_pr.reserve(KEY), TIMEOUT_MS)
    refused = await other.execute(scsi.write_10(0, 1), bytes(512), TIMEOUT_MS)
    assert (refused.status, refused.sense) == (Status.RESERVATION_CONFLICT, b"")
    unknown = await other.execute(
        scsi_pr.register_and_ignore(KEY, aptpl=True)[0], bytes(24)[:-4] + b"\x01\0\0\0", TIMEOUT_MS
    )
    assert scsi.parse_sense(unknown.sense) == scsi.INVALID_FIELD_IN_PARAMETERS


@pytest.mark.parametrize(("host_status", "words"), [(0x01, "no connection"), (0x03, "timed out"), (0x11, "unknown")])
async def test_what_only_the_kernel_says(
    kernel: SgKernel, transport: SgTransport, host_status: int, words: str
) -> None:
    kernel.host_status = host_status
    with pytest.raises(TransportError, match=words):
        await transport.execute(scsi.test_unit_ready(), b"", TIMEOUT_MS)


async def test_a_device_that_is_gone(kernel: SgKernel, transport: SgTransport) -> None:
    kernel.gone.add("sg0")
    with pytest.raises(TransportError, match=r"sg0: No such device"):
        await transport.execute(scsi.test_unit_ready(), b"", TIMEOUT_MS)
    with pytest.raises(TransportError, match="LOGICAL UNIT RESET: No such device"):
        await transport.lun_reset(TIMEOUT_MS)


async def test_a_reset_is_of_the_unit(kernel: SgKernel, transport: SgTransport, tmp_path: Path) -> None:
    queued = kernel.shelf.submit("b", 0, scsi.write_10(0, 1), bytes(512))
    await transport.lun_reset(TIMEOUT_MS)
    assert kernel.resets == ["sg0"]
    assert not isinstance(queued, scsi.Reply)
    assert queued.aborted


async def test_resets_of_one_adapter_wait_for_each_other(kernel: SgKernel, transport: SgTransport) -> None:
    kernel.busy = 3
    await transport.lun_reset(TIMEOUT_MS)
    assert (kernel.resets, kernel.busy) == (["sg0"], 0)


async def test_an_adapter_that_stays_busy_is_told(kernel: SgKernel, transport: SgTransport) -> None:
    kernel.busy = 1_000_000
    with pytest.raises(TransportError, match="the adapter was busy for 20 ms"):
        await transport.lun_reset(20)
    assert kernel.resets == []


async def test_a_thread_that_hangs_is_written_off(kernel: SgKernel, transport: SgTransport, tmp_path: Path) -> None:
    kernel.hung.add("sg0")
    for _ in range(3):
        with pytest.raises(TransportError, match="sg0 does not answer"):
            await transport.execute(scsi.test_unit_ready(), b"", 1)
    other = _transport(kernel, tmp_path, "sg1")
    other.workers = transport.workers
    assert (await other.execute(scsi.test_unit_ready(), b"", TIMEOUT_MS)).status == Status.GOOD
    kernel.hung.clear()
    kernel.thaw.set()
    async with asyncio.timeout(30):
        while True:
            try:
                assert (await command(transport, scsi.test_unit_ready(), timeout_ms=TIMEOUT_MS)).status == Status.GOOD
                break
            except TransportError:
                await asyncio.sleep(0)


async def test_a_node_is_closed_with_the_last_who_knows_it(kernel: SgKernel, tmp_path: Path) -> None:
    """Never under a thread: its number may be another device's by the time that the thread comes to it."""
    transport = _transport(kernel, tmp_path, "sg0")
    kernel.hung.add("sg0")
    link = Path(f"/proc/self/fd/{transport.node.fd}")
    with pytest.raises(TransportError):
        await transport.execute(scsi.test_unit_ready(), b"", 1)
    workers = transport.workers
    del transport
    assert link.exists(), "a thread is still in the kernel with it"
    kernel.thaw.set()
    async with asyncio.timeout(30):
        while link.exists():
            await workers.submit(lambda: None)


async def test_a_lane_is_narrow() -> None:
    lane = Lane(Workers(8), late_max=1)
    assert await lane.run(lambda: 7, 30_000) == 7
    with pytest.raises(ZeroDivisionError):
        await lane.run(lambda: 1 // 0, 30_000)


async def test_a_call_that_was_given_up_counts_until_it_comes_back() -> None:
    """Or whoever asks again and again, and each time takes another path's answer, would use up all threads."""
    lane, thaw = Lane(Workers(8), late_max=1), threading.Event()
    given_up = asyncio.create_task(lane.run(lambda: thaw.wait(60), 30_000))
    await asyncio.sleep(0)
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    with pytest.raises(TimeoutError):
        await lane.run(lambda: 7, 30_000)
    thaw.set()
    async with asyncio.timeout(30):
        while True:
            with suppress(TimeoutError):
                assert await lane.run(lambda: 7, 30_000) == 7
                break
            await asyncio.sleep(0.001)
