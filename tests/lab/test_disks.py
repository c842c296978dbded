"""Disks that are pulled, and one that never comes back: another is in its place."""

from support.lab import Lab


async def test_a_replaced_disk_is_forgotten_by_both(lab: Lab) -> None:
    await lab.until_healthy(master="a")
    before = {disk["serial"] for disk in await lab.call("a", "disk.query", [], {})}
    await lab.tell("pull-disk", node="b", disk=3)

    async def unfit() -> bool:
        return all(["MISMATCH_DISKS" in (await lab.reasons(node) or ()) for node in ("a", "b")])

    await lab.until("both say that B misses a disk", unfit)
    await lab.tell("replace-disk", disk=3)
    assert await lab.until_healthy() == "a"
    for node in ("a", "b"):
        after = {disk["serial"] for disk in await lab.call(node, "disk.query", [], {})}
        assert (len(after), len(after - before)) == (len(before), 1)

        async def counted(node: str = node, after: set[str] = after) -> bool:
            info = await lab.call(node, "failover.fenced.run_info")
            return {disk["serial"] for disk in info["disks"]} == after

        await lab.until(f"the keeper of {node} counts these disks and no other", counted)

    async def whole() -> bool:
        return [pool["status"] for pool in await lab.call("a", "pool.query", [], {})] == ["ONLINE"]

    await lab.until("the pool has taken the new disk in", whole)
    await lab.tell("kill", node="a")
    await lab.until_answered_by("b")
