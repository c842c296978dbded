"""The stand-in server on TCP, and a reference for the server's half of SCRAM."""

from collections.abc import Iterator

import pytest
from support.standin_server import StandIn


@pytest.fixture
def server() -> Iterator[StandIn]:
    with StandIn() as standin:
        standin.trusted = True
        yield standin
