"""Which controller answers on an address, and how connections get there."""

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from middlewared.lab.switch import Handoff, Port, Routes

VIP = "127.0.10.10"


def serving(node: str, routes: Routes) -> None:
    routes.ports[node] = Port(powered=True, held={"eth0": [f"{VIP}/24"]}, firewall_allowed=True)
    routes.announce(node, "eth0", f"{VIP}/24")


@pytest.fixture
def routes() -> Routes:
    made = Routes()
    for node in ("a", "b"):
        made.ports[node] = Port(powered=True)
    return made


def test_own_addresses_are_their_own(routes: Routes) -> None:
    assert routes.route("127.0.10.1") == "a"
    assert routes.route("127.0.10.2") == "b"
    assert routes.route("127.0.10.22") == "b"


def test_nobody_has_a_virtual_address_before_it_is_announced(routes: Routes) -> None:
    assert routes.route(VIP) is None


def test_a_virtual_address_goes_to_the_last_who_announced_it(routes: Routes) -> None:
    serving("a", routes)
    assert routes.route(VIP) == "a"
    serving("b", routes)
    assert routes.route(VIP) == "b"


def test_a_frozen_former_owner_keeps_the_traffic_until_another_claims_it(routes: Routes) -> None:
    serving("a", routes)
    routes.ports["b"].held = {"eth0": [f"{VIP}/24"]}  # B has the address, but the switch has not heard of it
    routes.ports["b"].firewall_allowed = True
    assert routes.route(VIP) == "a"
    routes.announce("b", "eth0", VIP)
    assert routes.route(VIP) == "b"


def test_an_owner_that_dropped_the_address_refuses(routes: Routes) -> None:
    serving("a", routes)
    routes.ports["a"].held = {"eth0": []}
    assert routes.owner(VIP) == "a"
    assert routes.route(VIP) is None


def test_the_packet_filter_guards_the_virtual_address_only(routes: Routes) -> None:
    serving("a", routes)
    routes.ports["a"].firewall_allowed = False
    assert routes.route(VIP) is None
    assert routes.route("127.0.10.1") == "a"


def test_a_cut_link_reaches_nobody(routes: Routes) -> None:
    serving("a", routes)
    routes.links["lan-a"] = False
    assert routes.route(VIP) is None
    assert routes.route("127.0.10.1") is None
    assert routes.route("127.0.10.21") == "a"  # its other NIC has its own link


def test_an_announcement_over_a_cut_link_is_not_heard(routes: Routes) -> None:
    serving("a", routes)
    routes.links["lan-b"] = False
    routes.announce("b", "eth0", VIP)
    assert routes.owner(VIP) == "a"


def test_a_controller_without_power_answers_nothing(routes: Routes) -> None:
    serving("a", routes)
    routes.ports["a"] = Port(powered=False)
    assert routes.route(VIP) is None
    assert routes.route("127.0.10.1") is None


# ---------------------------------------------------------------------------------------------- the handing over


@pytest.fixture
def client_and_server() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The two ends of an accepted connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
        client.settimeout(5)
        with client, server:
            yield client, server


def listening(path: Path) -> socket.socket:
    daemon = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    daemon.bind(str(path))
    daemon.listen()
    return daemon


async def test_the_daemon_gets_the_connection_itself_and_the_port(
    tmp_path: Path, client_and_server: tuple[socket.socket, socket.socket]
) -> None:
    client, server = client_and_server
    with listening(tmp_path / "handoff.sock") as daemon:
        handoff = Handoff(tmp_path / "handoff.sock")
        handoff.give(server, 6080)
        wire, _ = daemon.accept()
        data, descriptors, _, _ = socket.recv_fds(wire, 100, 1)
        with wire, socket.socket(fileno=descriptors[0]) as taken:
            assert data == b"6080"
            assert taken.getpeername() == client.getsockname()
            taken.sendall(b"hello")
            assert client.recv(100) == b"hello"
        handoff.reset()


async def test_without_a_daemon_the_client_is_refused(
    tmp_path: Path, client_and_server: tuple[socket.socket, socket.socket]
) -> None:
    client, server = client_and_server
    Handoff(tmp_path / "nobody.sock").give(server, 6080)
    with pytest.raises(ConnectionResetError):
        client.recv(1)


async def test_a_restarted_daemon_gets_the_next_connection(
    tmp_path: Path, client_and_server: tuple[socket.socket, socket.socket]
) -> None:
    _, server = client_and_server
    path = tmp_path / "handoff.sock"
    handoff = Handoff(path)
    with listening(path) as daemon:
        handoff.give(server.dup(), 6080)
        wire, _ = daemon.accept()
        wire.close()
    path.unlink()
    with listening(path) as daemon:
        handoff.give(server, 6443)
        wire, _ = daemon.accept()
        with wire:
            data, descriptors, _, _ = socket.recv_fds(wire, 100, 1)
            socket.close(descriptors[0])
            assert data == b"6443"
    handoff.reset()


async def test_connections_wait_while_the_daemon_stands_still_and_arrive_when_it_runs_again(tmp_path: Path) -> None:
    path = tmp_path / "handoff.sock"
    handoff = Handoff(path)
    count = 1500
    with listening(path) as daemon:
        for _ in range(count):
            one, other = socket.socketpair()
            one.close()
            handoff.give(other, 6080)
        wire, _ = daemon.accept()
        wire.setblocking(False)
        received = 0
        with wire:
            async with asyncio.timeout(10):
                while received < count:
                    try:
                        _, descriptors, _, _ = socket.recv_fds(wire, 100, 1)
                    except BlockingIOError:
                        await asyncio.sleep(0)  # let the switch send what had to wait
                        continue
                    socket.close(descriptors[0])
                    received += 1
        handoff.reset()


async def test_a_reset_refuses_what_still_waits(tmp_path: Path) -> None:
    path = tmp_path / "handoff.sock"
    handoff = Handoff(path)
    clients = []
    with listening(path):
        for _ in range(600):
            client, server = socket.socketpair()
            clients.append(client)
            handoff.give(server, 6080)
        handoff.reset()
    last = clients[-1]
    last.settimeout(5)
    assert last.recv(1) == b""
    for client in clients:
        client.close()
