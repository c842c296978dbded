"""The services of one machine: they run or they do not."""

from collections.abc import Callable

NAMES = ("iscsi", "nfs", "smb")


class ServiceError(Exception):
    """There is no such service."""


class Services:
    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._running = dict.fromkeys(NAMES, False)

    def states(self) -> dict[str, bool]:
        return dict(self._running)

    def switch(self, name: str, running: bool) -> None:
        """Start or stop. Raises ServiceError."""
        if name not in self._running:
            raise ServiceError(f"there is no service {name!r}; known: {', '.join(NAMES)}")
        self._running[name] = running
        self._on_change()
