"""failover.call_remote, over two real links: every option, every error number."""

import asyncio
import errno
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from support.rpc_api import ROOT, method, param, service
from unit.peer.conftest import certificates, pair, start_side, wire_to  # noqa: F401 - fixtures

from middlewared.auth.identity import LOCAL_ORIGIN, NODE
from middlewared.bus import Bus
from middlewared.errors import EREMOTENODEERROR, CallError, ValidationErrors
from middlewared.jobs import Jobs, JobState
from middlewared.plugin import Call, Context
from middlewared.plugins.failover.remote import call_remote
from middlewared.rpc.dispatch import Dispatcher
from middlewared.rpc.peer import PeerCalls
from middlewared.rpc.registry import Registry

DEADLINE_S = 20.0
METHODS = [
    method("far.echo", [param("what", {})]),
    method("far.refuse"),
    method("far.break"),
    method("far.hang"),
    method("far.work", [param("what", {})], job=True),
]


class Far:
    """What runs on the other controller."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.hanging = asyncio.Event()
        registry = Registry({"test.json": {"services": [service("far")], "methods": METHODS, "events": []}})
        for name in ("echo", "refuse", "break", "hang", "work"):
            registry.bind(f"far.{name}", getattr(self, f"{name}_"))
        self.jobs = Jobs(Bus())
        self.serve = PeerCalls(Dispatcher(registry, self.jobs, Call))

    async def echo_(self, call: Call, what: Any) -> Any:
        return [call.credential == NODE, what]

    async def refuse_(self, call: Call) -> None:
        raise CallError("Not today", errno.EPERM, {"why": 1})

    async def break_(self, call: Call) -> None:
        raise ZeroDivisionError("oh")

    async def hang_(self, call: Call) -> None:
        self.hanging.set()
        await asyncio.get_running_loop().create_future()

    async def work_(self, call: Call, what: Any) -> Any:
        assert call.job is not None
        call.job.set_progress(40, "halfway there", {"of": what})
        await self.go_on.wait()
        return what


class Near:
    def __init__(self, link: Any) -> None:
        self.jobs = Jobs(Bus())
        self.context = cast(Context, SimpleNamespace(peer=link, jobs=self.jobs))

    async def call(self, name: str, *args: Any, **options: Any) -> Any:
        every = {
            "timeout": 20,
            "connect_timeout": 2.0,
            "job": False,
            "job_return": None,
            "callback": None,
            "raise_connect_error": True,
        }
        return await call_remote(self.context, Call(ROOT, LOCAL_ORIGIN), name, list(args), every | options)

    async def refused(self, name: str, *args: Any, **options: Any) -> CallError:
        with pytest.raises(CallError) as caught:
            await self.call(name, *args, **options)
        return caught.value

    async def until_progress(self, percent: int) -> Any:
        """The job here, once it shows so much."""
        async with asyncio.timeout(DEADLINE_S):
            while not (jobs := self.jobs.all()):
                await asyncio.sleep(0)
            changed = asyncio.Event()
            unwatch = jobs[0].watch(lambda job: changed.set())
            while jobs[0].progress["percent"] != percent:
                changed.clear()
                await changed.wait()
            unwatch()
        return jobs[0]


@pytest.fixture
async def sides(pair: Any) -> AsyncIterator[tuple[Near, Far, Any]]:  # noqa: F811 - the fixture
    a, b = pair
    far, near = Far(), Near(a.link)
    b.link.serve_call = far.serve
    yield near, far, b
    await near.jobs.stop()
    await far.jobs.stop()


async def test_an_ordinary_method(sides: Any) -> None:
    near, _, _ = sides
    assert await near.call("far.echo", {"x": 1}) == [True, {"x": 1}]
    assert near.jobs.all() == []


async def test_errors_keep_their_numbers(sides: Any) -> None:
    near, _, _ = sides
    refusal = await near.refused("far.refuse")
    assert (refusal.message, refusal.errno, refusal.extra) == ("Not today", errno.EPERM, {"why": 1})
    assert (await near.refused("far.break")).errno == EREMOTENODEERROR
    unknown = await near.refused("far.novel")
    assert unknown.errno == 201
    assert "far.novel" in unknown.message
    late = await near.refused("far.hang", timeout=0.1)
    assert (late.errno, late.message) == (errno.EFAULT, "Call timeout")
    with pytest.raises(ValidationErrors):
        await near.call("far.echo")


async def test_lost_in_between(sides: Any) -> None:
    near, far, b = sides
    task = asyncio.create_task(near.refused("far.hang"))
    await far.hanging.wait()
    await b.link.stop()
    assert (await task).errno == errno.ECONNRESET


@pytest.mark.parametrize("job", [False, True])
async def test_without_a_link(start_side: Any, job: bool) -> None:  # noqa: F811 - the fixture
    near = Near((await start_side("B")).link)
    refusal = await near.refused("far.echo", 1, connect_timeout=0.01, job=job)
    assert refusal.errno == errno.ECONNREFUSED
    assert "0.01 seconds" in refusal.message
    assert await near.call("far.echo", 1, connect_timeout=0.01, job=job, raise_connect_error=False) is None


async def test_a_job_without_asking_for_it_is_its_number_there(sides: Any) -> None:
    near, far, _ = sides
    number = await near.call("far.work", 7)
    assert far.jobs.get(number).method == "far.work"
    far.go_on.set()
    assert await far.jobs.get(number).wait() == 7
    assert near.jobs.all() == []


async def test_a_job_is_waited_for_and_its_progress_is_shown_here(sides: Any) -> None:
    near, far, _ = sides
    task = asyncio.create_task(near.call("far.work", "secret", job=True, timeout=0.1))  # does not count for a job
    job = await near.until_progress(40)
    assert job.progress == {"percent": 40, "description": "halfway there", "extra": {"of": "secret"}}
    assert job.arguments == ["far.work"]
    assert job.owner == "root"
    far.go_on.set()
    assert await task == "secret"
    assert job.state is JobState.SUCCESS


async def test_a_job_to_be_followed_later(sides: Any) -> None:
    near, far, _ = sides
    number = await near.call("far.work", 7, job_return=True)
    await near.until_progress(40)
    far.go_on.set()
    assert await near.jobs.get(number).wait() == 7


async def test_a_job_that_is_aborted_there(sides: Any) -> None:
    near, far, _ = sides
    task = asyncio.create_task(near.refused("far.work", 7, job=True))
    await near.until_progress(40)
    far.jobs.abort(far.jobs.all()[0].id)
    assert (await task).errno == errno.ECANCELED


async def test_who_stops_waiting_does_not_end_the_job_there(sides: Any) -> None:
    near, far, _ = sides
    number = await near.call("far.work", 7, job_return=True)
    await near.until_progress(40)
    near.jobs.abort(number)
    far.go_on.set()
    assert await far.jobs.all()[0].wait() == 7


async def test_progress_in_a_form_of_a_later_release_does_no_harm(sides: Any) -> None:
    near, _, b = sides

    async def serve(method: str, args: list[Any], on_progress: Any) -> str:
        for progress in ("half", {"percent": "half", "description": 5}, {"stage": 2}, {"percent": 50}):
            on_progress(progress)
        return "done"

    b.link.serve_call = serve
    assert await near.call("far.work", job=True) == "done"
    assert near.jobs.all()[0].progress == {"percent": 50, "description": "", "extra": None}
