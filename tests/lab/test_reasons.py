"""Every disabled reason is provoked, seen on the controllers that it concerns, and gone again (DESIGN S7)."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from support.lab import Lab

MASTER, STANDBY = "a", "b"
BOTH = (MASTER, STANDBY)
VIRTUAL = [{"type": "INET", "address": "127.0.10.10", "netmask": 24}]
Change = Callable[[Lab], Awaitable[Any]]


def put(node: str, key: str, value: str) -> Change:
    return lambda lab: lab.set_property(node, key, value)


def tell(op: str, **args: Any) -> Change:
    return lambda lab: lab.tell(op, **args)


def ask(method: str, *params: Any) -> Change:
    return lambda lab: lab.call(MASTER, method, *params)


async def boot_held(lab: Lab) -> None:
    """A standby that starts, and does not finish starting."""
    await lab.set_property(STANDBY, "hold_boot", "yes")
    await lab.tell("kill", node=STANDBY)
    await lab.tell("boot", node=STANDBY)


# code, provoked by, ended by, seen on
CASES: list[tuple[str, Change, Change, tuple[str, ...]]] = [
    (
        "NO_VOLUME",
        tell("set", key="pools", value="none"),
        tell("set", key="pools", value="default"),
        BOTH,
    ),
    (
        "NO_VIP",
        ask("interface.update", "eth0", {"failover_virtual_aliases": []}),
        ask("interface.update", "eth0", {"failover_virtual_aliases": VIRTUAL}),
        BOTH,
    ),
    ("NO_SYSTEM_READY", boot_held, put(STANDBY, "hold_boot", "no"), (MASTER,)),
    ("NO_PONG", tell("pause", node=STANDBY), tell("resume", node=STANDBY), (MASTER,)),
    (
        "NO_FAILOVER",
        ask("failover.control", "DISABLE", {"active": True}),
        ask("failover.control", "ENABLE", {}),
        BOTH,
    ),
    ("NO_LICENSE", put(STANDBY, "licensed", "no"), put(STANDBY, "licensed", "yes"), (MASTER,)),
    ("DISAGREE_VIP", tell("cut", link="lan-b"), tell("heal", link="lan-b"), BOTH),
    ("MISMATCH_DISKS", tell("pull-disk", node=STANDBY, disk=3), tell("push-disk", node=STANDBY, disk=3), BOTH),
    ("MISMATCH_VERSIONS", put(STANDBY, "version", "9.9"), put(STANDBY, "version", "0.1.0"), BOTH),
    ("MISMATCH_NICS", put(STANDBY, "nics", "eth0"), put(STANDBY, "nics", "eth0,eth1"), BOTH),
    (
        "NO_CRITICAL_INTERFACES",
        ask("interface.update", "eth0", {"failover_critical": False}),
        ask("interface.update", "eth0", {"failover_critical": True}),
        BOTH,
    ),
    ("NO_FENCED", put(STANDBY, "keeper", "off"), put(STANDBY, "keeper", "on"), BOTH),
    ("NO_HEARTBEAT_IFACE", put(MASTER, "heartbeat_nic", "absent"), put(MASTER, "heartbeat_nic", "present"), (MASTER,)),
    ("NO_CARRIER_ON_HEARTBEAT", tell("cut", link="heartbeat"), tell("heal", link="heartbeat"), BOTH),
    *(
        (
            f"{where}_{code}_REBOOT_REQ",
            put(node, "reboot_reasons", code.lower()),
            put(node, "reboot_reasons", "none"),
            seen,
        )
        for code in ("UPGRADE", "FIPS", "GPOSSTIG")
        for where, node, seen in (("LOC", MASTER, (MASTER,)), ("REM", STANDBY, (MASTER,)))
    ),
    (
        "LOC_SYSTEM_DATASET_MIGRATION_IN_PROGRESS",
        put(MASTER, "migrating_system_dataset", "yes"),
        put(MASTER, "migrating_system_dataset", "no"),
        (MASTER,),
    ),
    (
        "REM_SYSTEM_DATASET_MIGRATION_IN_PROGRESS",
        put(STANDBY, "migrating_system_dataset", "yes"),
        put(STANDBY, "migrating_system_dataset", "no"),
        (MASTER,),
    ),
]


@pytest.mark.parametrize(("code", "provoke", "end", "seen"), CASES, ids=[case[0] for case in CASES])
async def test_a_reason_comes_and_goes(
    lab: Lab, code: str, provoke: Change, end: Change, seen: tuple[str, ...]
) -> None:
    await lab.until_healthy(master=MASTER)
    await provoke(lab)

    async def said() -> bool:
        return all([code in (await lab.reasons(node) or ()) for node in seen])

    try:
        await lab.until(f"{seen} say {code}", said)
    finally:
        await end(lab)
    assert await lab.until_healthy() == MASTER


async def test_a_failover_under_way_is_said_here_and_there(lab: Lab) -> None:
    await lab.until_healthy(master=MASTER)
    await lab.set_property(STANDBY, "import_ms", "1500")
    handing_over = asyncio.create_task(lab.call(MASTER, "failover.become_passive"))

    async def here() -> bool:
        return "LOC_FAILOVER_ONGOING" in (await lab.reasons(STANDBY) or ())

    await lab.until("B says LOC_FAILOVER_ONGOING", here)
    assert await lab.status(STANDBY) in ("ELECTING", "IMPORTING")

    async def there() -> bool:
        return "REM_FAILOVER_ONGOING" in (await lab.reasons(MASTER) or ())

    await lab.until("A says REM_FAILOVER_ONGOING", there)
    await handing_over
    await lab.set_property(STANDBY, "import_ms", "0")
    assert await lab.until_healthy() == STANDBY
