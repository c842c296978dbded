"""failover.sync_to_peer and sync_from_peer between two controllers' plugins, over two real links."""

import asyncio
import errno
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from support.rpc_api import ROOT
from unit.failover.conftest import facts
from unit.peer.conftest import certificates, pair, start_side, wire_to  # noqa: F401 - fixtures

from middlewared.auth.identity import LOCAL_ORIGIN, NODE
from middlewared.bus import Bus
from middlewared.errors import EHAUNAVAILABLE, CallError
from middlewared.jobs import Job, Jobs
from middlewared.plugin import Call, Context
from middlewared.plugins.failover.belongings import Belongings
from middlewared.plugins.failover.controller import FailoverController
from middlewared.plugins.failover.syncing import PairSync
from middlewared.rpc.registry import Registry
from middlewared.rpc.validation import check_arguments
from middlewared.settings import Settings, SyncSettings

REGISTRY = Registry.load()


class Store:
    """`push` of the configuration, as far as the sync needs it: says what happened, and fails on demand."""

    def __init__(self, log: list[str]) -> None:
        self._log = log
        self.error: CallError | None = None

    async def push(self) -> None:
        if self.error is not None:
            raise self.error
        self._log.append("configuration")


class Side:
    def __init__(self, node: str, link: Any, root: Path, log: list[str]) -> None:
        self.log = log
        self.facts = facts(node)
        self.other: Side | None = None
        self.keys = root / node / "authorized_keys"
        self.keys.parent.mkdir(parents=True)
        settings = Settings(state_dir=str(root / node), sync=SyncSettings(authorized_keys=str(self.keys)))
        self.jobs = Jobs(Bus())
        self.link = link
        self.store = Store(log)
        context = SimpleNamespace(settings=settings, jobs=self.jobs, peer=link, call=self._call)
        controller = SimpleNamespace(mine=lambda: self.facts, sync=self.store)
        self.controller = controller
        self.sync = PairSync(cast(Context, context), cast(FailoverController, controller), Belongings(settings))
        link.serve_call = self._serve

    async def _call(self, name: str, *args: Any) -> None:
        self.log.append(name)

    async def _serve(self, method: str, args: list[Any], on_progress: Any) -> Any:
        filled = check_arguments(REGISTRY.methods[method].params, args)
        call = Call(NODE, LOCAL_ORIGIN)
        if method == "failover.files_wanted":
            return await self.sync.wanted(call, *filled)
        if method == "failover.files_put":
            await self.sync.put(call, *filled)
        elif method == "failover.sync":
            await self.sync.push(
                lambda percent, text: on_progress({"percent": percent, "description": text}), reboot=False
            )
        self.log.append(method)
        return None

    def jobs_now(self) -> list[Job]:
        return self.jobs.all()


@pytest.fixture
async def sides(pair: Any, tmp_path: Path) -> AsyncIterator[tuple[Side, Side]]:  # noqa: F811 - the fixture
    log: list[str] = []
    a, b = (Side(node, side.link, tmp_path, log) for node, side in zip("AB", pair, strict=True))
    b.link.transfers._wire._settings = replace(b.link.transfers._wire._settings, connect=a.link.listening_at[0])
    for one, other in ((a, b), (b, a)):
        one.controller.other = other.facts
        await one.sync.start()
    a.keys.write_text("ssh-ed25519 of A\n")
    yield a, b
    for side in (a, b):
        await side.jobs.stop()


CALL = Call(ROOT, LOCAL_ORIGIN)


async def refused(work: Any) -> CallError:
    with pytest.raises(CallError) as caught:
        await work
    return caught.value


async def test_files_then_configuration_then_places_then_keys_then_reboot(sides: Any) -> None:
    a, b = sides
    b.log.clear()
    await a.sync.to_peer(CALL, reboot=True)
    assert b.keys.read_text() == "ssh-ed25519 of A\n"
    assert a.log == [
        "configuration",
        "failover.files_put",
        "pool.dataset.push_keys",
        "system.reboot",
    ]
    [job] = a.jobs_now()
    assert (job.method, job.owner, job.state.value) == ("failover.sync_to_peer", "root", "SUCCESS")
    assert job.progress["percent"] == 100
    assert job.result is None


async def test_it_is_idempotent(sides: Any) -> None:
    a, b = sides
    await a.sync.to_peer(CALL, reboot=False)
    inode = b.keys.stat().st_ino
    a.log.clear()
    await a.sync.to_peer(CALL, reboot=False)
    assert a.log == ["configuration", "pool.dataset.push_keys"]  # the files are there already
    assert b.keys.stat().st_ino == inode


async def test_a_refused_configuration_leaves_the_files_alone(sides: Any) -> None:
    a, b = sides
    b.keys.write_text("ssh-ed25519 of B\n")
    a.store.error = CallError("other schema", errno.EINVAL)
    assert (await refused(a.sync.to_peer(CALL, reboot=True))).message == "other schema"
    assert b.keys.read_text() == "ssh-ed25519 of B\n"
    assert "system.reboot" not in a.log
    assert a.jobs_now()[0].state.value == "FAILED"
    a.store.error = None
    await a.sync.to_peer(CALL, reboot=False)
    assert b.keys.read_text() == "ssh-ed25519 of A\n"


async def test_from_the_other_with_its_progress_as_ours(sides: Any) -> None:
    _, b = sides
    await b.sync.from_peer(CALL)
    assert b.keys.read_text() == "ssh-ed25519 of A\n"
    [job] = b.jobs_now()
    assert (job.method, job.state.value) == ("failover.sync_from_peer", "SUCCESS")
    assert job.progress == {"percent": 100, "description": "Done", "extra": None}


async def test_a_leader_fetches_nothing_and_takes_nothing(sides: Any) -> None:
    a, b = sides
    b.keys.write_text("ssh-ed25519 of B\n")
    await a.sync.from_peer(CALL)
    assert a.log == []
    assert (await refused(b.sync.to_peer(CALL, reboot=False))).errno == EHAUNAVAILABLE
    assert a.keys.read_text() == "ssh-ed25519 of A\n"


async def test_a_standby_that_is_behind_does_not_overwrite_the_leader(sides: Any) -> None:
    a, b = sides
    a.facts = b.controller.other = replace(a.facts, position=9)
    assert (await refused(b.sync.to_peer(CALL, reboot=False))).errno == errno.EBUSY
    b.controller.other = None
    assert (await refused(b.sync.to_peer(CALL, reboot=False))).errno == errno.ECONNREFUSED
    assert b.jobs_now() == []


async def test_the_work_goes_on_without_the_caller(sides: Any) -> None:
    a, b = sides
    entered, go_on = asyncio.Event(), asyncio.Event()
    push = a.store.push

    async def slow() -> None:
        entered.set()
        await go_on.wait()
        await push()

    a.store.push = slow
    task = asyncio.create_task(a.sync.to_peer(CALL, reboot=False))
    await entered.wait()
    task.cancel()
    go_on.set()
    await a.jobs_now()[0].wait()
    assert b.keys.read_text() == "ssh-ed25519 of A\n"


@pytest.mark.parametrize("half", ["wanted", "put"])
async def test_only_the_other_controller_hands_files_over(sides: Any, half: str) -> None:
    _, b = sides
    assert (await refused(getattr(b.sync, half)(CALL, []))).errno == errno.EACCES
