"""Two whole controllers in one process, in virtual time, from one seed: `python -m tests.simulator --help`."""

import asyncio
from pathlib import Path
from typing import Any

from middlewared import lines
from tests.simulator.loop import VirtualLoop

_listening = lines.listening


def _listen(path: Path) -> Any:
    """The one real socket outside the event loop: in a simulated loop the path alone is enough."""
    return path if isinstance(asyncio._get_running_loop(), VirtualLoop) else _listening(path)


lines.listening = _listen
