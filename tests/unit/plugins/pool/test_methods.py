"""The `pool.*` methods."""

from typing import Any

import pytest

from middlewared.plugins.pool.methods import Pools
from middlewared.ports import Pool, PortError


@pytest.fixture(autouse=True)
def pools(bench: Any) -> None:
    bench.use(Pools)


async def test_an_imported_pool_tells_its_sizes(bench: Any) -> None:
    bench.machine.pool_list = [Pool("tank", "17", True, "ONLINE", 1000, 400)]
    [row] = await bench.call("pool.query")
    assert (row["size"], row["allocated"], row["free"], row["healthy"]) == (1000, 400, 600, True)


async def test_sizes_of_an_exported_pool_are_unknown(bench: Any) -> None:
    bench.machine.pool_list = [Pool("tank", "17", False, "OFFLINE", 1000, 400)]
    [row] = await bench.call("pool.query")
    assert (row["size"], row["free"], row["healthy"]) == (None, None, False)


async def test_a_degraded_pool_is_not_healthy(bench: Any) -> None:
    bench.machine.pool_list = [Pool("b", "2", True, "DEGRADED"), Pool("a", "1", True, "ONLINE")]
    assert [(row["name"], row["healthy"]) for row in await bench.call("pool.query")] == [("a", True), ("b", False)]
    assert (await bench.call("pool.query", [["id", "=", "2"]], {"get": True}))["name"] == "b"


async def test_a_kernel_that_cannot_tell_is_an_error_and_not_an_empty_list(bench: Any) -> None:
    bench.machine.broken = "the kernel does not answer"
    with pytest.raises(PortError):
        await bench.call("pool.query")
