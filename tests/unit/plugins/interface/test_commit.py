"""Stage, commit, check in, go back: on one controller, and on both."""

import asyncio
import errno
import json
from typing import Any

import pytest

from middlewared.errors import CallError, ValidationErrors
from middlewared.plugins.interface import generations

VLAN = {
    "type": "VLAN",
    "vlan_parent_interface": "eth1",
    "vlan_tag": 20,
    "aliases": [{"address": "203.0.113.1", "netmask": 24}],
    "failover_aliases": [{"address": "203.0.113.2", "netmask": 24}],
}
BRIDGE = {"type": "BRIDGE", "bridge_members": ["eth1"], "aliases": [{"address": "192.0.1.1", "netmask": 24}]}
OWN = [{"address": "192.0.0.7", "netmask": 24}]


async def moved(controller: Any, seconds: float) -> None:
    """Time passes, and the controller notices."""
    controller.clock.pass_s(seconds)
    await controller.plugin.applier.settle()


# ------------------------------------------------------------------------------------------ staging


async def test_what_is_staged_is_shown_and_does_nothing(alone: Any) -> None:
    row = await alone.call("interface.create", VLAN)
    assert (row["id"], row["type"], row["vlan_parent_interface"], row["vlan_tag"]) == ("vlan20", "VLAN", "eth1", 20)
    assert row["state"]["link_state"] == "LINK_STATE_UNKNOWN"
    assert [alias["address"] for alias in row["aliases"]] == ["203.0.113.1"]
    assert [alias["address"] for alias in row["failover_aliases"]] == ["203.0.113.2"]
    assert await alone.call("interface.has_pending_changes") is True
    assert alone.machine.changes == []
    await alone.call("interface.delete", "vlan20")
    assert await alone.call("interface.has_pending_changes") is False


async def test_rollback_forgets_what_is_staged(alone: Any) -> None:
    await alone.call("interface.update", "eth0", {"mtu": 9000})
    assert (await alone.call("interface.get_instance", "eth0"))["mtu"] == 9000
    await alone.call("interface.rollback")
    assert (await alone.call("interface.get_instance", "eth0"))["mtu"] is None
    assert await alone.call("interface.has_pending_changes") is False


async def test_a_place_in_failover_is_not_staged(alone: Any) -> None:
    await alone.call("interface.update", "eth0", {"failover_critical": True, "description": "LAN", "mtu": 9000})
    rows = alone.store.query("SELECT name, critical, description FROM interface_config")
    assert rows == [{"name": "eth0", "critical": 1, "description": "LAN"}]
    assert alone.machine.changes == []


async def test_there_has_to_be_something_to_commit(alone: Any) -> None:
    with pytest.raises(CallError, match="no changes to commit"):
        await alone.call("interface.commit")


# ------------------------------------------------------------------------------------------ committing


async def test_a_commit_that_is_checked_in_stays(alone: Any) -> None:
    await alone.call("interface.create", VLAN)
    await alone.call("interface.commit", {"checkin_timeout": 30})
    assert alone.machine.addresses("vlan20") == ("203.0.113.1/24",)
    assert await alone.call("interface.has_pending_changes") is False
    alone.clock.pass_s(10)
    assert await alone.call("interface.checkin_waiting") == 20
    assert "interface.checkin" in alone.alert_keys()
    await alone.call("interface.checkin")
    assert await alone.call("interface.checkin_waiting") is None
    await moved(alone, 100)
    assert "vlan20" in alone.machine.names()
    assert alone.alert_keys() == []


async def test_a_commit_that_nobody_checks_in_is_undone(alone: Any) -> None:
    before = await alone.machine.present()
    await alone.call("interface.create", BRIDGE)
    await alone.call("interface.commit", {"checkin_timeout": 30})
    assert alone.machine.addresses("br0") == ("192.0.1.1/24",)
    assert alone.machine.addresses("eth1") == (), "its address moved to the bridge"
    await moved(alone, 29)
    assert "br0" in alone.machine.names()
    await moved(alone, 2)
    assert await alone.machine.present() == before
    assert await alone.call("interface.checkin_waiting") is None
    assert await alone.call("interface.query", [["id", "=", "br0"]]) == []
    assert alone.alert_keys() == []


