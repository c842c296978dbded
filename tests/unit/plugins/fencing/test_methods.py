"""The `failover.fenced.*` methods: what they refuse, above all."""

from types import SimpleNamespace
from typing import Any

import pytest

from middlewared.errors import CallError
from middlewared.plugins.fencing.methods import Fenced
from middlewared.ports import FenceState, Pool


@pytest.fixture(autouse=True)
def fenced(bench: Any) -> None:
    bench.use(Fenced)
    bench.context.peer = SimpleNamespace(connected=False)
    stands(bench, "SINGLE")


def stands(bench: Any, status: str) -> None:
    async def call(name: str, *_: Any) -> Any:
        assert name == "failover.status"
        return status

    bench.context.call = call


async def test_run_info(bench: Any) -> None:
    assert await bench.call("failover.fenced.run_info") == {"running": True, "pid": 7, "held": False}
    bench.machine.broken = "fenced did not answer"
    assert await bench.call("failover.fenced.run_info") == {"running": False, "problem": "fenced did not answer"}


async def test_start_on_a_controller_of_its_own(bench: Any) -> None:
    assert await bench.call("failover.fenced.start") == 0
    assert await bench.call("failover.fenced.start", True) == 0
    assert bench.fence.log == ["acquire", "acquire by force"]
    bench.machine.fence = FenceState(running=True, held=True)
    assert await bench.call("failover.fenced.start") == 0
    assert len(bench.fence.log) == 2, "they are held already"
    bench.machine.fence = FenceState()
    bench.machine.broken = "fenced did not answer"
    with pytest.raises(CallError, match="did not answer"):
        await bench.call("failover.fenced.start")


@pytest.mark.parametrize("status", ["MASTER", "BACKUP", "ELECTING", "IMPORTING", "ERROR", "UNKNOWN"])
@pytest.mark.parametrize("force", [False, True])
async def test_start_never_robs_a_pair(bench: Any, status: str, force: bool) -> None:
    stands(bench, status)
    with pytest.raises(CallError, match="force_master"):
        await bench.call("failover.fenced.start", force)
    assert bench.fence.log == []


async def test_start_with_another_controller_in_sight(bench: Any) -> None:
    bench.context.peer.connected = True
    with pytest.raises(CallError, match="force_master"):
        await bench.call("failover.fenced.start")
    assert bench.fence.log == []


@pytest.mark.parametrize("status", ["BACKUP", "ERROR", "SINGLE"])
async def test_stop_where_nothing_is_imported(bench: Any, status: str) -> None:
    stands(bench, status)
    bench.machine.pool_list = [Pool("tank", "17", False, "OFFLINE")]
    assert await bench.call("failover.fenced.stop") is None
    assert bench.fence.log == ["release"]


@pytest.mark.parametrize("status", ["MASTER", "ELECTING", "IMPORTING", "UNKNOWN"])
async def test_stop_never_interferes(bench: Any, status: str) -> None:
    stands(bench, status)
    with pytest.raises(CallError, match="become_passive"):
        await bench.call("failover.fenced.stop")
    assert bench.fence.log == []


async def test_stop_never_leaves_a_pool_without_its_reservations(bench: Any) -> None:
    bench.machine.pool_list = [Pool("tank", "17", True, "ONLINE"), Pool("safe", "18", False, "OFFLINE")]
    with pytest.raises(CallError, match="tank is imported here"):
        await bench.call("failover.fenced.stop")
    bench.machine.broken = "the kernel does not answer"
    with pytest.raises(CallError, match="Nobody can tell"):
        await bench.call("failover.fenced.stop")
    assert bench.fence.log == []
