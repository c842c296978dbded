"""The keys of encrypted datasets, held in memory by both controllers and nowhere else; pure.

Each entry says when it was given, so that both rings become the same whoever missed what: the later word counts, and
"forget it" is a word too.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from middlewared.errors import invalid

DATASETS_MAX = 1024


@dataclass(frozen=True, slots=True)
class Entry:
    """What was said about a dataset's key, and when (ms since the epoch, by the clock of who was told)."""

    given_ms: int
    key: str | None = field(repr=False)  # None: it was taken back


class KeyRing:
    """Keys by dataset. It shows names only, in whatever is printed of it."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}

    def __repr__(self) -> str:
        return f"KeyRing({sorted(self._entries)})"

    @property
    def keys(self) -> Mapping[str, str]:
        return {name: entry.key for name, entry in self._entries.items() if entry.key is not None}

    def put(self, dataset: str, key: str | None, now_ms: int) -> None:
        """The last word on a key, whatever the clocks say. Raises ValidationErrors when there are too many."""
        before = self._entries.get(dataset)
        self._keep(dataset, Entry(now_ms if before is None else max(now_ms, before.given_ms + 1), key))

    def merge(self, rows: Iterable[Mapping[str, Any]]) -> bool:
        """Take over what the other controller knows better; whether anything is new."""
        news = False
        for row in rows:
            before = self._entries.get(row["dataset"])
            if before is None or before.given_ms < row["given_ms"]:
                self._keep(row["dataset"], Entry(row["given_ms"], row["key"]))
                news = True
        return news

    def _keep(self, dataset: str, entry: Entry) -> None:
        if dataset not in self._entries and len(self._entries) >= DATASETS_MAX:
            raise invalid("dataset", f"Keys of more than {DATASETS_MAX} datasets are not kept")
        self._entries[dataset] = entry

    def to_wire(self) -> Sequence[Mapping[str, Any]]:
        """For the other controller alone, over the link that both have authenticated."""
        return [
            {"dataset": name, "key": entry.key, "given_ms": entry.given_ms} for name, entry in self._entries.items()
        ]
