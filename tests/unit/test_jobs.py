import asyncio
from typing import Any

import pytest

from middlewared import jobs as jobs_module
from middlewared.auth.identity import INTERNAL, Credential
from middlewared.bus import Bus, Event
from middlewared.errors import CallError, JobAborted, ValidationErrors, invalid
from middlewared.jobs import Job, Jobs, JobState
from middlewared.rpc.pipes import Pipe, Uploads

USER = Credential("LOGIN_PASSWORD", "alice")
OTHER = Credential("LOGIN_PASSWORD", "bob")


class World:
    def __init__(self) -> None:
        self.bus = Bus()
        self.events: list[Event] = []
        self.bus.listen(self.events.append)
        self.jobs = Jobs(self.bus)

    def told(self, number: int) -> list[tuple[str, Any]]:
        return [(event.msg, (event.fields or {})["state"]) for event in self.events if event.id == number]


@pytest.fixture
async def world() -> World:
    return World()


async def nothing(job: Job) -> str:
    return "done"


async def for_ever(job: Job) -> None:
    await asyncio.Event().wait()


async def test_life_of_a_job(world: World) -> None:
    async def run(job: Job) -> int:
        job.set_progress(12.9, "half way")
        job.set_progress(12, "half way")  # no change, no event
        job.set_progress(extra={"n": 1})
        job.log("line")
        return 5

    job = world.jobs.start("m.run", run, arguments=[1], credential=USER, message_id="r1")
    assert world.told(1) == [("added", "WAITING")]
    assert (world.events[0].fields or {})["message_ids"] == ["r1"]
    assert await job.wait() == 5
    assert [state for _, state in world.told(1)] == ["WAITING", "RUNNING", "RUNNING", "RUNNING", "SUCCESS"]
    wire = job.to_wire()
    assert wire["progress"] == {"percent": 12, "description": "half way", "extra": {"n": 1}}
    assert (wire["result"], wire["error"], wire["logs_excerpt"]) == (5, None, "line")
    assert wire["credentials"] == {"type": "LOGIN_PASSWORD", "data": {"username": "alice"}}
    assert wire["time_started"] <= wire["time_finished"]
    assert all("message_ids" in (event.fields or {}) for event in world.events)


async def test_events_are_snapshots(world: World) -> None:
    job = world.jobs.start("m.run", nothing)
    await job.wait()
    assert (world.events[0].fields or {})["state"] == "WAITING"


@pytest.mark.parametrize(
    ("error", "text", "kind", "number"),
    [
        (CallError("No.", 28), "[ENOSPC] No.", "CallError", 28),
        (invalid("data.x", "Bad"), "[EINVAL] data.x: Bad\n", "VALIDATION", None),
    ],
)
async def test_failures(world: World, error: Exception, text: str, kind: str, number: int | None) -> None:
    async def run(job: Job) -> None:
        raise error

    job = world.jobs.start("m.run", run)
    with pytest.raises(type(error)):
        await job.wait()
    wire = job.to_wire()
    assert (wire["state"], wire["error"]) == ("FAILED", text)
    assert (wire["exc_info"]["type"], wire["exc_info"]["errno"]) == (kind, number)
    assert wire["exception"]


async def test_unexpected_failures_show_a_reference_only(world: World) -> None:
    async def run(job: Job) -> None:
        raise KeyError("secret")

    job = world.jobs.start("m.run", run)
    with pytest.raises(Exception, match="reference"):
        await job.wait()
    assert "secret" not in str(job.to_wire())
    assert job.to_wire()["exc_info"]["type"] == "KeyError"


async def test_results_that_json_cannot_hold(world: World) -> None:
    async def run(job: Job) -> Any:
        return object()

    job = world.jobs.start("m.run", run)
    await job.wait()
    assert job.to_wire()["result"] is None
    assert "object" in job.to_wire()["result_encoding_error"]


@pytest.mark.parametrize("begun", [False, True])
async def test_abort(world: World, begun: bool) -> None:
    job = world.jobs.start("m.run", for_ever)
    while begun and job.state is JobState.WAITING:
        await asyncio.sleep(0)
    world.jobs.abort(job.id)
    with pytest.raises(JobAborted):
        await job.wait()
    assert world.told(job.id)[-1] == ("changed", "ABORTED")
    world.jobs.abort(job.id)  # too late is no error


async def test_some_jobs_cannot_be_aborted(world: World) -> None:
    job = world.jobs.start("m.run", for_ever, abortable=False)
    with pytest.raises(CallError):
        world.jobs.abort(job.id)
    await world.jobs.stop()
    assert job.state is JobState.ABORTED


async def test_unknown_jobs(world: World) -> None:
    with pytest.raises(ValidationErrors) as caught:
        world.jobs.get(5)
    assert caught.value.errors[0][0] is None
    assert caught.value.errors[0][2] == 2


async def test_one_lock_one_job_at_a_time_in_order(world: World) -> None:
    order: list[int] = []

    def work(number: int, gate: asyncio.Event) -> Any:
        async def run(job: Job) -> None:
            order.append(number)
            await gate.wait()
            order.append(-number)

        return run

    gate = asyncio.Event()
    started = [world.jobs.start("m.run", work(n, gate), arguments=[n], lock="pool") for n in (1, 2, 3)]
    free = world.jobs.start("m.run", nothing)
    assert await free.wait() == "done"
    assert order == [1]
    gate.set()
    await asyncio.gather(*(job.wait() for job in started))
    assert order == [1, -1, 2, -2, 3, -3]


