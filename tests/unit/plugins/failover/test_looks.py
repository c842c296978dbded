"""A standby looks at its disks as soon as the MASTER says that there are other ones, or other pools on them."""

import dataclasses
from typing import Any

import pytest

from middlewared.plugins.failover.controller import FailoverController
from middlewared.plugins.failover.facts import Facts, PoolFacts
from middlewared.plugins.failover.methods import Failover
from middlewared.plugins.failover.state import Role
from middlewared.plugins.failover.wire import to_wire

LOOK = ["disks", "pools"]


class Noted:
    def __init__(self, name: str, log: list[str]) -> None:
        self._name = name
        self._log = log

    def look(self) -> None:
        self._log.append(self._name)


@pytest.fixture
def looked(bench: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    bench.use(Failover)
    controller: FailoverController = bench.plugin.controller
    log: list[str] = []
    ports = dataclasses.replace(controller._ports, disks=Noted("disks", log), pools=Noted("pools", log))
    monkeypatch.setattr(controller, "_ports", ports)
    for name in ("_publish", "_post_news"):
        monkeypatch.setattr(controller, name, lambda *_: None)
    return log


def test_it_looks_when_the_master_says_that_something_is_new(bench: Any, looked: list[str]) -> None:
    def hear(facts: Facts) -> list[str]:
        looked.clear()
        bench.plugin.controller._peer_facts(to_wire(facts))
        return list(looked)

    tank = PoolFacts("1", "tank", True)
    facts = master()
    assert hear(facts) == LOOK, "who has just come looks once"
    assert hear(dataclasses.replace(facts, position=7)) == []
    facts = dataclasses.replace(facts, pools=(tank, PoolFacts("2", "dozer", True)))
    assert hear(facts) == LOOK
    facts = dataclasses.replace(facts, disks=("d1", "d2"))
    assert hear(facts) == LOOK
    assert hear(dataclasses.replace(facts, pools=(tank, PoolFacts("2", "dozer", False)))) == [], "it is the same pool"
    assert hear(dataclasses.replace(facts, role=Role.BACKUP, disks=())) == [], "a standby tells no news"


def master() -> Facts:
    return Facts(
        node="B",
        hostname="controller-b",
        boot_id="b",
        version="1.0",
        ready=True,
        licensed=True,
        disabled=False,
        role=Role.MASTER,
        electing=False,
        interfaces=(),
        nics=(),
        heartbeat_exists=True,
        heartbeat_carrier=True,
        fence_running=True,
        fence_held=True,
        rival_moving=False,
        disks=("d1",),
        too_few_disks=False,
        pools=(PoolFacts("1", "tank", True),),
        reboot_reasons={},
        migrating_system_dataset=False,
        epoch=1,
        position=1,
    )
