"""A running lab for the tests in this folder: real processes on the lab's fixed addresses, one lab at a time."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from support.lab import Lab, check_ledger, mended, run, running

from middlewared.lab.places import Places


@pytest.fixture(scope="session")
def lab_addresses() -> Iterator[None]:
    """The lab's addresses are fixed: sessions of this suite take turns."""
    with (Path(tempfile.gettempdir()) / f"middlewared-lab-tests-{os.getuid()}.lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        yield


@pytest.fixture
def lab_directory(lab_addresses: None) -> Iterator[Path]:
    """An empty folder for a lab, with a short name; whatever still runs in it is ended."""
    directory = Path(tempfile.mkdtemp(prefix="mw-lab-"))
    yield directory
    run("down", directory=directory)
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def running_lab(lab_addresses: None) -> Iterator[Places]:
    """One lab for all tests of a module; at its end no write may have gone past the reservations."""
    with running() as places:
        yield places
    assert check_ledger(places) > 0
    shutil.rmtree(places.directory)


@pytest.fixture
async def lab(running_lab: Places) -> AsyncIterator[Lab]:
    """The module's lab, healthy before each test and mended after it."""
    async with mended(Lab(running_lab)) as lab:
        yield lab
