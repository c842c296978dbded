"""Two controllers and a client on a switch, in network namespaces. Skipped, loudly, where that is not possible."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from shutil import which

import pytest
import pytest_asyncio
from support.netns import OWN, Controller

from middlewared.lab.netns.namespaces import Network, missing

_PROGRAMS = {"keepalived": "keepalived", "nft": "nftables", "tgtd": "tgt", "ip": "iproute2"}


@pytest_asyncio.fixture
async def network() -> AsyncIterator[Network]:
    why = await missing()
    if why:
        pytest.skip(why)
    async with Network(f"v{os.getpid() % 10_000_000}") as room:
        await room.add_machine("client")
        await room.plug("client", "eth0", "192.0.2.100/24", "2001:db8::100/64")
        for name, addresses in OWN.items():
            await room.add_machine(name)
            await room.plug(name, "eth0", *addresses)
        yield room


@pytest_asyncio.fixture
async def pair(network: Network, tmp_path: Path) -> AsyncIterator[tuple[Controller, Controller]]:
    """Drivers started, nothing configured."""
    if which("keepalived") is None:
        pytest.skip("needs keepalived: apt-get install keepalived")
    controllers = [Controller(network, name, tmp_path) for name in OWN]
    try:
        for one in controllers:
            await one.start()
        yield controllers[0], controllers[1]
    finally:
        for one in controllers:
            await one.stop()
            one.bury()
            one.close()


@pytest.fixture(scope="session")
def can_make_namespaces() -> None:
    """The whole lab: skipped, loudly, where something is missing."""
    lacking = [package for program, package in _PROGRAMS.items() if which(program) is None]
    why = asyncio.run(missing()) or (f"needs {' '.join(lacking)}: make lab-netns installs them" if lacking else "")
    if why:
        pytest.skip(why)
