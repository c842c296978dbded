"""A healthy pair of facts, to be spoiled one thing at a time."""

from dataclasses import replace
from typing import Any

import pytest

from middlewared.plugins.failover.facts import Facts, InterfaceFacts, PoolFacts
from middlewared.plugins.failover.state import Role
from middlewared.ports import Vrrp


def facts(node: str, **changes: Any) -> Facts:
    leads = node == "A"
    healthy = Facts(
        node=node,
        hostname=f"controller-{node.lower()}",
        boot_id=node * 8,
        version="1.0",
        ready=True,
        licensed=True,
        disabled=False,
        role=Role.MASTER if leads else Role.BACKUP,
        electing=False,
        interfaces=(
            InterfaceFacts("eth0", True, 1, ("192.0.2.10/24",), True, Vrrp.MASTER if leads else Vrrp.BACKUP),
            InterfaceFacts("eth1", False, None, (), True, None),
        ),
        nics=("eth0", "eth1", "hb0"),
        heartbeat_exists=True,
        heartbeat_carrier=True,
        fence_running=True,
        fence_held=leads,
        rival_moving=not leads,
        disks=("d1", "d2"),
        too_few_disks=False,
        pools=(PoolFacts("1", "tank", leads),),
        reboot_reasons={},
        migrating_system_dataset=False,
        epoch=1,
        position=1,
    )
    return replace(healthy, **changes)


@pytest.fixture
def a() -> Facts:
    return facts("A")


@pytest.fixture
def b() -> Facts:
    return facts("B")
