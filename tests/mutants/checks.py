"""Cases on edited trees, each tree imported into a process of its own."""

import multiprocessing
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from tests.mutants import edited
from tests.mutants.entry import Case, Edit

# What every process imports and nobody edits is imported once, before they fork.
_SHARED = ("apsw", "cryptography.x509", "jsonschema", "websockets.asyncio.client", "websockets.asyncio.server")


@dataclass(frozen=True, slots=True)
class Work:
    """Some cases on the tree with some edits. `everything`: go on after one that noticed something."""

    edits: tuple[Edit, ...]
    cases: tuple[Case, ...]
    everything: bool = False


@dataclass(frozen=True, slots=True)
class Checked:
    """What the cases found, in order, up to the first that noticed something; "" where all was well."""

    found: tuple[str, ...]
    noticed: int | None  # the case that did
    took_s: float


def each(work: Sequence[Work], jobs: int) -> Iterator[Checked]:
    """All of it, in order. This process must not have imported the tree."""
    for name in _SHARED:
        import_module(name)
    with multiprocessing.get_context("fork").Pool(jobs, maxtasksperchild=1) as pool:
        yield from pool.imap(_check, work)


def probe_of(edits: Sequence[Edit]) -> Any:
    """tests.mutants.probe with the tree that this process imports from now on."""
    edited.install(edits)
    return import_module("tests.mutants.probe")


def _check(work: Work) -> Checked:
    began_s = time.monotonic()
    probe = probe_of(work.edits)
    found = probe.examine(work.cases, everything=work.everything)
    noticed = next((index for index, text in enumerate(found) if probe.noticed(text)), None)
    return Checked(tuple(found), noticed, time.monotonic() - began_s)
