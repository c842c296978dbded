"""Alerts for datasets that stay shut, and for keys that the other controller does not have."""

import asyncio
import logging

from middlewared.plugin import Context
from middlewared.plugins.pool.keys import KeyRing
from middlewared.ports import Dataset, PortError

log = logging.getLogger(__name__)

_LOCKED = "pool.dataset.locked."
_UNMOUNTED = "pool.dataset.unmounted."
_PEER = "pool.dataset.keys"


class DatasetWatcher:
    """Looks whenever the pools change, once however many changes arrive meanwhile."""

    def __init__(self, context: Context, ring: KeyRing) -> None:
        self._context = context
        self._ring = ring
        self._node = context.settings.node
        self._looking: asyncio.Task[None] | None = None
        self._stale = False

    def start(self) -> None:
        self._context.ports.pools.on_change(self.look)
        self.look()

    async def stop(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    def look(self) -> None:
        self._stale = True
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._look_while_stale())

    def peer_lacks_keys(self, why: str) -> None:
        """Empty: it has them all."""
        if not why:
            self._context.alerts.clear(_PEER)
            return
        text = (
            f"The other controller did not get the keys of encrypted datasets: {why}. If it takes over, those datasets "
            "stay locked there. It gets them as soon as it can be reached."
        )
        self._context.alerts.set(_PEER, "WARNING", text, self._node)

    async def _look_while_stale(self) -> None:
        while self._stale:
            self._stale = False
            try:
                datasets = await self._context.ports.pools.datasets()
            except PortError as error:
                log.warning("datasets cannot be listed: %s", error)
                continue
            locked = {dataset.name: self._locked(dataset) for dataset in datasets if dataset.locked and dataset.has_key}
            unmounted = {dataset.name: _unmounted(dataset) for dataset in datasets if dataset.unmounted}
            self._set(_LOCKED, locked)
            self._set(_UNMOUNTED, unmounted)

    def _set(self, prefix: str, texts: dict[str, str]) -> None:
        self._context.alerts.clear_except(prefix, [prefix + name for name in texts])
        for name, text in texts.items():
            self._context.alerts.set(prefix + name, "CRITICAL", text, self._node)

    def _locked(self, dataset: Dataset) -> str:
        """Why it is locked, and what to do."""
        if dataset.name in self._ring.keys:
            what = "the key that is kept for it does not open it"
        elif dataset.key_location == "prompt":
            what = "nobody has given its key since the controllers started"
        else:
            what = f"its key could not be read from {dataset.key_location}"
        return f"Dataset {dataset.name} is locked: {what}. Give the key: `storage pool dataset unlock {dataset.name}`."


def _unmounted(dataset: Dataset) -> str:
    return f"Dataset {dataset.name} should be mounted and is not: `zfs mount {dataset.name}` says why."
