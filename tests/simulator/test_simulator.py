"""The simulator itself: what it shows must be repeatable, and its oracles must be able to object."""

import asyncio
import gc
import logging
import sys

import pytest

from tests.simulator import commands, rehearse
from tests.simulator.faults import draw_plan
from tests.simulator.run import SETTLE_MS, Run, run_seed, shape_of
from tests.simulator.world import World


def settled() -> World:
    world = World(7)
    world.power_on()
    assert world.run_until(lambda: world.master() is not None and world.reasons("b") == [], 2000)
    world.run_ms(3000)
    return world


def test_a_seed_gives_the_same_run_again() -> None:
    first, second = run_seed(31), run_seed(31)
    assert first.digest == second.digest
    assert (first.writes, first.role_changes) == (second.writes, second.role_changes)


def test_different_seeds_give_different_plans() -> None:
    assert len({draw_plan(seed, shape_of(seed).disks, SETTLE_MS).faults for seed in (1, 2, 3)}) == 3


def test_a_death_is_survived_in_the_copy_and_leaves_the_world_alone() -> None:
    world = settled()
    assert rehearse.death_of_the_master(world) == ""
    assert world.role("a") == "MASTER"
    world.close()


def test_a_lie_is_found_out() -> None:
    """The standby's keeper hangs, and for an instant nobody knows: the verdict must not be believed then."""
    world = settled()
    world.do("freeze-keeper b")
    assert "is TAKING" in rehearse.death_of_the_master(world)
    world.close()


def test_a_foreign_write_is_found_out() -> None:
    world = settled()
    world.oracles.landed("b", 0, world.oracles.next_tenure("b"))
    assert world.oracles.violation.startswith("O1")
    world.close()


def test_an_old_write_after_a_new_one_is_found_out() -> None:
    world = settled()
    world.oracles.next_tenure("a")
    world.oracles.landed("a", 0, 2)
    world.oracles.landed("a", 0, 1)
    assert world.oracles.violation.startswith("O1")
    world.close()


def test_traffic_without_the_pool_is_found_out() -> None:
    world = settled()
    world.oracles.opened("b")
    assert world.oracles.violation.startswith("O3")
    world.close()


def test_a_lost_change_is_found_out() -> None:
    world = settled()
    assert world.writer.trouble() == ""
    world.writer.acknowledged.append(99)
    assert world.writer.trouble() == "acknowledged changes are lost: [99]"
    world.close()


def test_stores_that_differ_are_found_out() -> None:
    world = settled()
    world.controllers["b"].disk._anchor.execute("UPDATE failover_config SET timeout_s = 7")
    assert "the stores differ: {'failover_config'" in world.writer.trouble()
    world.close()


def test_changes_out_of_order_are_found_out() -> None:
    world = settled()
    for _ in range(2):
        world.do("write a")
        world.run_ms(100)
    assert world.writer.acknowledged == [1, 2]
    assert world.writer.trouble() == ""
    assert "change 2 was asked for after [1] had been acknowledged" in world.writer._disorder([2, 1])
    world.close()


def test_an_entry_of_the_log_that_is_missing_on_both_is_found_out() -> None:
    world = settled()
    for _ in range(3):
        world.do("write a")
        world.run_ms(100)
    for controller in world.controllers.values():
        controller.disk._anchor.execute("DELETE FROM log WHERE seq = (SELECT max(seq) - 1 FROM log)")
    assert "a gap after change" in world.writer.trouble()
    world.close()


@pytest.mark.parametrize("line", ["no-such-command", "kill nobody", "cut nothing", "set a nonsense 1"])
def test_a_mistyped_command_is_refused(line: str) -> None:
    world = World(1)
    with pytest.raises(commands.CommandError):
        commands.run(world, line)
    world.close()


def test_no_more_disks_are_replaced_than_the_pool_can_spare() -> None:
    world = settled()
    world.do("kill a")
    world.do("kill b")  # nobody takes a new disk into the pool
    for slot in ("0", "1", "2"):
        world.do(f"pull-disk {slot}")
        world.do(f"replace-disk {slot}")
    assert [disk.serial for disk in world.shelf.disks] == ["D02", "D03", "D00-1", "D01-2"]
    assert not world.fabric.pulled
    world.do("boot a")
    assert world.run_until(lambda: world.role("a") == "MASTER", 20_000)
    assert world.run_until(lambda: world.blank_disks() == 0, 5000)
    world.close()


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_who_is_killed_leaves_no_coroutine_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even one that was begun while its process stood still, or was dead."""
    monkeypatch.setattr(
        logging.root.manager, "disable", logging.CRITICAL
    )  # what is logged would be kept, and its frames
    world = settled()
    world.do("freeze a")
    process = world.controllers["a"].process("daemon")
    assert process is not None
    said: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: said.append(str(unraisable.exc_value)))
    world.do("write a")
    world.do("kill a")
    process.start(asyncio.sleep(1))
    world.run_ms(1000)
    del process
    world.close()
    gc.collect()
    assert said == []


def test_quiet_time_is_skipped_and_counts() -> None:
    world = settled()
    world.run_ms(13_000)
    assert world.still()
    before_s = world.now_s
    world.skip_to(before_s + 3600)
    assert world.now_s == pytest.approx(before_s + 3600)
    world.do("kill a")
    assert world.run_until(lambda: world.serves("b"), 1000)
    world.close()


def test_a_run_can_be_given_its_faults() -> None:
    run = Run(5, faults=())
    assert run.go().violation == ""
