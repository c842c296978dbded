"""The lab of virtual machines for the tests. Skipped, loudly, where it is not possible or nothing is built yet.

VM_SHELF and VM_PATHS choose what `middlewared lab up` does with --shelf and --paths.
"""

import os
import shutil
from collections.abc import AsyncIterator, Iterator

import pytest
from support.lab import mended, running
from support.netns import Machine
from support.vm import KIND, VmLab

from middlewared.lab.netns.layout import CLIENT
from middlewared.lab.netns.namespaces import Network
from middlewared.lab.places import Places
from middlewared.lab.vm.image import Image, missing
from middlewared.lab.vm.layout import PREFIX

BUILD = "VM_BUILD"  # set by `make test-vm`: build what is not cached, which may take a quarter of an hour


@pytest.fixture(scope="session")
def vm_lab() -> Iterator[Places]:
    """One pair of machines for all scenarios."""
    why = missing()
    if not why and not os.environ.get(BUILD) and not Image(lambda line: None).warm():
        why = "the machines' image is not built yet: `make test-vm` builds it, once, in a quarter of an hour"
    if why:
        pytest.skip(why)
    kind = ("--vm", "--shelf", KIND.shelf, "--paths", str(KIND.paths))
    with running(*kind, layout=KIND, timeout_s=3600) as places:
        yield places
    shutil.rmtree(places.directory)


@pytest.fixture(scope="session")
def client(vm_lab: Places) -> Iterator[Machine]:
    machine = Machine(Network(PREFIX), CLIENT)
    yield machine
    machine.close()


@pytest.fixture
async def lab(vm_lab: Places, client: Machine) -> AsyncIterator[VmLab]:
    async with mended(VmLab(vm_lab, client)) as lab:
        yield lab