async def test_the_timer_runs_by_itself(alone: Any) -> None:
    back = asyncio.Event()
    alone.store.on_commit(lambda tables: back.set() if generations.read(alone.store.query).previous is None else None)
    await alone.call("interface.create", VLAN)
    await alone.plugin.commits.commit(rollback=True, timeout_s=0)
    async with asyncio.timeout(10):
        await back.wait()
    assert "vlan20" not in alone.machine.names()


async def test_setting_the_wall_clock_changes_nothing(alone: Any) -> None:
    await alone.call("interface.create", VLAN)
    await alone.call("interface.commit")
    alone.clock.wall += 10_000_000
    await moved(alone, 1)
    assert await alone.call("interface.checkin_waiting") == 59


async def test_rollback_by_hand(alone: Any) -> None:
    before = await alone.machine.present()
    await alone.call("interface.create", BRIDGE)
    await alone.call("interface.commit")
    await alone.call("interface.rollback")
    assert await alone.machine.present() == before
    assert await alone.call("interface.checkin_waiting") is None


async def test_one_commit_waits_at_a_time(alone: Any) -> None:
    await alone.call("interface.create", VLAN)
    await alone.call("interface.commit")
    await alone.call("interface.update", "eth0", {"mtu": 9000})
    with pytest.raises(CallError, match="still waits") as caught:
        await alone.call("interface.commit")
    assert caught.value.errno == errno.EBUSY


async def test_without_rollback_nothing_waits(alone: Any) -> None:
    await alone.call("interface.create", VLAN)
    await alone.call("interface.commit", {"rollback": False})
    assert await alone.call("interface.checkin_waiting") is None
    await moved(alone, 1000)
    assert "vlan20" in alone.machine.names()


async def test_own_addresses_are_replaced_and_come_back(alone: Any) -> None:
    """What others put there stays: here a virtual address, which moves."""
    alone.machine.virtual["eth0"] = ("192.0.0.100/32",)
    await alone.call("interface.update", "eth0", {"aliases": OWN, "mtu": 9000})
    await alone.call("interface.commit", {"rollback": False})
    assert alone.machine.addresses("eth0") == ("192.0.0.7/24", "192.0.0.100/32")
    await alone.call("interface.delete", "eth0")
    await alone.call("interface.commit", {"rollback": False})
    assert alone.machine.addresses("eth0") == ("192.0.0.1/24", "192.0.0.100/32")
    [eth0] = [link for link in await alone.machine.present() if link.name == "eth0"]
    assert eth0.mtu == 1500
    assert (await alone.call("interface.get_instance", "eth0"))["mtu"] is None


async def test_what_the_kernel_refuses_changes_nothing_and_can_be_mended(alone: Any) -> None:
    before = await alone.machine.present()
    alone.machine.refuses = "add 203.0.113.1/24 to vlan20"
    await alone.call("interface.create", VLAN)
    with pytest.raises(CallError, match=r"Nothing was changed.*add 203\.0\.113\.1/24 to vlan20: refused") as caught:
        await alone.call("interface.commit")
    assert caught.value.errno == errno.EIO
    assert await alone.machine.present() == before
    assert await alone.call("interface.checkin_waiting") is None
    assert await alone.call("interface.has_pending_changes") is True
    assert alone.alert_keys() == []
    alone.machine.refuses = ""
    await alone.call("interface.commit")
    assert "vlan20" in alone.machine.names()


async def test_the_store_knows_own_addresses_by_interface(alone: Any) -> None:
    """The VRRP speaker's configuration wants them of both controllers."""
    await alone.call("interface.update", "eth0", {"failover_critical": True})
    other = [{"address": "192.0.0.8", "netmask": 24}]
    await alone.call("interface.update", "eth0", {"aliases": OWN, "failover_aliases": other})
    alone.peer.paired = False
    await alone.call("interface.commit")
    [row] = alone.store.query("SELECT own_aliases FROM interface_config WHERE name = 'eth0'")
    assert json.loads(row["own_aliases"]) == {"A": ["192.0.0.7/24"], "B": ["192.0.0.8/24"]}
    await alone.call("interface.rollback")
    [row] = alone.store.query("SELECT own_aliases FROM interface_config WHERE name = 'eth0'")
    assert json.loads(row["own_aliases"]) == {}


# ------------------------------------------------------------------------------------------ deaths


