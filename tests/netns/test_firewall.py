"""The packet filter against a real client: what of the virtual addresses reaches a server, and what does not."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from support.netns import VIP, VIP6, Machine

from middlewared import programs
from middlewared.lab.netns.namespaces import Network
from middlewared.plugins.firewall.nftables import NftablesFirewall

PORT = 80
SHUT_S = 0.3  # an open door answers in less than a millisecond,
OPEN_S = 5.0  # unless the switch lost the first packet
HOSTS = [VIP.split("/")[0], VIP6.split("/")[0]]
OWN = "192.0.2.1"


@pytest_asyncio.fixture
async def machines(network: Network) -> AsyncIterator[tuple[Machine, Machine]]:
    """A server that has the virtual addresses, and a client."""
    server, client = Machine(network, "a"), Machine(network, "client")
    try:
        for address, *more in ((VIP,), (VIP6, "nodad")):
            command = network.command("a", "ip", "address", "add", address, "dev", "eth0", *more)
            await programs.output(*command, timeout_ms=2_000)
        yield server, client
    finally:
        server.close()
        client.close()


@pytest_asyncio.fixture
async def firewall(machines: tuple[Machine, Machine]) -> AsyncIterator[NftablesFirewall]:
    made = NftablesFirewall()
    await machines[0].do(made.start)
    yield made
    await machines[0].do(made.stop)


async def listen(server: Machine, host: str) -> asyncio.Server:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(100):
                writer.write(data)
        writer.close()

    return await server.do(lambda: asyncio.start_server(echo, host, PORT))


async def reaches(client: Machine, host: str, *, within_s: float = OPEN_S) -> bool:
    """A TCP connection comes about."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET

    def connect() -> bool:
        with socket.socket(family, socket.SOCK_STREAM) as made:
            made.settimeout(within_s)
            try:
                made.connect((host, PORT))
            except TimeoutError:
                return False
            return True

    return await client.make(connect)


@pytest.mark.parametrize("host", HOSTS)
async def test_a_client_gets_in_only_while_it_is_allowed(
    machines: tuple[Machine, Machine], firewall: NftablesFirewall, host: str
) -> None:
    server, client = machines
    serving = await listen(server, host)
    assert await reaches(client, host)  # nothing is guarded yet
    await server.do(lambda: firewall.configure([VIP, VIP6]))
    assert not await server.do(firewall.allowed)
    assert not await reaches(client, host, within_s=SHUT_S)
    shown = await programs.output(
        *machines[1].network.command("client", "ip", "neighbour", "show", "to", host), timeout_ms=2_000
    )
    assert "lladdr" in shown  # blocked, but it can be resolved
    await server.do(firewall.allow)
    assert await server.do(firewall.allowed)
    assert await reaches(client, host)
    await server.do(firewall.block)
    assert not await reaches(client, host, within_s=SHUT_S)
    await server.make(serving.close)


async def test_the_own_address_is_never_blocked(machines: tuple[Machine, Machine], firewall: NftablesFirewall) -> None:
    server, client = machines
    serving = await listen(server, OWN)
    await server.do(lambda: firewall.configure([VIP, VIP6]))
    assert await reaches(client, OWN)
    await server.make(serving.close)


async def test_an_established_connection_is_cut_off(
    machines: tuple[Machine, Machine], firewall: NftablesFirewall
) -> None:
    server, client = machines
    serving = await listen(server, HOSTS[0])
    await server.do(lambda: firewall.configure([VIP]))
    await server.do(firewall.allow)
    reader, writer = await client.do(lambda: asyncio.open_connection(HOSTS[0], PORT))

    async def asked(text: bytes) -> bytes:
        writer.write(text)
        async with asyncio.timeout(SHUT_S):
            return await reader.readexactly(len(text))

    assert await client.do(lambda: asked(b"one")) == b"one"
    await server.do(firewall.block)
    with pytest.raises(TimeoutError):
        await client.do(lambda: asked(b"two"))
    writer.close()
    await server.make(serving.close)


async def test_a_new_daemon_changes_nothing_by_looking_and_configuring(
    machines: tuple[Machine, Machine], firewall: NftablesFirewall
) -> None:
    server, client = machines
    serving = await listen(server, HOSTS[0])
    await server.do(lambda: firewall.configure([VIP]))
    await server.do(firewall.allow)
    await server.do(firewall.stop)
    later = NftablesFirewall()
    await server.do(later.start)
    assert await server.do(later.allowed)
    await server.do(lambda: later.configure([VIP, VIP6]))
    assert await reaches(client, HOSTS[0])
    await server.do(later.block)
    latest = NftablesFirewall()
    await server.do(latest.start)
    assert not await server.do(latest.allowed)
    assert not await reaches(client, HOSTS[0], within_s=SHUT_S)
    await server.do(later.stop)
    await server.do(latest.stop)
    await server.make(serving.close)


@pytest.mark.parametrize(
    "removal", ["flush ruleset", "delete table inet middlewared", "flush chain inet middlewared virtual"]
)
async def test_rules_that_somebody_removed_come_back_at_once(
    machines: tuple[Machine, Machine], firewall: NftablesFirewall, removal: str
) -> None:
    server, client = machines
    serving = await listen(server, HOSTS[0])
    await server.do(lambda: firewall.configure([VIP]))
    before = await table(server)
    assert "drop" in before
    await remove(server, removal)
    await until_table(server, before)
    assert not await reaches(client, HOSTS[0], within_s=SHUT_S)
    await server.do(firewall.allow)
    before = await table(server)
    await remove(server, removal)
    await until_table(server, before)
    assert await reaches(client, HOSTS[0])
    await server.make(serving.close)


async def test_a_new_daemon_that_finds_no_rules_blocks(
    machines: tuple[Machine, Machine], firewall: NftablesFirewall
) -> None:
    server, client = machines
    serving = await listen(server, HOSTS[0])
    await server.do(lambda: firewall.configure([VIP]))
    await server.do(firewall.allow)
    await server.do(firewall.stop)
    await remove(server, "flush ruleset")
    later = NftablesFirewall()
    await server.do(later.start)
    assert not await server.do(later.allowed)
    await server.do(lambda: later.configure([VIP]))
    assert not await reaches(client, HOSTS[0], within_s=SHUT_S)
    await server.do(later.stop)
    await server.make(serving.close)


async def remove(server: Machine, what: str) -> None:
    await programs.output(*server.network.command("a", "nft", *what.split()), timeout_ms=2_000)


async def table(server: Machine) -> str:
    ended = await programs.run(*server.network.command("a", "nft", "list", "ruleset"), timeout_ms=2_000)
    return ended.stdout


async def until_table(server: Machine, wanted: str) -> None:
    async with asyncio.timeout(OPEN_S):
        while await table(server) != wanted:
            pass


async def test_the_doctor_sees_nftables(machines: tuple[Machine, Machine]) -> None:
    found = await machines[0].do(NftablesFirewall().examine)
    assert [(one.subject, one.ok) for one in found] == [("nftables", True)]
