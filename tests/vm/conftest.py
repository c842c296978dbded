"""The lab of virtual machines for the tests. Skipped, loudly, where it is not possible or nothing is built yet.

VM_SHELF and VM_PATHS choose what `middlewared lab up` does with --shelf and --paths.
"""

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from support.lab import processes, run
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
    directory = Path(tempfile.mkdtemp(prefix="mw-vm-"))
    kind = ("--vm", "--shelf", KIND.shelf, "--paths", str(KIND.paths))
    started = run("up", *kind, "--detach", directory=directory, timeout_s=3600)
    if started.returncode != 0:
        logs = "\n".join(f"{log}:\n{log.read_text()[-3000:]}" for log in sorted(directory.rglob("*.log")))
        run("down", directory=directory)
        pytest.fail(f"the lab does not start: {started.stdout}{started.stderr}\n{logs}")
    yield Places(directory, KIND)
    ended = run("down", directory=directory)
    assert ended.returncode == 0, ended.stderr
    assert processes(directory) == []
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def client(vm_lab: Places) -> Iterator[Machine]:
    machine = Machine(Network(PREFIX), CLIENT)
    yield machine
    machine.close()


@pytest.fixture
async def lab(vm_lab: Places, client: Machine) -> AsyncIterator[VmLab]:
    lab = VmLab(vm_lab, client)
    await lab.connect()
    await lab.mend()
    yield lab
    with suppress(Exception):  # the test's own failure is the news
        await lab.mend()
    await lab.close()