async def test_a_daemon_that_restarts_meanwhile_still_goes_back(alone: Any) -> None:
    before = await alone.machine.present()
    await alone.call("interface.create", BRIDGE)
    await alone.call("interface.commit", {"checkin_timeout": 30})
    await alone.stop()
    alone.clock.pass_s(20)
    await alone.start()
    assert await alone.call("interface.checkin_waiting") == 10
    assert "br0" in alone.machine.names()
    await alone.stop()
    alone.clock.pass_s(20)
    await alone.start()
    assert await alone.machine.present() == before
    assert await alone.call("interface.checkin_waiting") is None


async def test_a_daemon_that_restarts_changes_nothing(alone: Any) -> None:
    await alone.call("interface.create", BRIDGE)
    await alone.call("interface.commit", {"rollback": False})
    alone.machine.changes.clear()
    await alone.restart()
    assert alone.machine.changes == []


async def test_a_machine_that_boots_gets_its_network_again(alone: Any) -> None:
    await alone.call("interface.create", VLAN)
    await alone.call("interface.commit", {"rollback": False})
    await alone.stop()
    alone.machine = type(alone.machine)("A")
    await alone.start()
    assert alone.machine.addresses("vlan20") == ("203.0.113.1/24",)


async def test_a_daemon_that_died_in_the_midst_forgets_nothing(alone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an attempt left behind is known, and taken away."""
    before = await alone.machine.present()

    halfway = asyncio.Event()

    async def hang(change: Any) -> None:
        await original(change)
        if len(alone.machine.changes) == 3:
            halfway.set()
            await asyncio.get_running_loop().create_future()

    original = alone.machine._perform
    monkeypatch.setattr(alone.machine, "_perform", hang)
    await alone.call("interface.create", BRIDGE)
    committing = asyncio.create_task(alone.call("interface.commit", {"checkin_timeout": 30}))
    await halfway.wait()
    committing.cancel()
    await alone.stop()
    assert "br0" in alone.machine.names()
    monkeypatch.undo()
    alone.clock.pass_s(31)
    await alone.start()
    assert await alone.machine.present() == before


async def test_a_damaged_record_is_put_aside(alone: Any) -> None:
    await alone.call("interface.create", VLAN)
    await alone.call("interface.commit", {"rollback": False})
    await alone.stop()
    (alone.folder / "interfaces.json").write_text("{")
    await alone.start()
    assert (alone.folder / "interfaces.damaged").exists()
    assert "vlan20" in alone.machine.names()


async def test_what_cannot_be_applied_at_the_start_is_an_alert_and_tried_again(alone: Any) -> None:
    await alone.call("interface.create", VLAN)
    await alone.call("interface.commit", {"rollback": False})
    await alone.stop()
    alone.machine = type(alone.machine)("A")
    alone.machine.refuses = "create vlan20"
    await alone.start()
    assert alone.alert_keys() == ["interface.apply"]
    alone.machine.refuses = ""
    await alone.plugin.applier.settle(again=True)
    assert alone.alert_keys() == []
    assert "vlan20" in alone.machine.names()


# ------------------------------------------------------------------------------------------ both controllers


async def test_each_controller_applies_its_own_side(pair: Any) -> None:
    a, b = pair
    await a.call("interface.create", VLAN)
    await a.call("interface.commit")
    assert a.machine.addresses("vlan20") == ("203.0.113.1/24",)
    assert b.machine.addresses("vlan20") == ("203.0.113.2/24",)
    row = await b.call("interface.get_instance", "vlan20")
    assert [alias["address"] for alias in row["aliases"]] == ["203.0.113.2"]
    assert [alias["address"] for alias in row["failover_aliases"]] == ["203.0.113.1"]
    await a.call("interface.rollback")
    assert "vlan20" not in a.machine.names() + b.machine.names()


async def test_what_the_standby_cannot_do_neither_does(pair: Any) -> None:
    a, b = pair
    before = [await controller.machine.present() for controller in pair]
    b.machine.refuses = "create vlan20"
    await a.call("interface.create", VLAN)
    with pytest.raises(CallError, match="controller B: create vlan20: refused"):
        await a.call("interface.commit")
    assert [await controller.machine.present() for controller in pair] == before
    assert await a.call("interface.has_pending_changes") is True


async def test_a_standby_that_nobody_reaches_goes_back_by_its_own_clock(pair: Any) -> None:
    a, b = pair
    await a.call("interface.create", VLAN)
    await a.call("interface.commit", {"checkin_timeout": 30})
    a.peer.other = b.peer.other = None
    await moved(b, 31)
    assert "vlan20" not in b.machine.names()
    assert await b.call("interface.checkin_waiting") == 0, "the store is the leader's to write"
    await moved(a, 0)
    assert "vlan20" not in a.machine.names()
    a.peer.other = b
    await a.store.replicate(a.store.position)
    assert await b.call("interface.checkin_waiting") is None


async def test_a_standby_follows_when_it_comes_back(pair: Any) -> None:
    a, b = pair
    a.peer.other = None
    await a.call("interface.create", VLAN)
    await a.call("interface.commit", {"rollback": False})
    assert "vlan20" not in b.machine.names()
    a.peer.other = b
    await a.store.replicate(a.store.position)
    await b.plugin.applier.settle()
    assert b.machine.addresses("vlan20") == ("203.0.113.2/24",)


async def test_the_standby_refuses(pair: Any) -> None:
    _, b = pair
    with pytest.raises(CallError, match="controller A is active"):
        await b.call("interface.create", VLAN)


async def test_no_failover_by_a_commit(pair: Any) -> None:
    a, _ = pair
    await a.call("interface.update", "eth0", {"failover_critical": True})
    await a.call("interface.update", "eth0", {"aliases": OWN})
    with pytest.raises(CallError, match=r"would interrupt eth0.*disable failover.*action=DISABLE") as caught:
        await a.call("interface.commit")
    assert caught.value.errno == errno.EBUSY
    assert a.machine.changes == []
    await a.store.write(lambda transaction: transaction.execute("UPDATE failover_config SET disabled = 1"))
    await a.call("interface.commit")
    assert a.machine.addresses("eth0") == ("192.0.0.7/24",)


async def test_what_does_not_interrupt_may_be_committed(pair: Any) -> None:
    a, _ = pair
    await a.call("interface.update", "eth1", {"failover_critical": True})
    await a.call("interface.create", VLAN)  # rests on eth1, and leaves it as it is
    await a.call("interface.commit")
    assert "vlan20" in a.machine.names()


# ------------------------------------------------------------------------------------------ events


async def test_subscribers_are_told(alone: Any) -> None:
    def told() -> list[tuple[str, Any]]:
        return [(event.msg, event.id) for event in alone.events if event.collection == "interface.query"]

    await alone.call("interface.create", VLAN)
    assert told() == [("added", "vlan20")]
    await alone.call("interface.commit")
    last = [event for event in alone.events if event.id == "vlan20"][-1]
    assert last.fields["state"]["link_state"] == "LINK_STATE_UP"
    await alone.call("interface.rollback")
    assert told()[-1] == ("removed", "vlan20")


async def test_what_is_new_has_no_place_in_failover_yet(alone: Any) -> None:
    await alone.call("interface.create", VLAN)
    with pytest.raises(ValidationErrors, match="commit it and check in"):
        await alone.call("interface.update", "vlan20", {"failover_critical": True})
    await alone.call("interface.commit")
    with pytest.raises(ValidationErrors, match="commit it and check in"):
        await alone.call("interface.update", "vlan20", {"failover_critical": True})
    await alone.call("interface.checkin")
    assert (await alone.call("interface.update", "vlan20", {"failover_critical": True}))["failover_critical"]
    with pytest.raises(ValidationErrors, match="takes part in failover"):
        await alone.call("interface.delete", "vlan20")


async def test_a_kernel_that_hangs_does_not_keep_the_daemon_from_starting(
    alone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await alone.call("interface.create", VLAN)
    await alone.call("interface.commit", {"rollback": False})
    await alone.stop()
    alone.machine = type(alone.machine)("A")

    async def hang(change: Any) -> None:
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr("middlewared.plugins.interface.applier._START_TIMEOUT_S", 0.0)
    monkeypatch.setattr(alone.machine, "_perform", hang)
    await alone.start()
    assert await alone.call("interface.get_instance", "eth0")


async def test_a_physical_interface_keeps_its_group_when_its_link_is_reset(alone: Any) -> None:
    await alone.call("interface.update", "eth2", {"failover_group": 3, "mtu": 9000})
    await alone.call("interface.commit", {"rollback": False})
    await alone.call("interface.delete", "eth2")
    await alone.call("interface.commit", {"rollback": False})
    assert (await alone.call("interface.get_instance", "eth2"))["failover_group"] == 3
