"""What lies on the controllers' own disks before the first boot: settings, certificates, the same store on both."""

import asyncio
import json
import shutil
import socket
from pathlib import Path

from middlewared.auth.passwords import ensure_administrator
from middlewared.lab.places import (
    HEARTBEAT_NIC,
    LOOPBACK,
    NODES,
    PASSWORD,
    PREFIX_LENGTH,
    USER,
    Layout,
    Places,
    other,
    serial,
)
from middlewared.peer.introduction import Controller, answer, call
from middlewared.peer.pairing import generate_certificate, write_private
from middlewared.peer.pake import new_code, normalise
from middlewared.settings import load
from middlewared.store.database import Store, Transaction
from middlewared.store.sealing import KeyRing, Sealing

STORE_NAME = "store.db"
_SETTINGS = """\
# Written by `middlewared lab up`; changed here, it is read at the next `middlewared lab restart-daemon {node}`.
node = "{letter}"
hostname = "controller-{node}"
state_dir = "{state}"
run_dir = "{folder}"
drivers = "{drivers}"
machine = "{machine}"

[api]
{api}
port = {port}
port_tls = {port_tls}
certificate = "{state}/api.pem"

[peer]
listen = "{heartbeat}"
connect = "{peer}:{port_heartbeat}"

[fence]
socket = "{keeper}"
shelf = "{shelf}"

[sync]
authorized_keys = "{state}/authorized_keys"

[network]
heartbeat = "{heartbeat_nic}"
physical = ["eth*"]
vrrp_unit = ""

[platform]
serial = "{serial}"
"""


async def write_files(places: Places) -> None:
    """Everything fresh: what an earlier lab left in the folder goes first."""
    remove_files(places)
    for node in NODES:
        state = places.state(node)
        state.mkdir(mode=0o700, parents=True)
        places.node(node).chmod(0o700)
        write_private(state / "api.pem", generate_certificate(node.upper()))
        places.settings(node).write_text(settings_text(places, node))
    ring = await _pair(places)
    await _write_store(places.state("a") / STORE_NAME, places.layout, ring)
    shutil.copy(places.state("a") / STORE_NAME, places.state("b") / STORE_NAME)


async def _pair(places: Places) -> KeyRing:
    """As two administrators would, with a code, over a cable that is plugged for this; the keys of the pair."""
    showing, calling = (Controller.of(load(places.settings(node)), serial(node)) for node in NODES)
    code = normalise(new_code())
    ends = [await asyncio.open_connection(sock=end) for end in socket.socketpair()]
    await asyncio.gather(answer(showing, code, *ends[0]), call(calling, code, *ends[1]))
    return showing.files.make_ring()


def settings_text(places: Places, node: str) -> str:
    layout = places.layout
    handed_over = layout.kind == "loopback"
    return _SETTINGS.format(
        node=node,
        letter=node.upper(),
        folder=places.node(node),
        state=places.state(node),
        machine=places.machine(node),
        api=_api(places, node),
        drivers=layout.drivers,
        port=layout.port,
        port_tls=layout.port_tls,
        heartbeat=f"unix:{places.heartbeat(node)}"
        if handed_over
        else f"{layout.heartbeat[node]}:{layout.port_heartbeat}",
        heartbeat_nic=HEARTBEAT_NIC,
        peer=layout.heartbeat[other(node)],
        port_heartbeat=layout.port_heartbeat,
        keeper=places.keeper(node),
        shelf=places.shelf(node),
        serial=serial(node),
    )


def _api(places: Places, node: str) -> str:
    """In the loopback lab the room's switch hands accepted connections over."""
    layout = places.layout
    if layout.kind == "loopback":
        return f'listen = []\nhandoff = "{places.handoff(node)}"'
    return f'listen = ["0.0.0.0:{layout.port}"]\nlisten_tls = ["0.0.0.0:{layout.port_tls}"]'


def remove_files(places: Places) -> None:
    """Only what a lab makes; the lock stays with whoever holds it."""
    for node in NODES:
        shutil.rmtree(places.node(node), ignore_errors=True)
        places.shelf(node).unlink(missing_ok=True)
    remove_sockets(places)
    places.writes.unlink(missing_ok=True)


def remove_sockets(places: Places) -> None:
    for path in (places.control, places.room, *(places.shelf(node) for node in NODES)):
        path.unlink(missing_ok=True)


def forget_boot(places: Places, node: str) -> None:
    """What a boot does to /run: everything goes but settings, logs and what is in the state folder."""
    for path in places.node(node).iterdir():
        kept = path.is_dir() or path == places.settings(node) or ".log" in path.suffixes
        if not kept:
            path.unlink(missing_ok=True)


async def _write_store(path: Path, layout: Layout, ring: KeyRing) -> None:
    """The pair's configuration: an administrator, a virtual address, two services."""
    store = await Store.open(path, sealing=Sealing(ring))
    try:
        await ensure_administrator(store, USER, PASSWORD)
        await store.write(lambda transaction: fill(transaction, layout))
        await store.begin_epoch()
    finally:
        await store.close()


def fill(transaction: Transaction, layout: Layout = LOOPBACK) -> None:
    """A pair as its administrator would set it up."""
    virtual = [f"{layout.virtual[0]}/{PREFIX_LENGTH}"]
    # Where adverts are real packets, they go from one controller's own address to the other's.
    unicast = layout.kind != "loopback"
    own = {node.upper(): [f"{layout.addresses[node]['eth0']}/{PREFIX_LENGTH}"] for node in NODES} if unicast else {}
    for name, critical, group, addresses in (("eth0", 1, 1, virtual), ("eth1", 0, None, [])):
        transaction.execute(
            "INSERT INTO interface_config (name, critical, failover_group, description, virtual_aliases, own_aliases)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (name, critical, group, "", json.dumps(addresses), json.dumps(own if addresses else {})),
        )
    for service in layout.services:
        transaction.execute(
            "INSERT INTO service_config (name, enabled) VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET enabled = 1",
            (service,),
        )
