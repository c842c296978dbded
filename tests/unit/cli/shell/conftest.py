"""The shell in a pseudo-terminal, against the stand-in server of the folder above."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.standin_server import StandIn
from support.terminal import Terminal

Start = Callable[..., Terminal]


@pytest.fixture
def start(server: StandIn, tmp_path: Path) -> Iterator[Start]:
    """`start("watch")`: midctl with these words, on a terminal of its own."""
    with ExitStack() as terminals:

        def start(*words: str, **options: object) -> Terminal:
            environment = {"XDG_STATE_HOME": str(tmp_path / "state"), **options.pop("environment", {})}  # type: ignore[dict-item]  # ours
            return terminals.enter_context(Terminal("--url", server.url, *words, environment=environment, **options))  # type: ignore[arg-type]  # passed on

        yield start


@pytest.fixture
def shell(start: Start) -> Terminal:
    """The shell, once its prompt and status line are there."""
    terminal = start()
    terminal.shows("failover works", "[nodea]>")
    return terminal