async def test_equal_calls_join_the_one_that_waits(world: World) -> None:
    gate = asyncio.Event()

    async def run(job: Job) -> int:
        await gate.wait()
        return job.id

    def start(message_id: str, **options: Any) -> Job:
        given = {"arguments": [1], "credential": USER, "lock": "pool", "message_id": message_id} | options
        return world.jobs.start("m.run", run, **given)

    first = start("a")
    while first.state is JobState.WAITING:
        await asyncio.sleep(0)
    second, third = start("b"), start("c")
    assert third is second
    assert (world.events[-1].msg, (world.events[-1].fields or {})["message_ids"]) == ("changed", ["b", "c"])
    assert start("d", arguments=[2]) is not second
    assert start("e", credential=OTHER) is not second
    assert start("f", joinable=False) is not second
    gate.set()
    assert [await job.wait() for job in (first, second, third)] == [1, 2, 2]


async def test_a_lock_that_waits_holds_no_running_slot(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "RUNNING_MAX", 2)
    jobs = Jobs(world.bus)
    held = [jobs.start("m.run", for_ever, arguments=[n], lock="pool") for n in range(3)]
    assert await jobs.start("m.free", nothing).wait() == "done"
    assert [job.state for job in held].count(JobState.RUNNING) == 1
    await jobs.stop()


async def test_running_jobs_are_bounded_but_those_that_wait_for_them(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_module, "RUNNING_MAX", 1)
    jobs = Jobs(world.bus)
    gate = asyncio.Event()

    async def wait(job: Job) -> None:
        await gate.wait()

    async def wait_for_second(job: Job) -> Any:
        return await second.wait()

    jobs.start("m.run", wait)
    light = jobs.start("core.job_wait", wait_for_second, light=True)
    second = jobs.start("m.run", nothing)
    while light.state is JobState.WAITING:
        await asyncio.sleep(0)
    assert second.state is JobState.WAITING
    gate.set()
    assert await light.wait() == "done"


async def test_unfinished_jobs_are_bounded_per_user_and_in_all(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "UNFINISHED_PER_USER_MAX", 2)
    monkeypatch.setattr(jobs_module, "UNFINISHED_MAX", 5)
    for _ in range(2):
        world.jobs.start("m.run", for_ever, credential=USER)
    with pytest.raises(CallError, match="EBUSY"):
        world.jobs.start("m.run", for_ever, credential=USER)
    for credential in (OTHER, INTERNAL, None):
        world.jobs.start("m.run", for_ever, credential=credential)
    with pytest.raises(CallError, match="EBUSY"):
        world.jobs.start("m.run", for_ever)
    await world.jobs.stop()


async def test_history_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "FINISHED_KEPT_MAX", 3)
    running = world.jobs.start("m.run", for_ever)
    for _ in range(6):
        await world.jobs.start("m.run", nothing).wait()
    await asyncio.sleep(0)
    assert [job.id for job in world.jobs.all()] == [running.id, 5, 6, 7]
    await world.jobs.stop()


async def test_transient_jobs_are_silent(world: World) -> None:
    await world.jobs.start("m.run", nothing, transient=True).wait()
    assert world.events == []


async def test_streams(world: World) -> None:
    async def swap(job: Job) -> None:
        async for chunk in job.input_chunks():
            await job.output.write(chunk.upper())

    uploads, output = Uploads(), Pipe()
    job = world.jobs.start("m.run", swap, uploads=uploads, output=output)
    file = uploads.add_file()
    await file.write(b"ab")
    file.close()
    assert b"".join([chunk async for chunk in output.chunks()]) == b"AB"
    await job.wait()
    with pytest.raises(CallError):  # the job has ended: nobody reads any more
        await uploads.add_file().write(b"x")


async def test_streams_that_nobody_opened(world: World) -> None:
    async def run(job: Job) -> None:
        job.output.close()

    job = world.jobs.start("m.run", run)
    with pytest.raises(CallError):
        await job.wait()
    assert job.to_wire()["error"] == "[EFAULT] Pipe 'output' is not open"


async def test_an_upload_that_broke_off_is_not_taken_for_whole(world: World) -> None:
    async def read(job: Job) -> int:
        return sum([len(chunk) async for chunk in job.input_chunks()])

    uploads = Uploads()
    job = world.jobs.start("m.run", read, uploads=uploads)
    await uploads.add_file().write(b"half")
    uploads.fail("The upload broke off")
    with pytest.raises(CallError, match="broke off"):
        await job.wait()


async def test_a_pipe_makes_its_writer_wait(world: World) -> None:
    pipe = Pipe()
    writing = asyncio.create_task(_write_all(pipe, [b"x" * 300_000] * 10))
    total = 0
    async for chunk in pipe.chunks():
        assert pipe._size_bytes < 2_000_000
        total += len(chunk)
    await writing
    assert total == 3_000_000


async def _write_all(pipe: Pipe, chunks: list[bytes]) -> None:
    for chunk in chunks:
        await pipe.write(chunk)
    pipe.close()


async def test_logs_are_bounded_and_excerpted(world: World) -> None:
    async def run(job: Job) -> None:
        for number in range(25):
            job.log(str(number))

    job = world.jobs.start("m.run", run)
    await job.wait()
    assert job.to_wire()["logs_excerpt"].split() == [str(n) for n in [*range(10), *range(15, 25)]]
    short = world.jobs.start("m.run", nothing)
    for number in range(12):
        short.log(str(number))
    assert short.to_wire()["logs_excerpt"].split() == [str(n) for n in range(12)]
