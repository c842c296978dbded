"""The pair's links in the store, in up to three generations: STAGED, COMMITTED and PREVIOUS.

`create`, `update` and `delete` make a STAGED one. A commit makes it the COMMITTED one, and keeps what was before as
PREVIOUS, with a deadline. Somebody checks in: PREVIOUS goes. Nobody does: it is COMMITTED again. Which one a controller
follows can be read off the store and the clock alone, also by a standby that nobody reaches any more.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from middlewared.plugins.interface.links import Links, from_text, to_text
from middlewared.store.database import Transaction

_PUT = """
INSERT INTO interface_links (generation, links, deadline_ms) VALUES (?, ?, ?)
ON CONFLICT (generation) DO UPDATE SET links = excluded.links, deadline_ms = excluded.deadline_ms
"""


@dataclass(frozen=True, slots=True)
class Generations:
    """`staged` None: nothing waits to be committed. `previous` None: nothing waits for a check-in."""

    committed: Links
    staged: Links | None = None
    previous: Links | None = None
    deadline_ms: int | None = None  # UTC, since the epoch; of previous

    @property
    def newest(self) -> Links:
        """What the next change is made to."""
        return self.committed if self.staged is None else self.staged

    def effective(self, *, overdue: bool) -> Links:
        """What the controllers have to follow; `overdue`: the deadline has passed."""
        return self.previous if self.previous is not None and overdue else self.committed


def read(select: Callable[[str], list[dict[str, Any]]]) -> Generations:
    rows = {row["generation"]: row for row in select("SELECT generation, links, deadline_ms FROM interface_links")}
    links = {generation: from_text(row["links"]) for generation, row in rows.items()}
    return Generations(
        committed=links["COMMITTED"],
        staged=links.get("STAGED"),
        previous=links.get("PREVIOUS"),
        deadline_ms=rows["PREVIOUS"]["deadline_ms"] if "PREVIOUS" in rows else None,
    )


def stage(transaction: Transaction, links: Links) -> None:
    """This is to be committed next; nothing is, when it is what is committed already."""
    if links == read(transaction.execute).committed:
        _delete(transaction, "STAGED")
    else:
        transaction.execute(_PUT, ("STAGED", to_text(links), None))


def discard(transaction: Transaction) -> None:
    """Nothing is staged any more."""
    _delete(transaction, "STAGED")


def commit(transaction: Transaction, deadline_ms: int) -> None:
    """What is staged holds from now on; what held until now comes back at the deadline."""
    now = read(transaction.execute)
    transaction.execute(_PUT, ("PREVIOUS", to_text(now.committed), deadline_ms))
    _put_committed(transaction, now.newest)
    _delete(transaction, "STAGED")


def check_in(transaction: Transaction) -> None:
    """What is committed stays."""
    _delete(transaction, "PREVIOUS")


def go_back(transaction: Transaction, *, keep_staged: bool = False) -> None:
    """What was before the last commit holds again. `keep_staged`: what was committed may be mended and tried again."""
    now = read(transaction.execute)
    if now.previous is None:
        return
    if keep_staged and now.staged is None:
        transaction.execute(_PUT, ("STAGED", to_text(now.committed), None))
    _put_committed(transaction, now.previous)
    _delete(transaction, "PREVIOUS")


def _put_committed(transaction: Transaction, links: Links) -> None:
    before = read(transaction.execute).committed
    gone = {name for name, link in before.items() if link.kind != "PHYSICAL" and name not in links}
    transaction.execute(_PUT, ("COMMITTED", to_text(links), None))
    for row in transaction.execute("SELECT name FROM interface_config"):
        name = row["name"]
        own = {node: own for node, own in links[name].own.items() if own is not None} if name in links else {}
        transaction.execute("UPDATE interface_config SET own_aliases = ? WHERE name = ?", (json.dumps(own), name))
        if name in gone:  # of a virtual interface nothing is left to fail over
            transaction.execute(
                "DELETE FROM interface_config WHERE name = ? AND critical = 0 AND virtual_aliases = '[]'"
                " AND description = ''",
                (name,),
            )


def _delete(transaction: Transaction, generation: str) -> None:
    transaction.execute("DELETE FROM interface_links WHERE generation = ?", (generation,))
